"""A C++ file, compiled for this processor on first use (a second or two) and kept.

A plain shared library called through ctypes: no build system and no header of PyTorch's, so any C++ compiler will do.
$WINGSPAN_COMPILER names the compiler, or "none".
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from wingspan.caches import cache_folder

_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-std=c++17", "-shared", "-fPIC")


class UnavailableError(Exception):
    """A source cannot be compiled or loaded here; the text says why."""


def library(source: Path) -> ctypes.CDLL:
    """The compiled `source`. Raises UnavailableError, every time alike, where there is none to be had."""
    found = _attempt(source)
    if isinstance(found, UnavailableError):
        raise UnavailableError(str(found))
    return found


@functools.cache
def _attempt(source: Path) -> ctypes.CDLL | UnavailableError:
    try:
        return _loaded(source)
    except UnavailableError as error:
        return error


def _loaded(source: Path) -> ctypes.CDLL:
    if os.environ.get("WINGSPAN_COMPILER") == "none":
        raise UnavailableError("WINGSPAN_COMPILER is 'none'")
    compiler = os.environ.get("WINGSPAN_COMPILER") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        raise UnavailableError("no C++ compiler is on PATH (Debian: apt install g++)")
    kept = cache_folder() / f"{source.stem.lstrip('_')}-{_identity(source, compiler)}.so"
    try:
        return ctypes.CDLL(str(kept))
    except OSError:  # absent, or damaged
        pass
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return _compiled(source, compiler, kept)
    except OSError:  # a cache that cannot be written must not cost the speed
        return _compiled(source, compiler, Path(tempfile.mkdtemp(prefix="wingspan-")) / kept.name)


def _identity(source: Path, compiler: str) -> str:
    """Names source, flags, compiler, processor and PyTorch: a home may be shared by machines that differ."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    parts = (source.read_text(), *_FLAGS, compiler, platform.machine(), platform.processor(), flags, torch.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiled(source: Path, compiler: str, to: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:  # renamed when whole: several processes may compile at once
        made = Path(folder) / to.name
        words = [compiler, *_FLAGS, str(source), "-o", str(made), *_openmp()]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UnavailableError(f"{compiler} cannot be run: {error.strerror}") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnavailableError(f"{compiler} cannot compile {source.name} ({said})")
        made.replace(to)
    try:
        return ctypes.CDLL(str(to))
    except OSError as error:
        raise UnavailableError(f"{to.name} cannot be loaded: {error}") from error


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library: a second one would have threads of its own, fighting over the same cores."""
    own = [
        *Path(torch.__file__).parent.glob("lib/libgomp*.so*"),
        *Path(torch.__file__).parents[1].glob("torch.libs/libgomp*.so*"),
    ]
    return [str(own[0])] if own else []
