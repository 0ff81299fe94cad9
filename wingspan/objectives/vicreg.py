"""VICReg: keep views close, every dimension spread out, no two dimensions alike.

Bardes et al. 2022, arXiv:2105.04906, equations 1-6; weights 25, 25, 1. As in the authors' code (facebookresearch/vicreg,
main_vicreg.py), unlike their text, the variance term is averaged, not summed, over the two views. Variance and covariance are
those of the batch of all processes, divided by its true size - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.objectives._tiled import large, off_diagonal
from wingspan.objectives.base import Batch, Objective

# Bytes of z above which its Gram matrix, never larger, is computed in tiles: 0.95 of the plain form's time at (N, K) = (512,
# 8192), 0.75 at (1024, 4096) and (2048, 8192), by symmetry, and no squared copies of either. Below they weigh nothing.
PLAIN = 4 * 2**20


def off_diagonal_squares(z: Tensor) -> Tensor:
    """sum_{i != j} C_ij^2 of the covariance C of centred z (N, K), without a masked copy and on the smaller Gram matrix:
    |C|_F^2 = |Z Z'|_F^2 / (N-1)^2, less the squared diagonal, which is the variances'."""
    N, K = z.shape
    if large(N, K, z, PLAIN):
        return off_diagonal(z) / (N - 1) ** 2
    gram = z @ z.T if N < K else z.T @ z
    return (gram.square().sum() - z.square().sum(0).square().sum()) / (N - 1) ** 2


@dataclass(frozen=True)
class VICReg(Objective):
    """Invariance, variance and covariance of the embedding; no negatives."""

    title: ClassVar[str] = "variance, invariance, covariance: no negatives, no average"
    views: ClassVar[int] = 2
    projector: ClassVar[str] = "8192-8192-8192"
    supervised: ClassVar[bool] = False

    invariance: float = 25.0
    """Weight of the mean squared distance between views."""
    variance: float = 25.0
    """Weight of the hinge that keeps every dimension's standard deviation above 1. Raise it when the embedding collapses."""
    covariance: float = 1.0
    """Weight of the squared off-diagonal covariances."""

    def __post_init__(self) -> None:
        for name in ("invariance", "variance", "covariance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--objective.{name} {getattr(self, name)} is no weight: give a number that is not negative.")

    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        return {}

    def momentum(self, progress: float) -> float | None:
        return None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        _, _, K = batch.z.shape
        centred = [z - z.mean(0) for z in batch.peers.gather(batch.z, dim=1)]  # V of (N, K)
        spread = [F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean() for z in centred]
        return {
            "invariance": self.invariance * F.mse_loss(batch.z[0], batch.z[1]),
            "variance": self.variance * torch.stack(spread).mean(),
            "covariance": self.covariance * torch.stack([off_diagonal_squares(z) / K for z in centred]).sum(),
        }
