"""Nearest neighbours by exhaustive search, in parts, and their votes.

Peers hold all similarities or a bank in fp32 and run out of memory (solo-learn#186, dino#161); here a block of queries meets a
block of the bank at a time, and only the k best so far are kept: some 0.4 GB at any width and any number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan import bits
from wingspan.progress import bar

_QUERIES, _BANK = 2**26, 2**24  # numbers in a block of queries, of the bank: 256 and 64 MB in fp32
_MOST_QUERIES, _MOST_BANK = 2048, 4096  # rows, so that a block of distances stays small where features are narrow
_INDEX = 2**31  # above any row number


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


def cosine(bank: Tensor, queries: Tensor, k: int, label: str = "nearest neighbours") -> Neighbours:
    """The k rows of `bank` (N, D) with the greatest cosine to each of `queries` (M, D), both maybe memory-mapped.

    Products are in fp32. A row of zeros has cosine 0 with every row. k may not exceed N.
    """

    def unit(h: Tensor) -> Tensor:
        part = h.float()
        return part.div_(part.norm(dim=1, keepdim=True).clamp_(min=1e-12))

    def distances(queries: Tensor, bank: Tensor) -> Tensor:
        return F.linear(queries, bank).neg_().add_(1).clamp_(min=0)

    found = _search(bank, queries, k, bank.shape[1], unit, distances, label)
    return Neighbours((found >> 31).int().view(torch.float32), found % _INDEX)


def hamming(bank: Tensor, queries: Tensor, width: int, k: int, label: str = "nearest codes") -> Neighbours:
    """The k codes of `bank` (N, bytes) that differ in the fewest of `width` bits from each of `queries` (M, bytes), uint8.

    k may not exceed N.
    """
    found = _search(bank, queries, k, width, lambda codes: codes, bits.hamming, label)
    return Neighbours((found >> 31).int(), found % _INDEX)


def _search(
    bank: Tensor,
    queries: Tensor,
    k: int,
    width: int,
    prepare: Callable[[Tensor], Tensor],
    distances: Callable[[Tensor, Tensor], Tensor],
    label: str,
) -> Tensor:
    """Keys (M, k) int64, ascending: the distance's 32 bits above the row's 31, so that no two keys are equal.

    Distances are int32 or fp32, not negative: the bits of such a float order as the float does.
    """
    if not 0 < k <= len(bank) < _INDEX:
        raise ValueError(f"k {k} of {len(bank)} rows")
    asked = queries.split(min(_MOST_QUERIES, max(1, _QUERIES // width)))
    held = bank.split(min(_MOST_BANK, max(1, _BANK // width)))
    found = []
    with bar(label, len(asked) * len(held), per_unit=len(asked[0]) * len(held[0]), things="pairs") as shown:
        for some in map(prepare, asked):
            best = torch.empty(len(some), 0, dtype=torch.int64)
            start = 0
            for block in held:
                keys = distances(some, prepare(block)).view(torch.int32).long()
                keys.bitwise_left_shift_(31).add_(torch.arange(start, start + len(block)))
                kept = torch.cat([best, keys.topk(min(k, len(block)), dim=1, largest=False, sorted=False).values], 1)
                best = kept.topk(min(k, kept.shape[1]), dim=1, largest=False, sorted=True).values
                start += len(block)
                shown.advance()
            found.append(best)
    return torch.cat(found)
