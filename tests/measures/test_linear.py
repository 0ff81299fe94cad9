from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.linear import PRESETS, Linear

D = 10
TASKS = {"kind": 3, "colour": 5, "side": 2}


def split(h: Tensor, labels: dict[str, Tensor]) -> Split:
    classes = {task: tuple(f"{task} {c}" for c in range(TASKS[task])) for task in labels}
    return Split(h.half(), ImageSet(InMemory(torch.zeros(len(h), 3, 1, 1, dtype=torch.uint8)), labels, classes))


def bank(n_train: int = 150, n_test: int = 400, noise: float = 1.0, seed: int = 0) -> Bank:
    """Every class of every task moves h its own way; with noise the tasks cannot be solved wholly."""
    draw = generator(seed, "bank")
    ways = {task: torch.randn(C, D, generator=draw) * 2 for task, C in TASKS.items()}

    def half(n: int) -> Split:
        labels = {task: torch.randint(C, (n,), generator=draw) for task, C in TASKS.items()}
        h = sum(ways[task][y] for task, y in labels.items()) + noise * torch.randn(n, D, generator=draw)
        return split(h, labels)

    return Bank("made", half(n_train), half(n_test), "0")


def only(given: Bank, *tasks: str) -> Bank:
    train, test = (split(part.h, {task: part.images.labels[task] for task in tasks}) for part in (given.train, given.test))
    return replace(given, train=train, test=test)


