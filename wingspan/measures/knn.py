"""Nearest neighbours: no training, no learning rate; what lies close together in h.

Cosine on h as it is, votes weighted by exp(cosine / temperature), with k = 20 and 0.07 as solo-learn's `knn` and DINO's
`eval_knn.py` have them; and Hamming distance on packed codes h > 0, every neighbour one vote (ours: peers have none). Equal
votes go to the first class. Every task of a data set asks the same neighbours. Of packed bits there is Hamming distance alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from wingspan import bits
from wingspan.errors import UserError
from wingspan.features import Bank
from wingspan.measures._tasks import tasks
from wingspan.measures.base import Measure, Measured, Number
from wingspan.neighbours import Neighbours, cosine, hamming


@dataclass(frozen=True)
class Knn(Measure):
    """Accuracy of the vote of the k nearest training images; r2 of their mean for quantities."""

    title: ClassVar[str] = "accuracy of the nearest training images' vote"
    reads_bits: ClassVar[bool] = True
    source: ClassVar[str] = "section 4.3; k and temperature from solo-learn and DINO"
    reading: ClassVar[str] = (
        "Images are classified by the vote of the training images nearest to them. 'cosine' compares h as it is, 'hamming' "
        "only which of its dimensions are above 0, a sixteenth of the storage: where the two agree, h can be kept as bits."
    )

    k: int = 20
    """Neighbours that vote. More where classes are large and noisy; a bank with fewer images gives all it has."""
    temperature: float = 0.07
    """Cosine votes weigh exp(cosine / temperature): the higher, the more alike the k votes. Hamming votes weigh 1 each."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"nearest neighbours: k {self.k} must be at least 1.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"nearest neighbours: temperature {self.temperature} must be positive.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        posed = tasks(bank)
        train, test = bank.train.h, bank.test.h
        k = min(self.k, len(train))
        numbers: list[Number] = []

        def ask(series: str, neighbours: Neighbours, temperature: float | None) -> None:
            for task in posed:
                if task.classes:
                    answers = neighbours.votes(task.train, task.classes, temperature)
                else:
                    answers = neighbours.mean(task.train, temperature)
                numbers.append(task.score(answers, series))

        width = bank.train.width
        if not width:
            ask("cosine", cosine(train, test, k, f"neighbours on {bank.data}"), self.temperature)
            train, test, width = bits.pack(train), bits.pack(test), train.shape[1]
        ask("hamming", hamming(train, test, width, k, f"nearest codes on {bank.data}"), None)
        fewer = f"{bank.data} has {len(train)} training images: all of them vote, not {self.k}."
        return Measured(tuple(numbers), notes=() if k == self.k else (fewer,))
