"""What a bank's images ask, and how answers are scored."""

from __future__ import annotations

import math

import pytest
import torch

from wingspan.data.base import ImageSet, InMemory
from wingspan.features import Bank, Split
from wingspan.measures._tasks import Task, tasks
from wingspan.measures.base import NotApplicableError


def split(n: int, labels: dict[str, list[int]], quantities: dict[str, list[float]]) -> Split:
    classes = dict.fromkeys(labels, ("a", "b", "c"))
    images = ImageSet(
        InMemory(torch.zeros(n, 3, 4, 4, dtype=torch.uint8)),
        {name: torch.tensor(values) for name, values in labels.items()},
        classes,
        quantities={name: torch.tensor(values) for name, values in quantities.items()},
    )
    return Split(torch.zeros(n, 2, dtype=torch.float16), images)


def test_tasks_are_what_both_splits_ask() -> None:
    train = split(4, {"kind": [0, 1, 2, 0], "single": [1, 1, 1, 1], "train only": [0, 1, 0, 1]}, {"x": [0.0, 1.0, 2.0, 3.0]})
    test = split(3, {"kind": [0, 1, 1], "single": [0, 1, 2]}, {"x": [1.0, 2.0, 4.0], "test only": [1.0, 2.0, 3.0]})
    bank = Bank("made", train, test, "0")
    assert [(task.name, task.classes, task.outputs) for task in tasks(bank)] == [("kind", 3, 3), ("x", 0, 1)]
    assert [task.name for task in tasks(bank, quantities=False)] == ["kind"]
    with pytest.raises(NotApplicableError, match="'made' shows a single class of 'single'"):
        tasks(Bank("made", split(2, {"single": [1, 1]}, {}), test, "0"))
    with pytest.raises(NotApplicableError, match="'made' has no labels"):
        tasks(Bank("made", split(2, {}, {}), test, "0"))


def test_accuracy_and_its_error() -> None:
    task = Task("kind", 3, torch.tensor([0]), torch.tensor([0, 1, 1, 2]))
    number = task.score(torch.tensor([[9.0, 0, 0], [0, 1, 0], [3, 0, 1], [0, 0, 1]]))
    assert (number.value, number.chance, number.n, number.classes) == (0.75, 0.5, 4, 3)
    assert number.error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_r2_is_one_for_the_truth_and_nought_for_the_mean() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0, 7.0])
    task = Task("x", 0, torch.zeros(1), truth)
    assert task.score(truth[:, None]).value == 1.0
    assert task.score(torch.full((4, 1), 3.5)).value == pytest.approx(0.0)
    assert task.score(-truth[:, None]).value < 0
    assert task.score(truth[:, None]).metric == "r2"


def test_the_error_of_r2_is_its_spread_over_test_sets() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(400, 300, generator=draw)
    answers = truth * 0.8 + 0.5 * torch.randn(400, 300, generator=draw)
    found = [Task("x", 0, torch.zeros(1), t).score(a[:, None]) for t, a in zip(truth, answers, strict=True)]
    spread = float(torch.tensor([number.value for number in found]).std())
    assert float(torch.tensor([number.error for number in found]).mean()) == pytest.approx(spread, rel=0.1)
