"""The tasks that a bank's images pose: labels to classify, quantities to regress; and how answers to them are scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan.features import Bank
from wingspan.measures.base import NotApplicableError, Number


@dataclass(frozen=True)
class Task:
    """One task: labels int64 of `classes` classes, or a quantity in float32 with classes = 0. train (N,), test (M,)."""

    name: str
    classes: int
    train: Tensor
    test: Tensor

    @property
    def outputs(self) -> int:
        """Numbers a model must give for it: a score a class, or the quantity."""
        return max(self.classes, 1)

    def score(self, answers: Tensor, series: str = "") -> Number:
        """answers (M, outputs) on the test split -> accuracy, or r2 = 1 - squared error / variance of the test split."""
        if not self.classes:
            return self._r2(answers[:, 0], series)
        return self.accuracy(answers.argmax(1), series)

    def accuracy(self, answers: Tensor, series: str = "") -> Number:
        """answers (M,) int64 -> accuracy, its binomial standard error, and what the most frequent class would give."""
        n = len(self.test)
        right = float((answers == self.test).double().mean())
        chance = int(torch.bincount(self.test).max()) / n
        return Number("accuracy", self.name, right, n, self.classes, chance, series, math.sqrt(right * (1 - right) / n))

    def _r2(self, answers: Tensor, series: str) -> Number:
        truth = self.test.double()
        wrong, spread = (truth - answers.double()).square(), (truth - truth.mean()).square()
        value = 1 - float(wrong.sum() / spread.sum())
        # Delta method for the ratio of two means over images.
        error = float((wrong - (1 - value) * spread).std() / spread.mean()) / math.sqrt(len(truth))
        return Number("r2", self.name, value, len(truth), 0, 0.0, series, error)


def tasks(bank: Bank, quantities: bool = True) -> list[Task]:
    """Every task that both splits pose. A column with gaps, or with a single class in training, is none.

    Raises NotApplicableError when there is none.
    """
    train, test = bank.train.images, bank.test.images
    one_class = [name for name, values in train.labels.items() if len(values) and int(values.min()) == int(values.max())]
    found = [
        Task(name, len(classes), train.labels[name], test.labels[name])
        for name, classes in train.classes.items()
        if name in train.labels and name in test.labels and name not in one_class
    ]
    if quantities:
        found += [
            Task(name, 0, values.float(), test.quantities[name].float())
            for name, values in train.quantities.items()
            if name in test.quantities and float(test.quantities[name].double().var()) > 0
        ]
    if not found and one_class:
        raise NotApplicableError(f"'{bank.data}' shows a single class of '{one_class[0]}' in training: nothing to tell apart.")
    if not found:
        raise NotApplicableError(f"'{bank.data}' has no labels to probe: name a column with --data.label.")
    return found
