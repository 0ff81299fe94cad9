"""Barlow Twins: make the cross-correlation of the two views' embeddings the identity.

Zbontar et al. 2021, arXiv:2103.03230, equation 1, lambda 0.0051 as in the authors' code (facebookresearch/barlowtwins). The
correlation is over the batch of all processes, standardised with the biased variance as batch norm does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.objectives._tiled import large, product_squares
from wingspan.objectives.base import Batch, Objective

# Bytes of the cross-correlation above which Gram matrices stand in for it: 0.22 of the plain form's time at (N, K) = (512,
# 4096), 0.19 at (512, 8192), 0.91 at (2048, 4096), 1.24 at (3000, 4096). Up to K = 1024 it is small, and the plain form stays.
PLAIN = 4 * 2**20


@dataclass(frozen=True)
class Barlow(Objective):
    """Redundancy reduction on the cross-correlation matrix."""

    title: ClassVar[str] = "Barlow Twins: cross-correlation of the views made the identity"
    views: ClassVar[int] = 2
    projector: ClassVar[str] = "8192-8192-8192"
    supervised: ClassVar[bool] = False

    redundancy: float = 0.0051
    """Lambda, the weight of the off-diagonal correlations. Raise it when dimensions repeat each other."""

    def __post_init__(self) -> None:
        if not 0 <= self.redundancy < float("inf"):
            raise UserError(f"--objective.redundancy {self.redundancy} is no weight: try 0.0051.")

    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        return {}

    def momentum(self, progress: float) -> float | None:
        return None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        z1, z2 = ((z - z.mean(0)) * torch.rsqrt(z.var(0, correction=0) + 1e-5) for z in batch.peers.gather(batch.z, dim=1))
        diagonal, squares = correlations(z1, z2)
        return {
            "diagonal": (1 - diagonal).square().sum(),
            "redundancy": self.redundancy * (squares - diagonal.square().sum()),
        }


def correlations(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """C's diagonal (K,) and the sum of its squares, C = z1'z2 / N of standardised z1, z2 (N, K).

    |C|_F^2 is also the inner product of the views' Gram matrices over N^2: with the backward pass 4 N^2 K products instead of
    3 N K^2.
    """
    N, K = z1.shape
    if large(K, K, z1, PLAIN) and 2 * N <= K:
        return torch.einsum("nk,nk->k", z1, z2) / N, product_squares(z1, z2) / N**2
    C = z1.T @ z2 / N
    return C.diagonal(), C.square().sum()
