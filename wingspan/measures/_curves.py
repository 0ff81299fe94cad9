"""What several measures of the representation itself share: going through h in parts, some images of a split, sorted curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wingspan.chance import generator

_ELEMENTS = 2**22  # of h converted at a time: 32 MB in double precision
_POINTS = 256


def parts(h: Tensor) -> Sequence[Tensor]:
    """h (N, D) in row blocks small enough to be converted, whatever D is."""
    blocks: Sequence[Tensor] = h.split(max(1, _ELEMENTS // max(1, h.shape[1])))
    return blocks


def some(n: int, count: int, seed: int, purpose: str) -> Tensor:
    """min(count, n) distinct row numbers out of n in rising order (a memory-mapped file is read forwards): a random subset."""
    return torch.randperm(n, generator=generator(seed, purpose))[:count].sort().values


def sorted_points(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values (n,) in rising order against their rank in 0..1, so that curves of different n compare; at most 256 points."""
    ordered = values.double().sort().values
    ranks = torch.linspace(0, len(ordered) - 1, min(len(ordered), _POINTS)).round().long()
    return tuple((ranks / max(1, len(ordered) - 1)).tolist()), tuple(ordered[ranks].tolist())
