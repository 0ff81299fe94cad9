"""Compiling a source once, and what happens where that cannot be done."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from wingspan import compiled

COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("WINGSPAN_COMPILER", raising=False)
    return tmp_path / "kept"


def written(folder: Path, answer: object = 42, name: str = "_answer.cpp") -> Path:
    source = folder / name
    source.write_text(f'extern "C" int answer() {{ return {answer}; }}')
    return source


@needs_compiler
def test_a_source_is_compiled_once_and_kept_under_its_name(tmp_path: Path, cache: Path) -> None:
    source = written(tmp_path)
    assert compiled.library(source).answer() == 42
    (kept,) = cache.iterdir()
    assert kept.name.startswith("answer-") and kept.suffix == ".so"
    made = kept.stat()
    assert compiled._loaded(source).answer() == 42  # as another process would
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert compiled.library(source) is compiled.library(source)


@needs_compiler
def test_another_text_is_another_library(tmp_path: Path, cache: Path) -> None:
    assert compiled._loaded(written(tmp_path, 1)).answer() == 1
    assert compiled._loaded(written(tmp_path, 2)).answer() == 2
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_a_damaged_library_is_made_again(tmp_path: Path, cache: Path) -> None:
    source = written(tmp_path)
    cache.mkdir()
    kept = cache / f"answer-{compiled._identity(source, str(COMPILER))}.so"
    kept.write_bytes(b"damaged")
    assert compiled.library(source).answer() == 42
    assert list(cache.iterdir()) == [kept] and kept.stat().st_size > 1000


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file, no folder")
    assert compiled.library(written(tmp_path)).answer() == 42


@needs_compiler
def test_what_the_compiler_says_is_told_every_time_and_nothing_is_left(tmp_path: Path, cache: Path) -> None:
    source = written(tmp_path, "unheard_of")
    for _ in range(2):
        with pytest.raises(compiled.UnavailableError, match=r"cannot compile _answer.cpp \(.+\)"):
            compiled.library(source)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("compiler", "why"),
    [("none", "WINGSPAN_COMPILER is 'none'"), ("/absent/g++", "/absent/g.. cannot be run"), (sys.executable, "cannot compile")],
)
def test_without_a_compiler(compiler: str, why: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGSPAN_COMPILER", compiler)
    with pytest.raises(compiled.UnavailableError, match=why):
        compiled.library(written(tmp_path))


def test_nothing_on_the_path(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compiled.UnavailableError, match=r"no C\+\+ compiler is on PATH"):
        compiled.library(written(tmp_path))
