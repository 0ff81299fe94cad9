from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wingspan.augment import Augment
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.inputs import Inputs
from wingspan.measures._choice import split as held_out
from wingspan.measures._heads import Recipe
from wingspan.measures._mlp import gap, mlp
from wingspan.measures._tasks import Task, tasks
from wingspan.measures.base import Measured
from wingspan.measures.linear import Linear
from wingspan.measures.mlp import PRESETS, Mlp
from wingspan.network import Network
from wingspan.runtime import Precision, Runtime

D = 6
FAST = replace(PRESETS["mlp_fast"], hidden=64, lr=5e-3, batch=64, grid=())
EXACT = Runtime("cpu", "fp32")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "drawn"))


def bank(h: Tensor, labels: dict[str, Tensor], quantities: dict[str, Tensor], precision: Precision = "fp32") -> Bank:
    """The first half of the rows is the training split."""

    def split(rows: slice) -> Split:
        part = {task: values[rows] for task, values in labels.items()}
        classes = {task: tuple(map(str, range(int(values.max()) + 1))) for task, values in labels.items()}
        pixels = InMemory(torch.zeros(len(h[rows]), 3, 1, 1, dtype=torch.uint8))
        numbers = {name: values[rows] for name, values in quantities.items()}
        return Split(h[rows].half(), ImageSet(pixels, part, classes, quantities=numbers))

    middle = len(h) // 2
    network = Network(nn.Identity(), Augment(), Runtime("cpu", precision))
    return Bank("made", split(slice(0, middle)), split(slice(middle, None)), "0", network)


def by_name(found: Measured) -> dict[tuple[str, str, str], float]:
    return {(number.metric, number.task, number.series): number.value for number in found.numbers}


def slow_answers(task: Task, train: Tensor, test: Tensor, recipe: Recipe, hidden: int, seed: int) -> Tensor:
    """The same network written out: its products, its loss an image at a time, AdamW by hand."""
    draw, widths = generator(seed, "mlp"), [(D, hidden), (hidden, hidden), (hidden, task.outputs)]
    weights = [((torch.rand(b, a, generator=draw) * 2 - 1) / math.sqrt(a)).double().requires_grad_() for a, b in widths]
    biases = [torch.zeros(b, dtype=torch.float64, requires_grad=True) for _, b in widths]
    averages = [(torch.zeros_like(p), torch.zeros_like(p)) for p in [*weights, *biases]]
    y = (
        task.train
        if task.classes
        else (task.train.double() - task.train.double().mean()) / task.train.double().std(correction=0)
    )

    def scores(x: Tensor) -> Tensor:
        for w, b in zip(weights[:2], biases[:2], strict=True):
            x = (x @ w.T + b).clamp(min=0)
        return x @ weights[2].T + biases[2]

    total, done = recipe.epochs * math.ceil(len(train) / recipe.batch), 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator(seed, "mlp order", epoch)).tolist()
        for start in range(0, len(train), recipe.batch):
            losses = []
            for row in order[start : start + recipe.batch]:
                s = scores(train[row].double())
                losses.append(torch.logsumexp(s, 0) - s[int(y[row])] if task.classes else (s[0] - y[row]) ** 2)
            slopes = torch.autograd.grad(torch.stack(losses).mean(), [*weights, *biases])
            rate = recipe.lr * (1 + math.cos(math.pi * done / total)) / 2 if recipe.cosine else recipe.lr
            done += 1
            with torch.no_grad():
                for p, g, (m, v) in zip([*weights, *biases], slopes, averages, strict=True):
                    if p.ndim == 2:
                        p.mul_(1 - rate * recipe.weight_decay)
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    p.sub_(rate * (m / (1 - 0.9**done)) / ((v / (1 - 0.999**done)).sqrt() + 1e-8))
    with torch.no_grad():
        answers = scores(test.double())
    if task.classes:
        return answers
    return answers * task.train.double().std(correction=0) + task.train.double().mean()


