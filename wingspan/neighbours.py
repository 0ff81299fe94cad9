"""Nearest neighbours by exhaustive search, in parts, and their votes.

Peers hold all similarities or a bank in fp32 and run out of memory (solo-learn#186, dino#161); here a block of queries meets a
block of the bank at a time, and only the k best so far are kept: some 0.4 GB at any width and any number of images.

Codes are compared by `hamming.cpp`, compiled on first use; where there is no compiler by faiss, and without that by PyTorch.
The three give the same answer, bit for bit.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan import bits, compiled
from wingspan.errors import UserError
from wingspan.progress import bar, tell
from wingspan.store.rows import Rows

Engine = Literal["auto", "kernel", "faiss", "torch"]

_QUERIES, _BANK = 2**26, 2**24  # numbers in a block of queries, of the bank: 256 and 64 MB in fp32
_MOST_QUERIES, _MOST_BANK = 2048, 4096  # rows, so that a block of distances stays small where features are narrow
_CODE_QUERIES, _CODE_BANK = 2**26, 2**24  # bytes of codes in a block; what only keeps k keys can take more rows at a time:
_MOST_CODE_QUERIES, _MOST_CODE_BANK = 2**14, 2**16
_LARGER, _MANY = 16, 1024  # times as many rows of the bank for fewer than as many queries
_WORTH = 2**22  # bytes compared, about 0.2 ms, for which another thread is worth waking
_KEYS = 2**22  # keys that every thread may keep: 32 MB
_INDEX = 2**31  # above any row number
_NONE = 2**63 - 1  # a key above any other
_SOURCE = Path(__file__).with_name("hamming.cpp")


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of a bank for M queries, nearest first; at equal distance the row that comes first.

    distances (M, k): 1 - cosine, 0..2 in fp32, or Hamming distances in int32. indices (M, k) int64.
    """

    distances: Tensor
    indices: Tensor

    def weights(self, temperature: float | None) -> Tensor:
        """(M, k) in fp32: exp(-distance / temperature), or ones without a temperature.

        The weight of DINO and solo-learn, exp(cosine / temperature), over its greatest value, so that nothing overflows.
        """
        if temperature is None:
            return torch.ones_like(self.distances, dtype=torch.float32)
        nearest = self.distances[:, :1]
        return ((nearest - self.distances).float() / temperature).exp()

    def votes(self, labels: Tensor, classes: int, temperature: float | None = None) -> Tensor:
        """labels (N,) int64 of the bank -> the weight of every class among the neighbours (M, classes)."""
        cast = torch.zeros(len(self.indices), classes)
        return cast.scatter_add_(1, labels[self.indices], self.weights(temperature))

    def mean(self, values: Tensor, temperature: float | None = None) -> Tensor:
        """values (N,) of the bank -> their weighted mean over the neighbours (M, 1) in fp32."""
        weights = self.weights(temperature).double()
        return ((weights * values[self.indices]).sum(1, keepdim=True) / weights.sum(1, keepdim=True)).float()


def cosine(bank: Rows, queries: Rows, k: int, label: str = "nearest neighbours") -> Neighbours:
    """The k rows of `bank` (N, D) with the greatest cosine to each of `queries` (M, D), both read a block at a time.

    Products are in fp32. A row of zeros has cosine 0 with every row. Raises ValueError when k exceeds N or is below 1, and
    UserError when the two differ in D.
    """
    if bank.shape[1] != queries.shape[1]:
        raise UserError(
            f"queries of width {queries.shape[1]} cannot be compared with a bank of width {bank.shape[1]}: take both from one "
            "network."
        )

    def unit(h: Tensor) -> Tensor:
        part = h.float()
        return part.div_(part.norm(dim=1, keepdim=True).clamp_(min=1e-12))

    def distances(queries: Tensor, bank: Tensor) -> Tensor:
        return F.linear(queries, bank).neg_().add_(1).clamp_(min=0)

    found = _search(bank, queries, k, _blocks(bank.shape[1]), unit, _by_distances(distances), label)
    return Neighbours((found >> 31).int().view(torch.float32), found % _INDEX)


