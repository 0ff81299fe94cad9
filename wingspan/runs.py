"""A run's folder: what is in it, and how it is written so that a kill at any moment loses nothing.

RUN/run.json            the run as a typed value, with its fingerprint
RUN/provenance.json     versions, machine, command of every sitting
RUN/metrics.jsonl       one line a step
RUN/checkpoints/step-000000123/   weights (safetensors), optimiser, online probe, state.json; complete or absent. The one before
                        stays until the next is whole: two on the disk, three for the moment that a new one is written
RUN/results/            what measures found, one file each
RUN/job.json, outcome.json   on Slurm: the job it was submitted as, and what became of it (`jobs`)
RUN/done.json           present once training has finished
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from wingspan.errors import UserError
from wingspan.progress import tell
from wingspan.provenance import provenance

T = TypeVar("T")
_BY_THE_HOLDER = ("run.json", "provenance.json", "metrics.jsonl", "done.json", "store.json")  # of the lock, and nobody else
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, None)  # None: what a library made of the system's error


class DamagedError(UserError):
    """A file of a run that is cut, overwritten or gone: what was written before it may still be whole."""


@contextlib.contextmanager
def explained(path: Path, need: int = 0) -> Iterator[None]:
    """Turn what the operating system refuses (full disk, no permission, read-only) into a message that names the place.

    need: bytes that were to be written, told beside those that are free when there is no room for them.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        room = _room(path, need) if need and error.errno in _NO_ROOM else ""
        raise UserError(
            f"cannot write {path}: {reason}.{room} Free or choose another place (--out); what was saved before is intact."
        ) from error


def _room(path: Path, need: int) -> str:
    place = next(each for each in (path, *path.absolute().parents) if each.exists())
    return f" {_size(need)} are needed there, {_size(shutil.disk_usage(place).free)} are free."


def _size(count: int) -> str:
    """Bytes as a person says them: 312 bytes, 1.2 MB, 3.4 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside, flush to disk, rename: the file is the old one or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path, len(data)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)  # a link of that name, put there by someone, would be written through
            with beside.open("xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable by people."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for, at any depth of dicts and lists."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError naming a file that cannot be read, DamagedError one that is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DamagedError(f"{path} does not exist: is {path.parent} a run's folder?") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Is {path.parent} a run's folder?") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}).") from error


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and the operations on them that must survive a kill."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def finished(self) -> Path:
        return self.path / "done.json"

    def done(self) -> bool:
        return self.finished.exists()

    def started(self) -> bool:
        return self.spec.exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process; the system lets go of it however that process ends.

        Raises UserError when another process holds it.
        """
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{self.path} is in use by another process: wait for it, or choose another --out.") from error
            self._sweep()
            yield

    def held(self) -> bool:
        """Whether a process on this machine, or on another where the file system's locks reach it, holds the folder."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _sweep(self) -> None:
        """Remove what a kill left half made or half removed. For the lock's holder."""
        for name in _BY_THE_HOLDER:
            for left in self.path.glob(f".{name}.*.part"):
                left.unlink(missing_ok=True)
        for end in ("part", "gone"):
            for left in (self.path / "checkpoints").glob(f".step-*.{end}"):
                shutil.rmtree(left, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- checkpoints

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first. An unfinished one has another name, so what is listed is whole."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(each for each in found if re.fullmatch(r"step-\d{9,}", each.name) and each.is_dir())

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, if there is one."""
        return self.path / "checkpoints" / f"step-{step:09d}"

    @contextlib.contextmanager
    def new_checkpoint(self, step: int, need: int = 0) -> Iterator[Path]:
        """A folder to fill; it gets its name only when everything in it has reached the disk, and every line of the log before.

        need: bytes it will take, told when there is no room for them.
        """
        final = self.checkpoint(step)
        beside = final.with_name(f".{final.name}.part")
        with explained(final, need):
            try:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                yield beside
                for file in [*beside.iterdir(), beside, *([self.metrics] if self.metrics.exists() else [])]:
                    flush(file)
                if not final.exists():
                    beside.rename(final)
                    flush(final.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def restore(self, read: Callable[[Path], T], last: Path) -> T:
        """What `read` makes of the checkpoint `last`, or, where it raises DamagedError, of the newest before that is whole: a
        warning names the damaged file, and its checkpoint is set aside, to be removed once another is written.

        For the lock's holder. Raises UserError when no checkpoint is whole; then all stay as they are.
        """
        damaged: list[tuple[Path, DamagedError]] = []
        for checkpoint in [last, *(each for each in reversed(self.checkpoints()) if each.name < last.name)]:
            try:
                found = read(checkpoint)
            except DamagedError as error:
                damaged.append((checkpoint, error))
                continue
            for broken, why in damaged:
                with explained(broken):
                    broken.rename(broken.with_name(f".{broken.name}.damaged"))
                tell([f"warning: {why} Going on from {checkpoint.name}, the checkpoint before it."])
            return found
        raise UserError(f"{damaged[0][1]} No earlier checkpoint is whole. Remove {last.parent} to begin anew.")

    def forget_checkpoints(self, keep: set[str], newest: int = 2) -> None:
        """Remove all but the `newest` checkpoints and the named ones. Renamed first, so that a kill leaves no half one."""
        for old in self.checkpoints()[:-newest]:
            if old.name not in keep:
                gone = old.with_name(f".{old.name}.gone")
                with contextlib.suppress(OSError):
                    old.rename(gone)
        for left in (self.path / "checkpoints").glob(".step-*"):  # of kills in the middle of writing or removing, too
            shutil.rmtree(left, ignore_errors=True)

    # ----------------------------------------------------------------------------------------------------------- metrics

    def open_metrics(self, step: int) -> IO[bytes]:
        """The metrics file, ready to append after `step`; lines of later steps, which will be made again, are dropped.

        Unbuffered: a line is in the file once written, and closing it on a full disk has nothing left to fail with. A write
        either takes the whole line or raises, UserError where the disk is full.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        with explained(self.metrics):
            return _Lines(self)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All logged steps; a last line cut by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = []
        for text in self.metrics.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return lines

    def add_provenance(self) -> None:
        """Append what this sitting runs with."""
        path = self.path / "provenance.json"
        before = read_json(path) if path.exists() else []
        write_json(path, [*before, provenance()])


class _Lines(io.FileIO):
    """A log to append whole lines to; a message about a full disk tells what the next checkpoint will need, too."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.metrics, "ab")
        self.folder = folder

    def write(self, line: Any, /) -> int:
        try:
            write_whole(super().write, line)
        except OSError:
            saved = [file.stat().st_size for each in self.folder.checkpoints()[-1:] for file in each.iterdir()]
            with explained(self.folder.metrics, len(line) + sum(saved)):
                raise
        return len(line)


def write_whole(write: Callable[[Any], int], data: Any) -> None:
    """All of the bytes to an unbuffered file, which may take a part at a time, and has nothing left to fail with at its end."""
    left = memoryview(data)
    while left:
        left = left[write(left) :]


def flush(path: Path) -> None:
    """Let a file's bytes, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
