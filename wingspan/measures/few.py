"""Linear probes of few labels: 1 % and 10 % of the training images, 5 and 20 a class (Tables 4 and 7).

The paper trains its probe on "ImageNet 10 % (only 100 images are used for training)", read as per class: a tenth of every
class. Some hundred images are a few steps of its recipe at a low rate, so ours is L2-regularised logistic regression, solved to
the end from 0 by L-BFGS: no rate, no order of batches, nothing that depends on a seed. Features are standardised over the whole
training split, which takes no labels (as VISSL does for low-shot probes), and the decay is that of a Gaussian prior under which
a score's variance is `prior`, whatever D: a fixed decay of the weights would regularise wide features less than narrow ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank
from wingspan.inputs import Inputs
from wingspan.measures._tasks import Task, tasks
from wingspan.measures.base import Measure, Measured, Number
from wingspan.progress import bar

_HELD = 2**26  # features of a subset read at a time, 256 MB in fp32; a subset of fewer stays in memory while it is learnt


@dataclass(frozen=True)
class Few(Measure):
    """Accuracy of linear probes that see few labels, the same images for every run.

    A subset depends on the labels and on its draw's number alone. Of one draw the smaller subsets lie within the larger. A
    fraction takes round(fraction x class size) images of every class, at least 1.
    """

    title: ClassVar[str] = "accuracy of a linear classifier that sees few labels: 1 %, 10 %, 5 and 20 a class"
    reads_bits: ClassVar[bool] = True
    source: ClassVar[str] = "Tables 4 and 7"
    reading: ClassVar[str] = (
        "A line a number of labels; values are means over several draws of the labelled images, error bars the standard error "
        "over draws. Every run sees the same images."
    )

    fractions: tuple[float, ...] = (0.01, 0.1)
    """Shares of every class that are labelled, above 0 and up to 1."""
    per_class: tuple[int, ...] = (5, 20)
    """Labelled images of every class. A number left at its default that a class cannot give is left out of that task."""
    draws: int = 3
    """Subsets drawn for every size; the value is their mean. With 1, the error is over test images."""
    prior: float = 10.0
    """Variance of a class's score before a label is seen. Lower it to regularise more, where labels are noisy."""

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UserError(f"few labels: fraction {fraction} must lie above 0 and up to 1 (0.01 is 1 %).")
        for count in self.per_class:
            if count < 1:
                raise UserError(f"few labels: {count} a class: give at least 1.")
        if not self.sizes or len(set(map(_series, self.sizes))) < len(self.sizes):
            raise UserError(f"few labels: sizes {self.sizes} must be different ones, and at least one.")
        if self.draws < 1:
            raise UserError(f"few labels: draws {self.draws}: give at least 1.")
        if not 0 < self.prior < math.inf:
            raise UserError(f"few labels: prior {self.prior} must be positive.")

    @property
    def sizes(self) -> tuple[float, ...]:
        """Fractions as float, then counts a class as int."""
        return (*map(float, self.fractions), *self.per_class)

    def measure(self, bank: Bank, seed: int) -> Measured:
        posed, notes = self._learnable(bank)
        todo = []
        for task in posed:
            have = torch.bincount(task.train, minlength=task.classes)
            for size in self.sizes:
                complaint = _too_small(bank, task, have, size)
                if complaint and self.per_class != Few.per_class:
                    raise UserError(f"few labels: {complaint}; give a smaller --per-class.")
                if complaint:
                    notes.append(f"few labels: {complaint}, so this size is left out.")
                else:
                    todo.append((task, size, _wanted(size, have)))
        train = Inputs.of(bank.train).standardised()
        numbers = []
        with bar("probes of few labels", len(todo) * self.draws, things="probes") as shown:
            for task, size, wanted in todo:
                found = []
                for draw in range(self.draws):
                    rows = subset(task.train, wanted, draw)
                    scores = _scores(train.like(bank.test.h), *self.fit(train, rows, task))
                    found.append(task.accuracy(scores.argmax(1), _series(size)))
                    shown.advance()
                numbers.append(_mean(found))
        return Measured(tuple(numbers), notes=tuple(notes))

    def fit(self, inputs: Inputs, rows: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) that minimise mean cross entropy over rows + |V|^2 / (2 prior n), weight = V / sqrt(D).

        D counts the dimensions that are not dead. `inputs` are standardised, so that |x|^2 is about D.
        """
        live = inputs.D if inputs.scale is None else max(1, int(inputs.scale.count_nonzero()))
        V, bias = torch.zeros(task.classes, inputs.D, requires_grad=True), torch.zeros(task.classes, requires_grad=True)
        parts = rows.split(max(1, _HELD // inputs.D))
        held = inputs.rows(rows) if len(parts) == 1 else None

        def read() -> Iterator[tuple[Tensor, Tensor]]:
            for part in parts:
                yield (inputs.rows(part) if held is None else held), task.train[part]

        def evaluate() -> Tensor:
            optimiser.zero_grad()
            total = V.square().sum() / (2 * self.prior * len(rows))
            total.backward()  # type: ignore[no-untyped-call]
            for x, y in read():
                loss = F.cross_entropy(F.linear(x, V / math.sqrt(live), bias), y, reduction="sum") / len(rows)
                loss.backward()  # type: ignore[no-untyped-call]
                total = total.detach() + loss.detach()
            return total

        optimiser = torch.optim.LBFGS(
            [V, bias], max_iter=200, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )
        optimiser.step(evaluate)  # type: ignore[no-untyped-call]
        return V.detach() / math.sqrt(live), bias.detach()

    def _learnable(self, bank: Bank) -> tuple[list[Task], list[str]]:
        """Tasks all of whose test classes have training images, and notes on the others.

        Raises UserError when the target is among the others, or there is no other.
        """
        posed = tasks(bank, quantities=False)
        kept, notes = [], []
        for task in posed:
            have = torch.bincount(task.train, minlength=task.classes)
            asked = torch.bincount(task.test, minlength=task.classes)
            absent = ((have == 0) & (asked > 0)).nonzero().flatten().tolist()
            if not absent:
                kept.append(task)
                continue
            names = ", ".join(f"'{bank.train.images.classes[task.name][label]}'" for label in absent[:3])
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            what = f"few labels: '{task.name}' of '{bank.data}' has test images of {names}{more} and not one to train on"
            if task.name == bank.train.images.target or len(posed) == 1:
                raise UserError(f"{what}: add training images of each class, or take the class out of the test split.")
            notes.append(f"{what}; it is left out.")
        if not kept:
            raise UserError(notes[0])
        return kept, notes


def subset(labels: Tensor, wanted: Tensor, draw: int) -> Tensor:
    """Rows (n,) int64, ascending: of every class c as many as wanted[c], the first of a random order of draw `draw`.

    labels (N,), wanted (C,), both int64. The order depends on N, labels and draw only, so a larger `wanted` adds rows and
    takes none away.
    """
    order = torch.randperm(len(labels), generator=generator(0, "few labels", draw))
    order = order[labels[order].argsort(stable=True)]
    groups = order.split(torch.bincount(labels, minlength=len(wanted)).tolist())
    return torch.cat([group[:count] for group, count in zip(groups, wanted.tolist(), strict=True)]).sort().values


def _wanted(size: float, have: Tensor) -> Tensor:
    """Images of every class (C,): a count a class, or a fraction of each. Classes without an image give none."""
    wanted = torch.full_like(have, size) if isinstance(size, int) else (have * size).round().long().clamp(min=1)
    return wanted.minimum(have)


def _too_small(bank: Bank, task: Task, have: Tensor, size: float) -> str:
    """What is wrong when a class has fewer images than `size` asks of each; "" when none has."""
    short = ((have > 0) & (have < size)).nonzero().flatten().tolist() if isinstance(size, int) else []
    if not short:
        return ""
    label = min(short, key=lambda c: int(have[c]))
    name = bank.train.images.classes[task.name][label]
    return f"{size} a class: class '{name}' of '{task.name}' in '{bank.data}' has {int(have[label])} training images"


def _series(size: float) -> str:
    return f"{size} a class" if isinstance(size, int) else f"{100 * size:g} %"


def _scores(inputs: Inputs, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([F.linear(inputs.rows(at), weight, bias) for at in inputs.slices()])


def _mean(draws: list[Number]) -> Number:
    """The mean over draws and its standard error over them; of one draw, that number itself."""
    if len(draws) == 1:
        return draws[0]
    values = torch.tensor([number.value for number in draws], dtype=torch.float64)
    return replace(draws[0], value=float(values.mean()), error=float(values.std()) / math.sqrt(len(draws)))
