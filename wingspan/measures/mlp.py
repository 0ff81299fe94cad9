"""The MLP probe beside the linear one: what a representation holds, and how much of it a line can separate.

The paper says "a 3 layer MLP" and no more (section 4.2, Figure 8); ours is D-hidden-hidden-classes with ReLU and without batch
norm, trained with the paper's recipe for linear probes (appendix A): AdamW, rate 1e-4, weight decay 0.04, batch 1024, 100
epochs, on features as they are. On some thousand images those are few steps at a low rate, too few for the linear probe: there
`mlp_fast` compares more fairly (features standardised, each probe at a rate of its own, chosen on a tenth of the training
images, on a cosine, 12 epochs, 256 hidden units). Every task has a network of its own, so that tasks do not help each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wingspan.features import Bank
from wingspan.measures._mlp import Probes, gap
from wingspan.measures._tasks import tasks
from wingspan.measures.base import Measured


@dataclass(frozen=True)
class Mlp(Probes):
    """Accuracy (r2 of a quantity) of an MLP of three layers and of a linear probe, and the gap between them."""

    title: ClassVar[str] = "accuracy of an MLP of three layers beside a linear classifier, and the gap"
    reads_bits: ClassVar[bool] = True
    source: ClassVar[str] = "Figure 8"
    reading: ClassVar[str] = (
        "Where the two lines meet, the representation is linearly separable: an MLP finds nothing that a linear probe misses. "
        "The paper's gap is large at small widths and closes with D."
    )

    def measure(self, bank: Bank, seed: int) -> Measured:
        posed = tasks(bank)
        linear, deep = (self.answers(kind, bank, posed, seed) for kind in ("linear", "mlp"))
        numbers = []
        for task, straight, bent in zip(posed, linear, deep, strict=True):
            number = task.score(bent, "mlp")
            numbers += [number, task.score(straight, "linear"), gap(task, bent, straight, f"{number.metric} gap")]
        return Measured(tuple(numbers))


PRESETS = {
    "mlp_fast": Mlp(
        hidden=256, lr=1e-3, linear_lr=1e-2, weight_decay=1e-2, batch=512, epochs=12, standardise=True, cosine=True,
        grid=(0.05, 0.2, 1.0),
    )
}  # fmt: skip
