"""What is handed over: the columns that are known of every image, and its features, a block of rows at a time."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from wingspan.errors import UserError
from wingspan.progress import bar
from wingspan.runs import explained, flush
from wingspan.store.manifest import Manifest, row_bytes
from wingspan.store.store import Part

_BLOCK = 2**26  # bytes of fp16 features a block: a thousand rows at D = 32768
_MOST_ROWS = 2**16


@dataclass(frozen=True)
class Column:
    """What is known of every image: numbers, texts, or with `classes` the names that numbers stand for."""

    name: str
    values: Tensor | Sequence[str | None]  # (N,) int64 or float32, or N texts
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Content:
    """One split of a store: N images."""

    part: Part
    manifest: Manifest
    packed: bool  # codes, not h

    def __len__(self) -> int:
        return len(self.part)

    @property
    def width(self) -> int:
        """D."""
        return self.part.width

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's features."""
        return row_bytes("packed" if self.packed else "fp16", self.width)

    @functools.cached_property
    def columns(self) -> list[Column]:
        """`id`, `path` where known, every task's label with `<task>_name` behind it, quantities.

        A name that is taken, `code` and `h` included, gets `_` behind it; case tells no names apart, as in SQL.
        """
        part, found = self.part, [Column("id", self.part.ids)]
        if part.paths is not None:
            found.append(Column("path", part.paths))
        for task, labels in part.labels.items():
            found += [Column(task, labels), Column(f"{task}_name", labels, part.classes[task])]
        found += [Column(name, numbers) for name, numbers in part.quantities.items()]
        named: dict[str, Column] = {}
        for each in found:
            name = each.name
            while name.casefold() in {"code", "h", *named}:
                name += "_"
            named[name.casefold()] = Column(name, each.values, each.classes)
        return list(named.values())

    @property
    def facts(self) -> dict[str, Any]:
        """Where the features come from, for whoever finds the file later."""
        about = self.manifest
        model = {"name": about.model.name, "fingerprint": about.model.fingerprint, "step": about.model.step}
        return {
            "data": about.data.label_name, "split": self.part.split, "rows": len(self), "layer": about.layer,
            "D": self.width, "stored_as": self.part.format, "handed_over": "code" if self.packed else "h",
            "threshold": self.part.threshold, "bit_order": "most significant first",
            "model": {**model, "weights_sha256": about.model.weights},
        }  # fmt: skip

    def blocks(self, label: str) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and their features: codes (n, ceil(D / 8)) uint8 or h (n, D) fp16, in order, with a progress bar."""
        source = self.part.bits if self.packed else self.part.dense
        size = min(_MOST_ROWS, max(1, _BLOCK // (2 * self.width)))
        starts = range(0, len(self), size)
        with bar(label, len(starts), per_unit=min(size, len(self)), things="images") as shown:
            for start in starts:
                at = slice(start, min(start + size, len(self)))
                yield at, source[at]
                shown.advance()


@contextlib.contextmanager
def whole(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Files to write into; they get their names together, when all have reached the disk, or are gone.

    Raises UserError when one exists or cannot be written.
    """
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists and is not written over: choose another --out, or remove it.")
    besides = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in paths]
    with explained(paths[0]), contextlib.ExitStack() as left:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for beside in besides:
            left.callback(beside.unlink, missing_ok=True)
        files: list[IO[bytes]] = []
        for beside in besides:
            # Unbuffered would be slow for short lines; closing behind an error may fail to flush, and has nothing to add then.
            files.append(beside.open("wb"))
            left.push(functools.partial(_closed, files[-1]))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        for beside, path in zip(besides, paths, strict=True):
            beside.rename(path)
        flush(paths[0].parent)


def _closed(file: IO[bytes], kind: object, *rest: object) -> None:
    with contextlib.suppress(*([OSError] if kind else [])):
        file.close()