@pytest.mark.parametrize("classes", [3, 0])
@pytest.mark.parametrize("recipe", [Recipe(1e-2, 0.5, 20, 3, False), Recipe(2e-2, 0.04, 64, 4, True)])
def test_answers_are_those_of_the_network_written_out(recipe: Recipe, classes: int) -> None:
    x, fresh = drawn(50, D), drawn(30, D, seed=1)
    target = x.abs().sum(1) * 3 + 20
    task = Task("t", classes, torch.arange(50) % 3 if classes else target, torch.zeros(30))
    found = mlp(task, Inputs(x), Inputs(fresh), recipe, 8, 5, EXACT)
    assert found.shape == (30, max(classes, 1))
    assert torch.allclose(found.double(), slow_answers(task, x, fresh, recipe, 8, 5), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_exclusive_or_is_solved_by_the_mlp_and_not_by_the_linear_probe(precision: Precision) -> None:
    h = drawn(2000, D)
    label = ((h[:, 0] > 0) ^ (h[:, 1] > 0)).long()
    clear = h[:, :2].abs().amin(1) > 0.2
    found = by_name(FAST.measure(bank(h[clear], {"xor": label[clear]}, {}, precision), seed=0))
    assert found["accuracy", "xor", "mlp"] > 0.95
    assert found["accuracy", "xor", "linear"] == pytest.approx(0.5, abs=0.08)
    assert found["accuracy gap", "xor", ""] == found["accuracy", "xor", "mlp"] - found["accuracy", "xor", "linear"]


def test_where_a_line_separates_the_classes_there_is_no_gap() -> None:
    h = drawn(1600, D)
    h[:, 0] += h[:, 0].sign()
    found = by_name(FAST.measure(bank(h, {"side": (h[:, 0] > 0).long()}, {}), seed=0))
    assert found["accuracy", "side", "linear"] > 0.98
    assert abs(found["accuracy gap", "side", ""]) < 0.02


def test_a_quantity_that_bends_is_regressed_by_the_mlp_alone() -> None:
    h = drawn(3000, D)
    found = by_name(replace(FAST, epochs=30).measure(bank(h, {}, {"square": 100 + 7 * h[:, 0] ** 2}), seed=0))
    assert found["r2", "square", "mlp"] > 0.85
    assert abs(found["r2", "square", "linear"]) < 0.1
    difference = found["r2", "square", "mlp"] - found["r2", "square", "linear"]
    assert found["r2 gap", "square", ""] == pytest.approx(difference, abs=1e-9)


def test_tasks_do_not_help_each_other() -> None:
    h = drawn(400, D)
    labels = {"a": (h[:, 0] * h[:, 1] > 0).long(), "b": torch.arange(400) % 5, "c": (h[:, 2] > 0.3).long()}
    probe = replace(FAST, epochs=2)
    together = by_name(probe.measure(bank(h, labels, {"q": h[:, 0].abs()}), seed=3))
    for task in labels:
        alone = by_name(probe.measure(bank(h, {task: labels[task]}, {}), seed=3))
        assert alone["accuracy", task, "mlp"] == together["accuracy", task, "mlp"]


def test_the_linear_line_is_the_linear_probe_of_the_same_recipe() -> None:
    h = drawn(600, D)
    given = bank(h, {"kind": (h @ drawn(D, 4, seed=2) + drawn(600, 4, seed=3)).argmax(1)}, {})
    found = by_name(replace(FAST, epochs=3).measure(given, seed=1))
    twin = Linear(lr=FAST.linear_lr, weight_decay=FAST.weight_decay, batch=64, epochs=3, standardise=True, cosine=True)
    (alone,) = (number for number in twin.measure(given, seed=1).numbers if number.metric == "accuracy")
    assert found["accuracy", "kind", "linear"] == alone.value


def test_the_gap_of_accuracies_has_mcnemars_error() -> None:
    truth = torch.randint(3, (500,), generator=generator(0, "truth"))
    first = torch.nn.functional.one_hot(truth, 3) + 0.9 * drawn(500, 3)
    second = first + 0.7 * drawn(500, 3, seed=1)
    found = gap(Task("t", 3, truth, truth), first, second, "accuracy gap", "x")
    wins = sum(int(a.argmax() == y and b.argmax() != y) for a, b, y in zip(first, second, truth, strict=True))
    losses = sum(int(a.argmax() != y and b.argmax() == y) for a, b, y in zip(first, second, truth, strict=True))
    assert wins > losses > 0
    assert found.value == pytest.approx((wins - losses) / 500)
    assert found.error == pytest.approx(math.sqrt(wins + losses - (wins - losses) ** 2 / 500) / 500)
    assert (found.metric, found.task, found.series, found.n, found.classes) == ("accuracy gap", "t", "x", 500, 3)


def test_the_gap_of_r2_has_the_error_that_resampling_images_shows() -> None:
    truth = drawn(400)
    noise = drawn(400, 1, seed=1)
    first, second = truth[:, None] + 0.5 * noise, truth[:, None] + 0.6 * noise + 0.2 * drawn(400, 1, seed=2)
    task = Task("q", 0, truth, truth)
    found = gap(task, first, second, "r2 gap")
    assert found.value == pytest.approx(task.score(first).value - task.score(second).value, abs=1e-9)
    again = []
    for i in range(2000):
        rows = torch.randint(400, (400,), generator=generator(i, "resample"))
        again.append(gap(Task("q", 0, truth, truth[rows]), first[rows], second[rows], "r2 gap").value)
    assert found.error == pytest.approx(torch.tensor(again).std().item(), rel=0.12)


def test_a_probe_is_a_function_of_features_and_seed() -> None:
    h = drawn(1000, D)
    given, probe = bank(h, {"xor": (h[:, 0] * h[:, 1] > 0).long()}, {"q": h[:, 1] ** 2}), replace(FAST, epochs=2)
    first = probe.measure(given, seed=0)
    torch.manual_seed(99)
    assert probe.measure(given, seed=0) == first
    assert by_name(probe.measure(given, seed=1)) != by_name(first)


def test_a_constant_quantity_of_the_training_split_gives_finite_numbers() -> None:
    h = drawn(80, D)
    still = torch.cat([torch.full((40,), 3.0), h[40:, 0]])
    for number in replace(FAST, epochs=1).measure(bank(h, {}, {"still": still}), seed=0).numbers:
        assert math.isfinite(number.value)


@pytest.mark.parametrize("field", ["hidden", "lr", "linear_lr", "batch", "epochs"])
def test_settings_that_cannot_train_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"mlp probe: {field} 0 must be positive"):
        Mlp(**{field: 0})  # type: ignore[arg-type]


