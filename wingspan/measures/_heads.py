"""Linear heads on frozen features: every task under every recipe trained at once, each as it would be alone.

Heads share the batches and nothing else: the loss is the sum over heads, and AdamW acts on each weight alone. One product of a
part of a batch with all heads' weights gives all scores, and a part's gradient needs no other part, so features are read from
memory once a step and are in fp32 only a few rows at a time. Rows are a true random permutation, anew every epoch.

All is fp32. Products in bf16 were tried on a CPU that multiplies it (D = 32768, 10 classes, one thread): casting ate the gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.inputs import Inputs
from wingspan.measures._tasks import Task
from wingspan.progress import bar


@dataclass(frozen=True)
class Recipe:
    """How heads are trained: AdamW with decoupled weight decay, the rate constant or falling to 0 on a cosine."""

    lr: float
    weight_decay: float
    batch: int
    epochs: int
    cosine: bool


@dataclass(frozen=True)
class Heads:
    """Trained heads of all tasks under one recipe: scores = (x weight^T + bias) * spread + centre."""

    outputs: Mapping[str, int]  # of every task, in the order of the rows of weight
    weight: Tensor  # (sum of outputs, D)
    bias: Tensor  # (sum of outputs,)
    spread: Tensor  # (sum of outputs,): a quantity's standard deviation over the training rows; 1 for a class
    centre: Tensor  # (sum of outputs,): its mean; 0 for a class

    def scores(self, inputs: Inputs, rows: Tensor | None = None) -> dict[str, Tensor]:
        """Per task (M, outputs) for the inputs' rows, or for those at `rows` (M,) int64: a score a class, or the quantity."""
        places = inputs.slices() if rows is None else rows.split(inputs.part)
        made = torch.cat([F.linear(inputs.rows(at), self.weight, self.bias) for at in places]) * self.spread + self.centre
        return dict(zip(self.outputs, made.split(list(self.outputs.values()), 1), strict=True))


def fit(
    inputs: Inputs,
    tasks: Sequence[Task],
    recipes: Sequence[Recipe],
    seed: int,
    rows: Tensor | None = None,
    label: str = "probe",
) -> list[Heads]:
    """One `Heads` a recipe, in order, trained on `rows` (n,) int64 of the inputs, or on all."""
    training = Training(tasks, recipes, inputs.D, seed, torch.arange(len(inputs)) if rows is None else rows)
    with bar(label, recipes[0].epochs, per_unit=len(training.rows), things="images") as shown:
        for epoch in range(recipes[0].epochs):
            training.epoch(inputs, epoch)
            shown.advance()
    return training.heads()


class Training:
    """Heads in training, an epoch at a time, so that every epoch may bring features of its own.

    Recipes differ in lr and weight_decay only; all begin from the same weights and see the same batches. Classes are
    learnt by cross entropy, quantities by squared error after standardising them over `rows`; the bias does not decay.
    """

    def __init__(self, tasks: Sequence[Task], recipes: Sequence[Recipe], D: int, seed: int, rows: Tensor) -> None:
        self.tasks, self.recipe, self.seed, self.rows = tasks, recipes[0], seed, rows
        if len({(each.batch, each.epochs, each.cosine) for each in recipes}) > 1:
            raise ValueError("recipes trained at once must share batch, epochs and cosine")
        self.sizes = [task.outputs for task in tasks]
        self.targets, self.spread, self.centre = _targets(tasks, rows)
        R, outputs = len(recipes), sum(self.sizes)
        bound = 1 / math.sqrt(D)  # nn.Linear's initialisation
        start = (torch.rand(outputs, D, generator=generator(seed, "probe")) * 2 - 1) * bound
        self.weight, self.bias = start.repeat(R, 1, 1), torch.zeros(R, outputs)  # (R, outputs, D), (R, outputs)
        self.weight_slope, self.bias_slope = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        groups: list[dict[str, Any]] = []
        for recipe, *own in zip(recipes, self.weight, self.bias, self.weight_slope, self.bias_slope, strict=True):
            weight, bias = nn.Parameter(own[0]), nn.Parameter(own[1])  # views: the optimiser writes where we read
            weight.grad, bias.grad = own[2], own[3]
            groups.append({"params": [weight], "peak": recipe.lr, "weight_decay": recipe.weight_decay})
            groups.append({"params": [bias], "peak": recipe.lr, "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(groups, fused=True)

    @torch.no_grad()
    def epoch(self, inputs: Inputs, number: int) -> None:
        """One pass over the rows in an order of this epoch's own."""
        order = self.rows[torch.randperm(len(self.rows), generator=generator(self.seed, "probe", number))]
        batches = order.split(self.recipe.batch)
        for at, batch in enumerate(batches):
            self._gradient(inputs, batch)
            done = (number * len(batches) + at) / (self.recipe.epochs * len(batches))
            factor = (1 + math.cos(math.pi * done)) / 2 if self.recipe.cosine else 1.0
            for group in self.optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            self.optimiser.step()

    def _gradient(self, inputs: Inputs, batch: Tensor) -> None:
        """Fill the slopes with those of the batch's mean loss."""
        weight, slope = self.weight.flatten(0, 1), self.weight_slope.flatten(0, 1)  # (R * outputs, D)
        if inputs.scale is not None:
            weight = weight * inputs.scale  # the features' scale, on the few rows of weights in place of the many of x
        slope.zero_()
        self.bias_slope.zero_()
        for rows in batch.split(inputs.part):
            x = inputs.centred(rows)
            # Scores lie transposed, (R * outputs, n): for few outputs that product is a third faster than x @ weight.T.
            scores = (weight @ x.T).view(*self.bias.shape, -1).add_(self.bias.unsqueeze(2))
            self._to_slopes(scores, rows)
            scores.div_(len(batch))
            slope.addmm_(scores.flatten(0, 1), x)
            self.bias_slope += scores.sum(2)
        if inputs.scale is not None:
            slope.mul_(inputs.scale)

    def _to_slopes(self, scores: Tensor, rows: Tensor) -> None:
        """Scores (R, outputs, n) become the gradient of every image's loss by them."""
        for task, target, part in zip(self.tasks, self.targets, scores.split(self.sizes, 1), strict=True):
            wanted = target[rows].expand(len(part), 1, -1)
            if task.classes:
                part.copy_(part.softmax(1)).scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
            else:
                part.sub_(wanted).mul_(2)

    def heads(self) -> list[Heads]:
        """What every recipe has come to."""
        outputs = {task.name: task.outputs for task in self.tasks}
        return [
            Heads(outputs, weight.clone(), bias.clone(), self.spread, self.centre)
            for weight, bias in zip(self.weight, self.bias, strict=True)
        ]


def _targets(tasks: Sequence[Task], rows: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Per task its training targets (N,), quantities standardised over `rows`; and the spread and centre that undo it."""
    targets, spread, centre = [], [], []
    for task in tasks:
        deviation, mean = 1.0, 0.0
        if not task.classes:
            known = task.train[rows].double()
            deviation, mean = float(known.std(correction=0)) or 1.0, float(known.mean())
        targets.append(task.train if task.classes else ((task.train.double() - mean) / deviation).float())
        spread += [deviation] * task.outputs
        centre += [mean] * task.outputs
    return targets, torch.tensor(spread), torch.tensor(centre)
