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
from wingspan.objectives.base import Batch, Objective


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
        C = z1.T @ z2 / len(z1)
        diagonal = C.diagonal()
        return {
            "diagonal": (1 - diagonal).square().sum(),
            "redundancy": self.redundancy * (C.square().sum() - diagonal.square().sum()),
        }
