"""Images decoded once into a memory-mapped file, which several runs share.

`<key>.u8` holds the images that could be decoded, (n, 3, S, S) uint8 without a header; `<key>.json` beside it the shape
and the broken rows. The key is a hash of the encoded bytes, the side, how pictures are made square and the decoder's
version, so a changed picture is a changed key. The folder may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor

from wingspan.data._decode import VERSION, Pixels
from wingspan.data._encoded import Bad, Encoded, ordered
from wingspan.data.base import Images, InMemory
from wingspan.errors import UserError

IN_MEMORY = 2e9  # bytes: what is held in memory without asking when the folder cannot be written


@dataclass(frozen=True)
class Mapped:
    """Images in a memory-mapped file; fetching copies."""

    pixels: Pixels  # (N, 3, S, S)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        return int(self.pixels.shape[-1])

    def batch(self, indices: Tensor) -> Tensor:
        # numpy copies whole images in this thread; torch's threads, waiting for each other on a busy machine, took ten times
        # as long for 512 images of 32 x 32.
        return torch.from_numpy(self.pixels[indices.numpy()])


@dataclass(frozen=True)
class Decoded:
    """The images that could be decoded, in order, and the positions of those that could not."""

    images: Images
    bad: tuple[Bad, ...]
    notes: tuple[str, ...] = ()


def size_decoded(encoded: Encoded) -> int:
    """Bytes that all images take when decoded."""
    return len(encoded) * 3 * encoded.side**2


def decode_once(encoded: Encoded, folder: Path) -> Decoded:
    """All images from the cache file, which is made when it is missing, truncated or does not match.

    When the folder cannot be written, images that fit into 2 GB are held in memory and a note says so; more is a
    UserError.
    """
    data = folder / f"{_content(encoded)}.u8"
    try:
        if found := _read(data, encoded):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(data.with_suffix(".lock")):  # ranks and runs that start together: one decodes, the others wait
            if not _read(data, encoded):
                _write(data, encoded)
        if found := _read(data, encoded):
            return found
        raise OSError(errno.EIO, "what was written reads back differently")
    except OSError as error:
        why = f"cannot write the cache folder '{folder}' ({error.strerror or error})"
    need = size_decoded(encoded)
    if need > IN_MEMORY:
        raise UserError(f"{why}: {need / 1e9:.1f} GB are needed. Free some space or name another folder with --data.cache.")
    parts = list(ordered(encoded.attempt, encoded.chunks(), encoded.workers))
    tensor = torch.from_numpy(np.concatenate([good for good, _ in parts]))
    return Decoded(InMemory(tensor), _flat([bad for _, bad in parts]), (f"{why}; the decoded images are held in memory",))


def scan(encoded: Encoded, folder: Path, stamp: str) -> tuple[Bad, ...]:
    """The images that cannot be decoded, by decoding all; kept in a file under `stamp`, the state of the source."""
    rows = hashlib.blake2b(encoded.rows.tobytes(), digest_size=16).hexdigest()
    name = hashlib.blake2b(repr((stamp, rows, encoded.side, VERSION)).encode(), digest_size=16).hexdigest()
    path = folder / f"scan-{name}.json"
    try:
        return tuple((int(row), str(reason)) for row, reason in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    bad = _flat([broken for _, broken in _progress(encoded)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(bad))
    except OSError:
        return bad  # the next run scans again
    return bad


def _flat(parts: Sequence[Sequence[Bad]]) -> tuple[Bad, ...]:
    return tuple(bad for part in parts for bad in part)


def _content(encoded: Encoded) -> str:
    """A hash of every encoded byte, in order, and of what turns them into pixels."""

    def digest(chunk: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bytes:
        made = hashlib.blake2b(digest_size=16)
        for data in encoded.read(chunk):
            made.update(len(data).to_bytes(8, "big") + data)
        return made.digest()

    fit = "" if encoded.fit == "crop" else f" {encoded.fit}"  # files made before there was a choice keep their names
    whole = hashlib.blake2b(f"{len(encoded)} {encoded.side} {VERSION}{fit}".encode(), digest_size=16)
    for part in ordered(digest, encoded.chunks(), encoded.workers):
        whole.update(part)
    return whole.hexdigest()


def _read(data: Path, encoded: Encoded) -> Decoded | None:
    """The cache file, or None unless its size is the one recorded and the record is about these images."""
    try:
        record = json.loads(data.with_suffix(".json").read_text())
        bad = tuple((int(row), str(reason)) for row, reason in record["bad"])
        shape = (len(encoded) - len(bad), 3, encoded.side, encoded.side)
        if record["shape"] != list(shape) or data.stat().st_size != int(np.prod(shape)):
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    if shape[0] == 0:  # an empty file cannot be mapped
        return Decoded(InMemory(torch.empty(shape, dtype=torch.uint8)), bad)
    return Decoded(Mapped(np.asarray(np.memmap(data, np.uint8, mode="r", shape=shape))), bad)


def _write(data: Path, encoded: Encoded) -> None:
    need = size_decoded(encoded)
    if shutil.disk_usage(data.parent).free < need:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {need / 1e9:.1f} GB needed")
    beside = data.with_suffix(".tmp")  # the lock's holder alone writes it
    broken: list[Bad] = []
    try:
        with beside.open("wb") as file:
            for good, bad in _progress(encoded):
                file.write(good.tobytes())
                broken += bad
            file.flush()
            os.fsync(file.fileno())
        beside.replace(data)
    finally:
        beside.unlink(missing_ok=True)
    record = {"shape": [len(encoded) - len(broken), 3, encoded.side, encoded.side], "bad": broken}
    _replace(data.with_suffix(".json"), json.dumps(record))


def _progress(encoded: Encoded) -> Iterator[tuple[Pixels, list[Bad]]]:
    """Decode chunk after chunk; in a terminal a bar shows how far, for sets that take more than a moment."""
    chunks = encoded.chunks()
    results = ordered(encoded.attempt, chunks, encoded.workers)
    console = Console(stderr=True)
    quiet = len(encoded) < 20_000 or not console.is_terminal
    yield from track(results, "decoding images once", len(chunks), console=console, transient=True, disable=quiet)


def _replace(path: Path, text: str) -> None:
    """Write beside, then move: a reader sees the whole text or none."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