def slow_accuracy(probe: Linear, given: Bank, task: str, seed: int) -> float:
    """One task alone: nn.Linear and AdamW, one batch after another, from the same initial rows and in the same order."""
    names = list(given.train.images.classes)
    first = sum(TASKS[name] for name in names[: names.index(task)])
    drawn = torch.rand(sum(TASKS[name] for name in names), D, generator=generator(seed, "probe"))
    net = nn.Linear(D, TASKS[task])
    nn.init.zeros_(net.bias)
    net.weight.data.copy_((drawn[first : first + TASKS[task]] * 2 - 1) / math.sqrt(D))
    groups = [{"params": [net.weight], "weight_decay": probe.weight_decay}, {"params": [net.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=probe.lr, betas=(0.9, 0.999), eps=1e-8)
    x, y = given.train.h.float(), given.train.images.labels[task]
    test = given.test.h.float()
    if probe.standardise:
        shift, scale = x.double().mean(0).float(), x.double().std(0, correction=0).float()
        x, test = (x - shift) / scale, (test - shift) / scale
    N = len(x)
    total, done = probe.epochs * math.ceil(N / probe.batch), 0
    for epoch in range(probe.epochs):
        order = torch.randperm(N, generator=generator(seed, "probe", epoch)).tolist()
        for start in range(0, N, probe.batch):
            rows = order[start : start + probe.batch]
            for group in optimiser.param_groups:
                group["lr"] = probe.lr * (1 + math.cos(math.pi * done / total)) / 2 if probe.cosine else probe.lr
            logs = torch.log_softmax(net(x[rows]), 1)
            loss = -torch.stack([logs[i, int(y[row])] for i, row in enumerate(rows)]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
    guesses = net(test).argmax(1).tolist()
    return sum(g == label for g, label in zip(guesses, given.test.images.labels[task].tolist(), strict=True)) / len(guesses)


@pytest.mark.parametrize(
    "probe",
    [
        Linear(lr=2e-3, weight_decay=0.5, batch=64, epochs=4),
        Linear(lr=2e-2, weight_decay=0.01, batch=40, epochs=3, standardise=True, cosine=True),
        Linear(lr=1e-2, batch=1024, epochs=3),
    ],
)
def test_all_tasks_in_one_pass_are_what_each_would_be_alone(probe: Linear) -> None:
    given = bank()
    found = {number.task: number.value for number in probe.measure(given, seed=3)}
    expected = {task: slow_accuracy(probe, given, task, seed=3) for task in TASKS}
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(value < 0.98 for value in expected.values()), "what is solved wholly tells nothing apart"


def test_separable_tasks_are_solved_wholly() -> None:
    draw = generator(0, "bank")

    def half(n: int) -> Split:
        labels = {task: torch.randint(C, (n,), generator=draw) for task, C in TASKS.items()}
        h = torch.cat([nn.functional.one_hot(y, TASKS[task]) for task, y in labels.items()], 1)  # D = 3 + 5 + 2
        return split(h + 0.1 * torch.randn(n, D, generator=draw), labels)

    found = Linear(lr=5e-2, batch=64, epochs=10).measure(Bank("made", half(300), half(200), "0"), seed=0)
    assert {number.task: number.value for number in found} == dict.fromkeys(TASKS, 1.0)


def test_features_without_information_give_about_chance() -> None:
    given = bank(n_train=300, n_test=2000)
    noise = torch.randn(2000, D, generator=generator(0, "noise")).half()
    blind = replace(given, test=replace(given.test, h=noise))
    for number in PRESETS["linear_fast"].measure(blind, seed=0):
        assert abs(number.value - 1 / TASKS[number.task]) < 0.06


def test_numbers_say_on_what_and_what_guessing_gives() -> None:
    h = torch.randn(10, D, generator=generator(0, "test"))
    train = split(h, {"kind": torch.tensor([0] * 9 + [1]), "side": torch.tensor([0, 1] * 5)})
    test = split(h, {"kind": torch.tensor([0, 1, 1, 1, 1, 2, 2, 2, 0, 0]), "side": torch.tensor([1] * 7 + [0] * 3)})
    kind, side = Linear(epochs=1).measure(Bank("made", train, test, "0"), seed=0)
    assert (kind.metric, kind.task, kind.n, kind.classes, kind.chance) == ("accuracy", "kind", 10, 3, 0.4)
    assert (side.metric, side.task, side.n, side.classes, side.chance) == ("accuracy", "side", 10, 2, 0.7)


def test_standardising_ignores_dead_dimensions() -> None:
    probe = replace(PRESETS["linear_fast"], epochs=3)
    given = bank()

    def with_dead(train: float, test: float) -> list[float]:
        parts: dict[str, Any] = {}
        for name, part, value in (("train", given.train, train), ("test", given.test, test)):
            h = part.h.clone()
            h[:, 4] = value
            parts[name] = replace(part, h=h)
        return [number.value for number in probe.measure(replace(given, **parts), seed=0)]

    still = with_dead(0.0, 0.0)
    assert with_dead(3.0, 1000.0) == still
    plain = replace(probe, standardise=False)
    assert all(math.isfinite(number.value) for number in plain.measure(given, seed=0))


def test_standardising_undoes_any_shift_and_scale() -> None:
    given = only(bank(), "kind")
    scale, shift = torch.logspace(-2, 2, D), torch.linspace(-20, 20, D)
    moved = replace(
        given,
        train=replace(given.train, h=(given.train.h.float() * scale + shift).half()),
        test=replace(given.test, h=(given.test.h.float() * scale + shift).half()),
    )
    probe = PRESETS["linear_fast"]
    (plain,), (after,) = probe.measure(given, 0), probe.measure(moved, 0)
    assert after.value == pytest.approx(plain.value, abs=0.03)  # half precision rounds the moved features


def test_a_probe_is_a_function_of_features_and_seed() -> None:
    probe, given = Linear(lr=1e-2, epochs=2, batch=32), bank(n_test=2000)
    first = [number.value for number in probe.measure(given, seed=0)]
    torch.manual_seed(99)
    assert [number.value for number in probe.measure(given, seed=0)] == first
    assert [number.value for number in probe.measure(given, seed=1)] != first


def test_more_rows_than_a_part_holds() -> None:
    given = bank(n_train=4200, n_test=4300)
    probe = replace(PRESETS["linear_fast"], epochs=1)
    numbers = probe.measure(given, seed=0)
    assert [number.n for number in numbers] == [4300] * 3
    for number in numbers:
        assert number.value == pytest.approx(slow_accuracy(probe, given, number.task, seed=0), abs=1e-12)


def test_a_task_that_only_the_training_split_has_is_left_out() -> None:
    given = bank()
    given = replace(given, test=only(given, "kind", "side").test)
    assert [number.task for number in Linear(epochs=1).measure(given, seed=0)] == ["kind", "side"]


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match="'made' has no labels to probe"):
        Linear().measure(only(bank()), seed=0)
