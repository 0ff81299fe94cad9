"""Shards: how features become bytes, and how files appear only when they are whole and listed with their checksum.

fp16    rows as they are, little endian: NNNNN.fp16
packed  h > threshold, eight dimensions a byte: NNNNN.bits
sparse  NNNNN.bits says which values are above 0, NNNNN.values holds these in fp16, and NNNNN.starts (rows + 1 int64) where
        every image's begin: nothing is lost, and a representation with nine zeros in ten takes a sixth of the bytes
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from wingspan import bits
from wingspan.errors import UserError
from wingspan.runs import explained, flush, write_atomic
from wingspan.store.manifest import Format

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "fp16": ("fp16",),
    "packed": ("bits",),
    "sparse": ("bits", "values", "starts"),
}
SUMS = "SHA256SUMS"
_VANISHING = 2.0**-25  # the greatest number that fp16 rounds to 0


def name(shard: int, suffix: str) -> str:
    return f"{shard:05d}.{suffix}"


class Listed:
    """A split's folder: its files, and the list of those that are whole. Only one process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sums = read_sums(folder)

    def holds(self, files: Sequence[str]) -> bool:
        return all(file in self.sums for file in files)

    def add(self, found: dict[str, str]) -> None:
        """List finished files (name -> sha256)."""
        self.sums |= found
        lines = "".join(f"{value}  {file}\n" for file, value in sorted(self.sums.items()))
        write_atomic(self.folder / SUMS, lines)

    def forget(self, files: Sequence[str]) -> None:
        """Take files off the list, since they are to be made again."""
        for file in files:
            self.sums.pop(file, None)


def read_sums(folder: Path) -> dict[str, str]:
    """File -> sha256, of every finished file. Empty where there is no list yet. Raises UserError for a damaged list."""
    file = folder / SUMS
    if not file.exists():
        return {}
    found = {}
    for line in file.read_text().splitlines():
        value, gap, listed = line.partition("  ")
        if not gap or len(value) != 64 or listed != Path(listed).name:  # a path would lead out of the folder
            raise UserError(f"{file} is damaged: '{line[:80]}' is no checksum. Remove the file and extract again.")
        found[listed] = value
    return found


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        left = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self.hash.update(left)
        while left:  # an unbuffered file may take a part; it has nothing left to fail with when it is closed
            left = left[self.file.write(left) :]


class ShardWriter:
    """One shard in the making: rows are added in order, then its files get their names."""

    def __init__(self, folder: Path, shard: int, kind: Format, threshold: float, need: int = 0) -> None:
        """need: bytes that are still to come, of this shard and later ones; told when there is no room for them."""
        self.folder, self.kind, self.threshold, self.need = folder, kind, threshold, need
        self.names = [name(shard, suffix) for suffix in SUFFIXES[kind]]
        self._parts = [folder / f".{each}.part" for each in self.names]
        self._counts = [np.zeros(1, np.int64)]
        with explained(folder, need):
            self._files = [_Hashed(part.open("wb", buffering=0)) for part in self._parts]

    def add(self, h: Tensor) -> None:
        """h (n, D) fp16 on the CPU; for packed fp32, or codes (n, ceil(D / 8)) uint8 made elsewhere."""
        with explained(self.folder, self.need):
            if self.kind == "fp16":
                self._files[0].write(h.numpy())
            elif self.kind == "packed":
                self._files[0].write((h if h.dtype == torch.uint8 else codes(h, self.threshold)).numpy())
            else:
                kept = bits.above(h)
                self._files[0].write(np.packbits(kept, axis=1))
                self._files[1].write(h.numpy()[kept])
                self._counts.append(kept.sum(1, dtype=np.int64))

    def finish(self) -> dict[str, str]:
        """Flush, name and give every file's checksum. Raises UserError where the disk is full."""
        with explained(self.folder, self.need):
            if self.kind == "sparse":
                self._files[2].write(np.cumsum(np.concatenate(self._counts)))
            for each in self._files:
                os.fsync(each.file.fileno())
                each.file.close()
            for part, final in zip(self._parts, self.names, strict=True):
                part.replace(self.folder / final)
            flush(self.folder)
        return {final: each.hash.hexdigest() for final, each in zip(self.names, self._files, strict=True)}

    def drop(self) -> None:
        """Give up what is not finished."""
        for each, part in zip(self._files, self._parts, strict=True):
            each.file.close()
            part.unlink(missing_ok=True)


def codes(h: Tensor, threshold: float = 0.0) -> Tensor:
    """h (n, D) in fp16 or fp32 on the CPU -> whether h, rounded to fp16, lies above the threshold: (n, ceil(D / 8)) uint8."""
    if threshold:
        return bits.pack(h.half() > threshold)
    if h.dtype == torch.float32:  # without making the halves
        return torch.from_numpy(np.packbits(h.numpy() > _VANISHING, axis=1))
    return bits.pack(h)


def codes_on_device(h: Tensor, threshold: float = 0.0) -> Tensor:
    """The same where h lies on a GPU, so that a sixteenth of it travels."""
    n, D = h.shape
    above = torch.nn.functional.pad(h.half() > threshold, (0, -D % 8)).view(n, -1, 8).to(torch.uint8)
    weights = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=h.device)
    return (above * weights).sum(2, dtype=torch.uint8)


def checksum(file: Path) -> str:
    """sha256 of a file, as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
