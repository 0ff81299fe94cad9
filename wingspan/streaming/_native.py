"""`_kernels.cpp`, compiled for this processor on first use (a second or two) and kept; the same functions as `_plain.py`.

A plain shared library called through ctypes: no build system and no header of PyTorch's, so any C++ compiler will do.
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
from torch import Tensor

from wingspan.caches import cache_folder

_SOURCE = Path(__file__).with_name("_kernels.cpp")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-std=c++17", "-shared", "-fPIC")
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_INT, _THREADS = ctypes.c_int64, ctypes.c_int


class UnavailableError(Exception):
    """The kernels cannot be compiled or loaded here; the text says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises UnavailableError, every time alike, where there are none to be had."""
    if os.environ.get("WINGSPAN_COMPILER") == "none":
        raise UnavailableError("WINGSPAN_COMPILER is 'none'")
    compiler = os.environ.get("WINGSPAN_COMPILER") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        raise UnavailableError("no C++ compiler is on PATH (Debian: apt install g++)")
    kept = cache_folder() / f"kernels-{_identity(compiler)}.so"
    try:
        return ctypes.CDLL(str(kept))
    except OSError:  # absent, or damaged
        pass
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return _compiled(compiler, kept)
    except OSError:  # a cache that cannot be written must not cost the speed
        return _compiled(compiler, Path(tempfile.mkdtemp(prefix="wingspan-")) / kept.name)


def _identity(compiler: str) -> str:
    """Names source, flags, compiler, processor and PyTorch: a home may be shared by machines that differ."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    parts = (_SOURCE.read_text(), *_FLAGS, compiler, platform.machine(), platform.processor(), flags, torch.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiled(compiler: str, to: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:  # renamed when whole: several processes may compile at once
        made = Path(folder) / to.name
        words = [compiler, *_FLAGS, str(_SOURCE), "-o", str(made), *_openmp()]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise UnavailableError(f"{compiler} cannot be run: {error.strerror}") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnavailableError(f"{compiler} cannot compile them ({said})")
        made.replace(to)
    try:
        return ctypes.CDLL(str(to))
    except OSError as error:
        raise UnavailableError(f"they cannot be loaded: {error}") from error


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library: a second one would have threads of its own, fighting over the same cores."""
    own = [
        *Path(torch.__file__).parent.glob("lib/libgomp*.so*"),
        *Path(torch.__file__).parents[1].glob("torch.libs/libgomp*.so*"),
    ]
    return [str(own[0])] if own else []


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _call(name: str, dtype: torch.dtype, *arguments: object) -> None:
    getattr(library(), f"{name}_{_SUFFIX[dtype]}")(*arguments, _THREADS(torch.get_num_threads()))


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    M, c = y.shape
    mean, spread = torch.empty(2, c).unbind()
    _call("moments", y.dtype, _at(y), _INT(M), _INT(c), _at(mean), _at(spread))
    return mean, spread


def gate(
    y: Tensor, second: Tensor | None, scale: Tensor, scale2: Tensor, shift: Tensor, positions: int, pooled: Tensor, keep: bool
) -> Tensor | None:
    (M, c), P = y.shape, positions
    bits = torch.empty(M // P, -(-P // 8), c, dtype=torch.uint8) if keep else None
    _call(
        "gate", y.dtype, _at(y), _at(second), _INT(0 if second is None else second.stride(0)), _at(scale), _at(scale2),
        _at(shift), _INT(M // P), _INT(P), _INT(c), _at(pooled), _INT(pooled.stride(0)), _at(bits),
    )  # fmt: skip
    return bits


def spread_gradient(bits: Tensor, g: Tensor, positions: int, dz: Tensor) -> Tensor:
    N, _, c = bits.shape
    total = torch.empty(c)
    _call(
        "spread_gradient", dz.dtype, _at(bits), _at(g), _INT(g.stride(0)), _INT(N), _INT(positions), _INT(c), _at(dz),
        _INT(dz.stride(0)), _at(total),
    )  # fmt: skip
    return total


def sums(bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    N, _, c = bits.shape
    total, product = torch.empty(2, c).unbind()
    _call(
        "sums", y.dtype, _at(bits), _at(g), _INT(g.stride(0)), _at(y), _at(mean), _INT(N), _INT(positions), _INT(c), _at(total),
        _at(product),
    )  # fmt: skip
    return total, product


def norm_gradient(
    bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, scale: Tensor, middle: Tensor, slope: Tensor, positions: int, out: Tensor
) -> None:
    N, _, c = bits.shape
    _call(
        "norm_gradient", y.dtype, _at(bits), _at(g), _INT(g.stride(0)), _at(y), _at(mean), _at(scale), _at(middle), _at(slope),
        _INT(N), _INT(positions), _INT(c), _at(out),
    )  # fmt: skip


def accumulate(total: Tensor, part: Tensor) -> None:
    _call("accumulate", part.dtype, _at(total), _at(part), _INT(total.numel()))


def weight_gradient(Q: Tensor, GW: Tensor, scale: Tensor, slope: Tensor, out: Tensor) -> None:
    c, K = Q.shape
    _call("weight_gradient", Q.dtype, _at(Q), _at(GW), _at(scale), _at(slope), _INT(c), _INT(K), _at(out))
