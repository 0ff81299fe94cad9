"""Pictures kept as they were written and decoded when asked for, by threads, in a fixed order."""

from __future__ import annotations

import functools
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wingspan.data._decode import BrokenImageError, Fit, Pixels, decode
from wingspan.errors import UserError

A = TypeVar("A")
R = TypeVar("R")
Bad = tuple[int, str]  # position among the images, reason

SKIP = "Mend or remove what is broken, or leave it out with --data.on-bad skip."


@dataclass(frozen=True)
class Encoded:
    """Images decoded on every fetch. Image i is row `rows[i]` of `table`: nothing is drawn, nothing dropped."""

    table: Any  # datasets.Dataset in arrow format, holding the image column alone
    rows: npt.NDArray[np.int64]  # (N,)
    side: int
    where: Callable[[int], str]  # row -> how a message names it
    workers: int
    fit: Fit = "crop"

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> Tensor:
        """indices (n,) int64 -> (n, 3, side, side) uint8. Raises UserError naming the row of a broken image."""
        wanted = indices.numpy()
        out = np.empty((len(wanted), 3, self.side, self.side), np.uint8)
        step = max(1, -(-len(wanted) // (4 * self.workers)))

        def fill(start: int) -> list[Bad]:
            positions = wanted[start : start + step]
            good, bad = self.attempt(positions)
            if not bad:
                out[start : start + step] = good
            return bad

        for bad in ordered(fill, range(0, len(wanted), step), self.workers):
            if bad:
                raise UserError(f"cannot decode {self.name(bad[0])}. {SKIP}")
        return torch.from_numpy(out)

    def attempt(self, positions: npt.NDArray[np.int64]) -> tuple[Pixels, list[Bad]]:
        """The images at `positions` that can be decoded (m, 3, side, side), in order; the others with reasons."""
        good: list[Pixels] = []
        bad: list[Bad] = []
        for position, data in zip(positions.tolist(), self.read(positions), strict=True):
            try:
                good.append(decode(data, self.side, self.fit))
            except BrokenImageError as error:
                bad.append((position, str(error)))
        return np.stack(good) if good else np.empty((0, 3, self.side, self.side), np.uint8), bad

    def read(self, positions: npt.NDArray[np.int64]) -> list[bytes]:
        """The encoded bytes at `positions`; b"" where there are none."""
        return [_bytes(value) for value in self.table[self.rows[positions]].column(0).to_pylist()]

    def name(self, bad: Bad) -> str:
        """`row 17 of .../train.parquet (image file is truncated)`"""
        position, reason = bad
        return f"{self.where(int(self.rows[position]))} ({reason})"

    def chunks(self, size: int = 256) -> list[npt.NDArray[np.int64]]:
        """All positions, a few at a time."""
        return [np.arange(start, min(start + size, len(self))) for start in range(0, len(self), size)]


def _bytes(value: Any) -> bytes:
    """A cell of an image column: bytes, or {bytes, path} with one of the two."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path:
            try:
                return _content(path)
            except OSError:
                return b""
        return data or b""
    return value or b""


def _content(path: str) -> bytes:
    """What a file holds; b"" for what is no file: a pipe would keep the reader waiting, and a device never ends."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="decode")


def ordered(function: Callable[[A], R], items: Iterable[A], workers: int) -> Iterator[R]:
    """`map` by threads: results in the items' order; only a few wait at any time, so that memory stays bounded."""
    pool = _pool(workers, os.getpid())  # threads do not survive a fork
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 4 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
