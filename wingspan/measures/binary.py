"""Probes on binary features beside the same probes on continuous ones: what h > 0 -> 1 loses (section 4.3, Figure 9).

The paper binarises by "settings all non zeros elements in the representation to one"; h is never negative there. Probes of
binary features are trained on binary features, with the recipe, seed and order of their continuous twins, so that binarising is
all that differs. Neighbours are found by cosine on both sides for the same reason; distances between codes are another measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.errors import UserError, nearest
from wingspan.features import Bank, room
from wingspan.inputs import Inputs
from wingspan.measures._mlp import Probes, gap
from wingspan.measures._tasks import Task, tasks
from wingspan.measures.base import Measured, Number
from wingspan.neighbours import cosine

PROBES = ("linear", "mlp", "knn")
_NEARLY_ALL = 0.99  # ones from which a code says next to nothing


@dataclass(frozen=True)
class Binary(Probes):
    """Accuracy of probes on h and on h > 0, and what binarising loses."""

    title: ClassVar[str] = "accuracy on binary features (h > 0) beside continuous ones, and what binarising loses"
    source: ClassVar[str] = "Figure 9"
    reading: ClassVar[str] = (
        "Where a probe's two lines meet, the features can be stored as bits at no loss: in the paper at D = 32768, not "
        "at 2048. Ones is the share of 1 in the codes: near 1 or 0 a code says little."
    )

    probes: tuple[str, ...] = PROBES
    """Which probes are compared: linear, mlp, knn. Leave out mlp where time matters."""
    k: int = 20
    """Neighbours that knn asks, all training images where there are fewer."""
    temperature: float = 0.07
    """Of knn's votes, weighted exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.probes:
            if name not in PROBES:
                raise UserError(f"binary: no probe '{name}'.{nearest(name, PROBES)}")
        if not self.probes or len(set(self.probes)) < len(self.probes):
            raise UserError(f"binary: probes {self.probes} must be different ones, and at least one of {', '.join(PROBES)}.")
        if self.k < 1:
            raise UserError(f"binary: k {self.k} neighbours: give at least 1.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"binary: temperature {self.temperature} must be positive.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        posed = tasks(bank, quantities=False)
        numbers = []
        for name in self.probes:
            plain, binary = (self._answers(name, bank, posed, seed, binary) for binary in (False, True))
            for task, before, after in zip(posed, plain, binary, strict=True):
                numbers += [
                    task.score(before, name),
                    task.score(after, f"{name}, binary"),
                    gap(task, before, after, "accuracy lost to binarising", name),
                ]
        numbers.append(ones(bank.test.h))
        share, notes = numbers[-1].value, []
        if not 1 - _NEARLY_ALL < share < _NEARLY_ALL:
            notes.append(f"binary: {share:.1%} of the codes of '{bank.data}' are ones: h > 0 tells images hardly apart.")
        return Measured(tuple(numbers), notes=tuple(notes))

    def _answers(self, name: str, bank: Bank, posed: list[Task], seed: int, binary: bool) -> list[Tensor]:
        """Answers (M, classes) on the test split, for every task."""
        if name != "knn":
            return self.answers(name, bank, posed, seed, binary)
        train, test = (codes(h) if binary else h for h in (bank.train.h, bank.test.h))
        found = cosine(train, test, min(self.k, len(train)))
        return [found.votes(task.train, task.classes, self.temperature) for task in posed]


def codes(h: Tensor) -> Tensor:
    """h (N, D) -> h > 0 as 0 and 1 (N, D) in fp16, in a file where h would lie in one."""
    made = room(*h.shape)
    for at in Inputs(h).slices():
        made[at] = h[at] > 0
    return made


def ones(h: Tensor) -> Number:
    """The share of features above 0, and its standard error over images."""
    shares = torch.cat([(h[at] > 0).float().mean(1) for at in Inputs(h).slices()]).double()
    error = float(shares.std(correction=0)) / math.sqrt(len(shares))
    return Number("ones", "", float(shares.mean()), len(shares), error=error)


PRESETS = {
    "binary_fast": Binary(
        hidden=256, lr=1e-3, linear_lr=1e-2, weight_decay=1e-2, batch=512, epochs=12, standardise=True, cosine=True,
        grid=(0.05, 0.2, 1.0),
    )
}  # fmt: skip
