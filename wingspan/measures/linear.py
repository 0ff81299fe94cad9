"""The linear probe: a linear classifier on frozen features, scored on the test split.

Defaults are the paper's (appendix A): AdamW, rate 1e-4, weight decay 0.04, batch 1024, 100 epochs, on features as they are. The
preset `linear_fast` is for small budgets: features standardised, a higher rate on a cosine, 30 epochs; its numbers are compared
with each other, not with the paper's. Every task of a data set is probed in one pass: their classifiers share the features and
nothing else, since AdamW acts on each weight alone and the loss is the sum over tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank
from wingspan.measures.base import Measure, Number
from wingspan.progress import bar


@dataclass(frozen=True)
class Linear(Measure):
    """Accuracy of a linear classifier on frozen features."""

    title: ClassVar[str] = "accuracy of a linear classifier on frozen features"

    lr: float = 1e-4
    """Learning rate."""
    weight_decay: float = 0.04
    """Decoupled weight decay of the classifier's matrix."""
    batch: int = 1024
    """Images a step."""
    epochs: int = 100
    """Passes over the training features."""
    standardise: bool = False
    """Give every dimension mean 0 and variance 1 over the training split first; dead dimensions stay 0."""
    cosine: bool = False
    """Let the rate fall to 0 on a cosine, in place of a constant one."""

    def __post_init__(self) -> None:
        for name in ("lr", "batch", "epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"linear probe: {name} {getattr(self, name)} must be positive.")
        if not self.weight_decay >= 0:
            raise UserError(f"linear probe: weight decay {self.weight_decay} must not be negative.")

    def measure(self, bank: Bank, seed: int) -> list[Number]:
        labelled = bank.test.images.labels  # a column with gaps in one split is no task there
        tasks = {name: len(classes) for name, classes in bank.train.images.classes.items() if name in labelled}
        if not tasks:
            raise UserError(f"'{bank.data}' has no labels to probe: name a column with --data.label.")
        shift, scale = self._scaling(bank.train.h)
        weights = self._fit(bank, tasks, shift, scale, seed)
        logits = self._scores(bank.test.h, shift, scale, *weights)
        numbers = []
        for (task, classes), scores in zip(tasks.items(), logits.split(list(tasks.values()), 1), strict=True):
            labels = bank.test.images.labels[task]
            right = (scores.argmax(1) == labels).double().mean()
            chance = int(torch.bincount(labels).max()) / len(labels)
            numbers.append(Number("accuracy", task, float(right), len(labels), classes, chance))
        return numbers

    def _scaling(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale (D,), over rows in parts so that no second copy of h in fp32 is made."""
        D = h.shape[1]
        if not self.standardise:
            return torch.zeros(D), torch.ones(D)
        parts = h.split(4096)
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(h)
        variance = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / len(h)
        scale = torch.where(variance > 1e-12, variance.clamp(min=1e-12).rsqrt(), 0.0)
        return mean.float(), scale.float()

    def _fit(self, bank: Bank, tasks: dict[str, int], shift: Tensor, scale: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Weight (sum of classes, D) and bias, the tasks' classifiers one below the other."""
        h, labels = bank.train.h, [bank.train.images.labels[task] for task in tasks]
        N, D = h.shape
        bound = 1 / math.sqrt(D)  # nn.Linear's initialisation
        draw = generator(seed, "probe")
        weight = nn.Parameter((torch.rand(sum(tasks.values()), D, generator=draw) * 2 - 1) * bound)
        bias = nn.Parameter(torch.zeros(sum(tasks.values())))
        groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, self.lr, weight_decay=self.weight_decay, fused=True)
        steps = math.ceil(N / self.batch)
        with bar(f"probe on {bank.data}", self.epochs, per_unit=N, things="images") as shown:
            for epoch in range(self.epochs):
                order = torch.randperm(N, generator=generator(seed, "probe", epoch))
                for at, rows in enumerate(order.split(self.batch)):
                    if self.cosine:
                        rate = self.lr * (1 + math.cos(math.pi * (epoch * steps + at) / (self.epochs * steps))) / 2
                        for group in optimiser.param_groups:
                            group["lr"] = rate
                    x = (h[rows].float() - shift) * scale
                    scores = F.linear(x, weight, bias).split(list(tasks.values()), 1)
                    losses = [F.cross_entropy(s, y[rows]) for s, y in zip(scores, labels, strict=True)]
                    optimiser.zero_grad()
                    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                shown.advance()
        return weight.detach(), bias.detach()

    @staticmethod
    def _scores(h: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([F.linear((part.float() - shift) * scale, weight, bias) for part in h.split(4096)])


PRESETS = {"linear_fast": Linear(lr=1e-2, weight_decay=1e-2, batch=512, epochs=30, standardise=True, cosine=True)}