def hamming(bank: Rows, queries: Rows, width: int, k: int, label: str = "nearest codes", engine: Engine = "auto") -> Neighbours:
    """The k codes of `bank` (N, bytes) that differ in the fewest of `width` bits from each of `queries` (M, bytes), uint8.

    Both are read a block at a time. auto: the compiled kernel, else faiss, else PyTorch; it says so once when it is not the
    kernel. Raises ValueError when k exceeds N or is below 1, UserError when the codes are not both of `width` bits, and, where
    one engine was asked for and cannot be had, UnavailableError or ImportError.
    """
    columns = -(-width // 8)
    if not bank.shape[1] == queries.shape[1] == columns > 0:
        raise UserError(
            f"a bank of codes of {bank.shape[1]} bytes and queries of {queries.shape[1]} cannot be compared as codes of width "
            f"{width}, which take {columns}: take both from one network."
        )
    chosen = _fastest() if engine == "auto" else engine
    if chosen == "torch":
        found = _search(bank, queries, k, _blocks(width), _codes, _by_distances(bits.hamming), label)
    else:
        blocks = _code_blocks(bank, len(queries), columns, k)
        found = _search(bank, queries, k, blocks, _codes, _by_kernel if chosen == "kernel" else _by_faiss, label)
    return Neighbours((found >> 31).int(), found % _INDEX)


@functools.cache
def _fastest() -> Engine:
    try:
        compiled.library(_SOURCE)
    except compiled.UnavailableError as error:
        other: Engine = "faiss" if find_spec("faiss") else "torch"
        tell([f"Codes are searched by {other}, not by the compiled kernel, and more slowly: {error}. Install a C++ compiler."])
        return other
    return "kernel"


def _blocks(width: int) -> tuple[int, int]:
    """Rows of queries and of the bank whose distances are taken at a time."""
    return min(_MOST_QUERIES, max(1, _QUERIES // width)), min(_MOST_BANK, max(1, _BANK // width))


def _code_blocks(bank: Rows, queries: int, columns: int, k: int) -> tuple[int, int]:
    """The same for what keeps k keys a query and no distances."""
    asked = max(1, min(_MOST_CODE_QUERIES, _CODE_QUERIES // columns, _KEYS // max(k, 1), queries))
    rows = min(_MOST_CODE_BANK, _CODE_BANK // columns)
    if isinstance(bank, Tensor) and bank.is_contiguous():  # nothing is decoded or copied, and every call waits for its threads
        rows *= max(1, min(_LARGER, _MANY // asked))
    return asked, max(1, rows)


# best (M, k) int64, each row's keys in any order; queries (M, columns); a block (n, columns) of the bank; its first row's
# number -> the same with the block taken in.
_Take = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _search(
    bank: Rows, queries: Rows, k: int, blocks: tuple[int, int], prepare: Callable[[Tensor], Tensor], take: _Take, label: str
) -> Tensor:
    """Keys (M, k) int64, ascending: the distance's 32 bits above the row's 31, so that no two keys are equal.

    Distances are int32 or fp32, not negative: the bits of such a float order as the float does.
    """
    if not 0 < k <= len(bank) < _INDEX:
        raise ValueError(f"k {k} of {len(bank)} rows")
    asked, held = _slices(len(queries), blocks[0]), _slices(len(bank), blocks[1])
    found = torch.full((len(queries), k), _NONE)
    pairs = min(blocks[0], len(queries)) * min(blocks[1], len(bank))
    with bar(label, len(asked) * len(held), per_unit=pairs, things="pairs") as shown:
        for at in asked:
            some, best = prepare(queries[at]), found[at]
            for block in held:
                best = take(best, some, prepare(bank[block]), block.start)
                shown.advance()
            found[at] = best.sort(1).values
    return found


def _slices(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _by_distances(distances: Callable[[Tensor, Tensor], Tensor]) -> _Take:
    """By a matrix of distances (M, n), of 32 bits."""

    def take(best: Tensor, queries: Tensor, block: Tensor, start: int) -> Tensor:
        keys = distances(queries, block).view(torch.int32).long()
        keys.bitwise_left_shift_(31).add_(torch.arange(start, start + len(block)))
        return _least(best, keys.topk(min(best.shape[1], len(block)), dim=1, largest=False, sorted=False).values)

    return take


def _least(best: Tensor, keys: Tensor) -> Tensor:
    return torch.cat([best, keys], 1).topk(best.shape[1], dim=1, largest=False, sorted=False).values


def _codes(block: Tensor) -> Tensor:
    """A block of codes as the kernels read them: they are told an address, and would believe anything."""
    if block.dtype != torch.uint8 or block.device.type != "cpu":
        raise ValueError(f"{block.dtype} on {block.device} are not codes: uint8 on the CPU")
    return block.contiguous()


def _by_kernel(best: Tensor, queries: Tensor, block: Tensor, start: int) -> Tensor:
    """In place: `best` are heaps to the kernel, which all _NONE are to begin with."""
    (M, columns), whole = queries.shape, -(-queries.shape[1] // 8) * 8
    padded = F.pad(queries, (0, whole - columns)) if whole > columns else queries
    threads = max(1, min(torch.get_num_threads(), M * block.numel() // _WORTH))
    at, number = ctypes.c_void_p, ctypes.c_int64
    compiled.library(_SOURCE).nearest(
        at(block.data_ptr()), number(len(block)), number(columns), number(start), at(padded.data_ptr()), number(M),
        number(best.shape[1]), at(best.data_ptr()), ctypes.c_int(threads),
    )  # fmt: skip
    return best


def _by_faiss(best: Tensor, queries: Tensor, block: Tensor, start: int) -> Tensor:
    import faiss  # at equal distance it keeps the first row, too

    faiss.omp_set_num_threads(torch.get_num_threads())
    near, rows = faiss.knn_hamming(queries.numpy(), block.numpy(), min(best.shape[1], len(block)))
    return _least(best, torch.from_numpy(near.astype(np.int64) << 31 | rows + start))