def test_a_negative_decay_is_refused() -> None:
    with pytest.raises(UserError, match=r"weight decay -0\.1"):
        Mlp(weight_decay=-0.1)


def test_a_rate_is_chosen_for_each_probe_and_task_without_the_test_split() -> None:
    """The rate that a tenth of the training rows prefers, trained again on all of them, is what the grid answers."""
    h, side = drawn(600, D), torch.arange(600) % 2
    h[:, 0] += 1.5 * side
    given = bank(h, {"side": side, "noise": torch.randint(0, 2, (600,), generator=generator(1, "noise"))}, {})
    grid = replace(FAST, epochs=4, linear_lr=0.1, grid=(1e-4, 1.0))
    alone = {factor: by_name(replace(grid, grid=(factor,)).measure(given, 0)) for factor in grid.grid}
    found = by_name(grid.measure(given, 0))
    assert found["accuracy", "side", "mlp"] == alone[1.0]["accuracy", "side", "mlp"] > 0.7
    assert found["accuracy", "side", "linear"] == alone[1.0]["accuracy", "side", "linear"] > 0.7
    for probe in ("mlp", "linear"):
        assert found["accuracy", "noise", probe] in [each["accuracy", "noise", probe] for each in alone.values()]
    train = given.train
    (task, _) = tasks(given)
    kept, held = held_out([task], len(train.h), 0)
    inputs = Inputs(train.h).standardised()
    recipe = Recipe(FAST.lr, FAST.weight_decay, FAST.batch, 4, True)
    direct = mlp(task, inputs, inputs, recipe, FAST.hidden, 0, EXACT, kept, held)
    small = replace(task, train=task.train[kept])
    own = replace(inputs, h=train.h[kept])
    assert torch.equal(direct, mlp(small, own, replace(inputs, h=train.h[held]), recipe, FAST.hidden, 0, EXACT))
    with pytest.raises(UserError, match=r"grid \(0.0,\)"):
        replace(FAST, grid=(0.0,))
