"""BYOL: predict the other view's embedding as a moving average of the network sees it.

Grill et al. 2020, arXiv:2006.07733, equations 2 and 3: the two symmetric terms are summed, each 2 - 2 cos. The average covers
parameters; its momentum rises from `momentum_start` to 1 on a cosine, in optimiser steps. The average sees its views with batch
statistics, as DeepMind's code does; its batch-norm buffers are copied from the network in training (`learner.py` says why).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.objectives.base import Batch, Objective


@dataclass(frozen=True)
class BYOL(Objective):
    """A predictor chases a moving average of the network; no negatives."""

    title: ClassVar[str] = "predict the moving average's embedding of the other view"
    views: ClassVar[int] = 2
    projector: ClassVar[str] = "8192-8192-8192"
    supervised: ClassVar[bool] = False

    momentum_start: float = 0.996
    """How much of the average is kept at the first step. Lower for short runs: 0.97 to 0.99."""
    hidden: int = 4096
    """Hidden width of the predictor."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum_start <= 1:
            raise UserError(f"momentum-start {self.momentum_start} lies outside 0..1: try --objective.momentum-start 0.99.")
        if self.hidden < 1:
            raise UserError(f"hidden {self.hidden} is not a positive width: try --objective.hidden 4096.")

    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        hidden = self.hidden
        layers = (nn.Linear(K, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, K))
        return {"predictor": nn.Sequential(*layers)}

    def momentum(self, progress: float) -> float | None:
        return 1 - (1 - self.momentum_start) * (1 + math.cos(math.pi * progress)) / 2

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if batch.average is None:
            raise ValueError("BYOL needs the embeddings of a moving average")
        cosine = F.cosine_similarity(batch.heads["predictor"], batch.average.flip(0), dim=-1)  # (V, B)
        return {"prediction": (2 - 2 * cosine).mean(1).sum()}
