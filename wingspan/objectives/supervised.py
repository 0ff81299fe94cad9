"""Supervised training: a linear classifier and cross entropy. No projector by default, one view an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.objectives.base import Batch, Objective


@dataclass(frozen=True)
class Supervised(Objective):
    """Cross entropy on the data's target labels."""

    title: ClassVar[str] = "cross entropy on the labels"
    views: ClassVar[int] = 1
    projector: ClassVar[str] = ""
    supervised: ClassVar[bool] = True

    smoothing: float = 0.0
    """Label smoothing: how much probability is spread over all classes."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing {self.smoothing} lies outside 0..1: try --objective.smoothing 0.1.")

    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        if classes < 2:
            raise UserError(
                f"objective 'supervised' needs at least two classes, the data has {classes}: "
                "check --data.label, or pretrain without labels, for instance --objective simclr."
            )
        return {"classifier": nn.Linear(K, classes)}

    def momentum(self, progress: float) -> float | None:
        return None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if batch.labels is None:
            raise ValueError("supervised training needs labels")
        logits = batch.heads["classifier"]  # (V, B, C)
        labels = batch.labels.repeat(len(logits))
        return {"cross_entropy": F.cross_entropy(logits.flatten(0, 1), labels, label_smoothing=self.smoothing)}
