"""A run's folder: what is in it, and how it is written so that a kill at any moment loses nothing.

RUN/run.json            the run as a typed value, with its fingerprint
RUN/provenance.json     versions, machine, command of every sitting
RUN/metrics.jsonl       one line a step
RUN/checkpoints/step-000000123/   weights (safetensors), optimiser, online probe, state.json; complete or absent
RUN/results/            what measures found, one file each
RUN/done.json           present once training has finished
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from wingspan.errors import UserError


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses (full disk, no permission, read-only) into a message that names the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}. Free or choose another place (--out); what was saved before is intact."
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside, flush to disk, rename: the file is the old one or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
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
    """Read a JSON file. Raises UserError naming a file that is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: is {path.parent} a run's folder?") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Is {path.parent} a run's folder?") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}).") from error


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
            file = (self.path / ".lock").open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{self.path} is in use by another process: wait for it, or choose another --out.") from error
            yield

    # ------------------------------------------------------------------------------------------------------- checkpoints

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first. An unfinished one has another name, so what is listed is whole."""
        return sorted((self.path / "checkpoints").glob("step-*"))

    @contextlib.contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to fill; it gets its name only when everything in it has reached the disk."""
        final = self.path / "checkpoints" / f"step-{step:09d}"
        beside = final.with_name(f".{final.name}.part")
        with explained(final):
            try:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                yield beside
                for file in [*beside.iterdir(), beside]:
                    flush(file)
                if not final.exists():
                    beside.rename(final)
                    flush(final.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def forget_checkpoints(self, keep: set[str]) -> None:
        """Remove all but the newest checkpoint and the named ones. Renamed first, so that a kill leaves no half one."""
        for old in self.checkpoints()[:-1]:
            if old.name not in keep:
                gone = old.with_name(f".{old.name}.gone")
                with contextlib.suppress(OSError):
                    old.rename(gone)
        for left in (self.path / "checkpoints").glob(".step-*"):  # of kills in the middle of writing or removing, too
            shutil.rmtree(left, ignore_errors=True)

    # ----------------------------------------------------------------------------------------------------------- metrics

    def open_metrics(self, step: int) -> IO[bytes]:
        """The metrics file, ready to append after `step`; lines of later steps, which will be made again, are dropped.

        Unbuffered: a line is in the file once written, and closing it on a full disk has nothing left to fail with.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        with explained(self.metrics):
            return self.metrics.open("ab", buffering=0)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All logged steps; a last line cut by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = []
        for text in self.metrics.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return lines

    def add_provenance(self) -> None:
        """Append what this sitting runs with."""
        path = self.path / "provenance.json"
        before = read_json(path) if path.exists() else []
        write_json(path, [*before, provenance()])


def flush(path: Path) -> None:
    """Let a file's bytes, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def provenance() -> dict[str, str]:
    """What produced a result: command, time, versions, revision of the code, machine."""
    names = ("wingspan", "torch", "lightning-fabric", "datasets", "numpy")
    found = {name: metadata.version(name) for name in names}
    revision = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "command": " ".join(["wingspan", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        **found,
        "revision": revision.stdout.strip() or "unknown",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
