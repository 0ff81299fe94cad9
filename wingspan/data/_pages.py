"""A packed set as it lies on disk, and how it is read: what `wingspan pack` writes (`_packing.py`).

packed.json         written last: side, fit, target, source, and of every split how many images
SPLIT.u8            pixels (n, 3, S, S) uint8 without a header
SPLIT.chunks.jsonl  of every stretch of it, in order: images, SHA-256, what could not be decoded; before these, what is packed
SPLIT.parquet       a row an image: where it came from, classes, numbers

packing.json stands in place of packed.json until all is there.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wingspan import spec
from wingspan.data._decode import Fit, Pixels
from wingspan.data._source import Splits, Table
from wingspan.errors import UserError

FORMAT = 1
WHOLE, BEGUN = "packed.json", "packing.json"


@dataclass(frozen=True)
class Packing:
    """What a packed set is: equal for the sittings of one command."""

    side: int
    """Height = width in pixels."""
    fit: Fit
    """What was done about pictures that were not square."""
    name: str
    """How tables call the set."""
    source: Mapping[str, Any]
    """The set it was made from, as JSON."""
    decoder: str
    """What made pixels of pictures."""
    splits: tuple[str, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Part:
    """One split of a set that is whole."""

    images: int
    target: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """packed.json."""

    packing: Packing
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Pages:
    """Images in a memory-mapped file; fetching copies them. Image i is the file's image `rows[i]`."""

    held: mmap.mmap
    pixels: Pixels  # (M, 3, S, S), the mapping
    rows: npt.NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        return int(self.pixels.shape[-1])

    def batch(self, indices: Tensor) -> Tensor:
        """indices (n,) int64 -> (n, 3, side, side) uint8."""
        rows = self.rows[indices.numpy()]
        size = 3 * self.side**2
        for row in rows.tolist():  # all are asked of the disk before the first is waited for
            start = row * size // mmap.PAGESIZE * mmap.PAGESIZE
            self.held.madvise(mmap.MADV_WILLNEED, start, (row + 1) * size - start)
        return torch.from_numpy(self.pixels[rows])

    def take(self, rows: npt.NDArray[np.int64]) -> Pages:
        """The images at `rows`."""
        return replace(self, rows=self.rows[rows])


def is_packed(path: Path) -> bool:
    """Whether a packed set lies here. Raises UserError where one was begun and is not whole."""
    if (path / WHOLE).is_file():
        return True
    if (path / BEGUN).is_file():
        raise UserError(f"'{path}' is packed in part only: give the wingspan pack command that began it again.")
    return False


def read_manifest(path: Path) -> Manifest:
    """packed.json. Raises UserError for a damaged one and for one of a later release."""
    try:
        value = json.loads((path / WHOLE).read_text())
        later = value["packing"]["format"] > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path / WHOLE}' is damaged ({error}). Remove the folder and pack again.") from error
    if later:
        raise UserError(f"'{path}' was packed by a later release of Wingspan: update, or pack again.")
    return spec.from_json(Manifest, value, f"'{path / WHOLE}'")


def pages(path: Path, split: str, about: Manifest) -> Pages:
    """A split's pixels. Raises UserError when the file is missing or its size is not the one recorded."""
    file, shape = path / f"{split}.u8", (about.parts[split].images, 3, about.packing.side, about.packing.side)
    try:
        found, wanted = file.stat().st_size, int(np.prod(shape))
        if found != wanted or not wanted:
            raise UserError(f"'{file}' holds {found:,} bytes and not {wanted:,}: it was cut. Remove '{path}' and pack again.")
        with file.open("rb") as opened:
            held = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}. Pack again into another folder.") from error
    return Pages(held, np.frombuffer(held, np.uint8).reshape(shape), np.arange(shape[0]))


def packed_splits(path: Path) -> tuple[Splits, tuple[str, ...]]:
    """The splits of a packed set as those of a Parquet folder, their pixels beside them, and notes."""
    about = read_manifest(path)
    splits = {split: lambda split=split: _table(path, split, about) for split in about.parts}
    return splits, tuple(f"'{split}': {note}" for split, part in about.parts.items() for note in part.notes)


def _table(path: Path, split: str, about: Manifest) -> Table:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / f"{split}.parquet"
    try:
        rows = datasets.Dataset(pq.ParquetFile(file).read())
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"cannot read '{file}': {error}. Remove '{path}' and pack again.") from error
    held = pages(path, split, about)
    if len(rows) != len(held):
        raise UserError(f"'{file}' has {len(rows)} rows for {len(held)} images. Remove '{path}' and pack again.")
    return Table(rows, lambda row: f"row {row} of '{file}'", "", held, about.parts[split].target or "")


# ------------------------------------------------------------------------------------------------------------- checksums


@dataclass(frozen=True)
class Chunk:
    """A stretch of a split: how many images lie in the file, which of the source's could not be decoded, and a checksum."""

    taken: int  # images of the source
    images: int  # images in the file
    sha256: str
    bad: tuple[tuple[int, str], ...] = ()  # position in the source, and why


def read_chunks(file: Path) -> tuple[dict[str, Any], list[Chunk]]:
    """A split's first line and its chunks; a last line that a kill cut is left out, nothing there is ({}, [])."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
        if not lines:
            return {}, []
        return json.loads(lines[0]), [spec.from_json(Chunk, json.loads(line)) for line in lines[1:]]
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"'{file}' is damaged ({error}). Remove '{file.parent}' and pack again.") from error


def damaged(path: Path) -> Iterator[str]:
    """What is not as it was written: every byte of a packed set is read and compared with its checksum."""
    about = read_manifest(path)
    for split, part in about.parts.items():
        _, chunks = read_chunks(path / f"{split}.chunks.jsonl")
        if sum(chunk.images for chunk in chunks) != part.images:
            yield f"{split}.chunks.jsonl: {sum(chunk.images for chunk in chunks):,} images listed, {part.images:,} packed"
        pages(path, split, about)  # whether it is there, and as long as it should be
        with (path / f"{split}.u8").open("rb") as file:
            first = 0
            for chunk in chunks:
                if not same(file, chunk, about.packing.side):
                    yield f"{split}.u8: images {first:,} to {first + chunk.images - 1:,}"
                first += chunk.images


def same(file: BinaryIO, chunk: Chunk, side: int) -> bool:
    """Whether the next bytes of a file are a chunk's."""
    return hashlib.sha256(file.read(chunk.images * 3 * side**2)).hexdigest() == chunk.sha256
