"""A recipe chosen on a tenth of the training split, never on test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.inputs import Inputs
from wingspan.measures._heads import Recipe, fit
from wingspan.measures._tasks import Task
from wingspan.measures.base import NotApplicableError

Answers = Sequence[Sequence[Tensor]]  # per recipe and task (M, outputs)
_HELD_OUT = 10  # one training image in so many judges the recipes


def choose(
    posed: Sequence[Task], recipes: Sequence[Recipe], N: int, seed: int, label: str, train: Callable[[Tensor, Tensor], Answers]
) -> tuple[list[Recipe], list[str]]:
    """Every task's recipe, the best on the rows held out of N, the first of equals; and what to tell.

    train(kept, held) trains every recipe on the rows `kept` and gives, a recipe and task, its answers (M, outputs) to the rows
    `held`. Raises NotApplicableError when there are too few rows to hold some out.
    """
    if len(recipes) == 1:
        return list(recipes) * len(posed), []
    kept, held = split(posed, N, seed)
    if not len(held):
        raise NotApplicableError(f"{label}: {N} training images are too few to choose a recipe on a tenth.")
    answers = train(kept, held)
    chosen, notes = [], []
    for at, task in enumerate(posed):
        judge = replace(task, test=task.train[held])
        values = [judge.score(each[at]).value for each in answers]
        best = recipes[max(range(len(recipes)), key=[v if math.isfinite(v) else -math.inf for v in values].__getitem__)]
        chosen.append(best)
        notes.append(
            f"'{task.name}': lr {best.lr:g} and weight decay {best.weight_decay:g} were the best of {len(recipes)} "
            "on a tenth of the training split."
        )
    return chosen, notes


def linear(
    inputs: Inputs, posed: Sequence[Task], recipes: Sequence[Recipe], seed: int, label: str
) -> tuple[list[Recipe], list[str]]:
    """`choose` for linear heads, all recipes trained at once."""

    def train(kept: Tensor, held: Tensor) -> Answers:
        found = [heads.scores(inputs, held) for heads in fit(inputs, posed, recipes, seed, kept, f"{label}, grid")]
        return [[each[task.name] for task in posed] for each in found]

    return choose(posed, recipes, len(inputs), seed, label, train)


def split(posed: Sequence[Task], N: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training rows kept and held out. Rows are shuffled, sorted by their labels, and every tenth is held out: classes of the
    first task are divided in proportion to within one row, those of the others nearly so."""
    order = torch.randperm(N, generator=generator(seed, "probe grid"))
    for task in reversed(posed):
        if task.classes:
            order = order[task.train[order].argsort(stable=True)]
    held = torch.zeros(N, dtype=torch.bool)
    held[order[_HELD_OUT // 2 :: _HELD_OUT]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()
