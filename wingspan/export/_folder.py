"""A folder that is whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import safetensors

from wingspan.errors import UserError
from wingspan.runs import explained, flush, read_json

MARK = "export.json"


@contextlib.contextmanager
def appearing(out: Path, fingerprint: str) -> Iterator[Path]:
    """A folder to fill, which gets the name `out` when all that was put into it has reached the disk.

    Raises UserError when something else than a former export of the same run lies there, or when the disk is full; then
    nothing is left, and what was there before is as it was.
    """
    check_free(out, fingerprint)
    new_parent = not out.parent.exists()
    beside, old = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    with explained(out):
        try:
            beside.mkdir(parents=True)
            try:
                yield beside
            except safetensors.SafetensorError as error:  # what it makes of a full disk
                raise OSError(f"{error} (is the disk full?)") from error
            for file in [*beside.rglob("*"), beside]:
                flush(file)
            if out.exists():
                out.rename(old)
            beside.rename(out)
            flush(out.parent)
        finally:
            if old.exists() and not out.exists():
                old.rename(out)
            for left in (beside, old):
                shutil.rmtree(left, ignore_errors=True)
            if new_parent:
                with contextlib.suppress(OSError):  # not empty: the export is in it
                    out.parent.rmdir()


def check_free(out: Path, fingerprint: str) -> None:
    """Raise UserError unless nothing, an empty folder, or a former export of this run is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if (out / MARK).is_file() and read_json(out / MARK).get("run") == fingerprint:
        return
    raise UserError(f"--out {out} is there already and is no export of this run: choose another place.")
