from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor, nn

from wingspan import bits
from wingspan import inputs as module_of_inputs
from wingspan.chance import generator
from wingspan.inputs import Inputs
from wingspan.measures._heads import Heads, Recipe, fit
from wingspan.measures._tasks import Task

N, M, D = 150, 70, 13
GRID = [Recipe(lr, decay, 40, 4, cosine=True) for lr, decay in itertools.product((3e-3, 2e-2), (0.0, 0.5))]


def features(n: int, seed: int = 0, width: int = D) -> Tensor:
    """Sparse and not negative, like h."""
    return torch.relu(torch.randn(n, width, generator=generator(seed, "features"))).half()


def posed(noise: float = 2.0) -> list[Task]:
    """Two label tasks with a quantity between them, all linear in the features but for noise."""
    h = torch.cat([features(N), features(M, 1)]).float()
    draw = generator(0, "tasks")

    def linear(outputs: int) -> Tensor:
        return h @ torch.randn(D, outputs, generator=draw) + noise * torch.randn(N + M, outputs, generator=draw)

    kind, side, size = linear(4).argmax(1), linear(2).argmax(1), 30 + 7 * linear(1)[:, 0]
    return [
        Task(name, classes, values[:N], values[N:])
        for name, classes, values in (("kind", 4, kind), ("size", 0, size), ("side", 2, side))
    ]


def alone(x: Tensor, tasks: list[Task], task: Task, recipe: Recipe, seed: int, rows: Tensor) -> nn.Linear:
    """One task under one recipe: nn.Linear, autograd, torch's AdamW, from the same weights and in the same order."""
    first = sum(each.outputs for each in tasks[: tasks.index(task)])
    drawn = torch.rand(sum(each.outputs for each in tasks), x.shape[1], generator=generator(seed, "probe"))
    net = nn.Linear(x.shape[1], task.outputs)
    nn.init.zeros_(net.bias)
    net.weight.data.copy_((drawn[first : first + task.outputs] * 2 - 1) / math.sqrt(x.shape[1]))
    target = task.train
    if not task.classes:
        target = (target - target[rows].mean()) / target[rows].std(correction=0)
    groups = [{"params": [net.weight], "weight_decay": recipe.weight_decay}, {"params": [net.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr)
    total, done = recipe.epochs * math.ceil(len(rows) / recipe.batch), 0
    for epoch in range(recipe.epochs):
        order = rows[torch.randperm(len(rows), generator=generator(seed, "probe", epoch))]
        for batch in order.split(recipe.batch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * (1 + math.cos(math.pi * done / total)) / 2 if recipe.cosine else recipe.lr
            scores = net(x[batch])
            loss = F.cross_entropy(scores, target[batch]) if task.classes else F.mse_loss(scores[:, 0], target[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
    return net


def same(first: list[Heads], second: list[Heads]) -> bool:
    return all(torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("part", [1, 2**20])  # many parts of 16 rows a batch; one part
def test_every_task_under_every_recipe_is_as_trained_alone(
    standardise: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_inputs, "_PART", part)
    tasks, rows = posed(), torch.arange(0, N, 3).repeat(2).unique() + 1
    small = torch.ones(D).index_fill(0, torch.tensor(5), 1e-5)  # slopes near AdamW's epsilon: their size counts there
    inputs, test = Inputs(features(N) * small), features(M, 1) * small
    x, x_test = inputs.h.float(), test.float()
    if standardise:
        inputs = inputs.standardised()
        shift, scale = x.double().mean(0).float(), x.double().std(0, correction=0).float()
        x, x_test = (x - shift) / scale, (x_test - shift) / scale
    together = fit(inputs, tasks, GRID, seed=5, rows=rows)
    assert len(together) == len(GRID)
    for heads, recipe in zip(together, GRID, strict=True):
        scores = heads.scores(inputs.like(test))
        for weight, task in zip(heads.weight.split([task.outputs for task in tasks]), tasks, strict=True):
            net = alone(x, tasks, task, recipe, 5, rows)
            torch.testing.assert_close(weight, net.weight.detach(), rtol=0, atol=1e-5)
            expected = net(x_test).detach()
            if not task.classes:
                expected = expected * task.train[rows].std(correction=0) + task.train[rows].mean()
            torch.testing.assert_close(scores[task.name], expected, rtol=1e-5, atol=1e-4)


def test_without_decay_the_heads_reach_the_optimum_that_scikit_learn_finds() -> None:
    kind, _, side = tasks = posed(noise=5.0)
    inputs = Inputs(features(N)).standardised()
    (heads,) = fit(inputs, tasks, [Recipe(3e-2, 0.0, N, 1500, cosine=True)], seed=0)
    x = inputs.rows(slice(None)).double()
    for task in (kind, side):
        peer = LogisticRegression(C=torch.inf, tol=1e-10, max_iter=10_000).fit(x.numpy(), task.train.numpy())
        scores = heads.scores(inputs)[task.name].double()
        best = -float(torch.tensor(peer.predict_log_proba(x.numpy()))[range(N), task.train].mean())
        assert 0.1 < best < 0.9 * math.log(task.classes), "neither separable nor hopeless"
        assert float(F.cross_entropy(scores, task.train)) == pytest.approx(best, abs=1e-5)
        centred = scores - scores.mean(1, keepdim=True)
        decision = torch.tensor(peer.decision_function(x.numpy()))
        expected = decision - decision.mean(1, keepdim=True) if task.classes > 2 else torch.stack([-decision, decision], 1) / 2
        torch.testing.assert_close(centred, expected, rtol=0, atol=2e-2)


def test_without_decay_a_quantity_reaches_least_squares() -> None:
    tasks = [task for task in posed() if not task.classes]
    inputs, test = Inputs(features(N)), features(M, 1)
    (heads,) = fit(inputs, tasks, [Recipe(3e-2, 0.0, N, 1500, cosine=True)], seed=0)
    peer = LinearRegression().fit(inputs.h.double().numpy(), tasks[0].train.double().numpy())
    found = heads.scores(inputs.like(test))["size"]
    expected = torch.tensor(peer.predict(test.double().numpy())).float()
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=2e-3)
    r2 = peer.score(test.double().numpy(), tasks[0].test.double().numpy())
    assert 0.2 < r2 < 0.99
    assert tasks[0].score(found).value == pytest.approx(r2, abs=1e-4)


@pytest.mark.parametrize("standardise", [False, True])
def test_packed_and_binarised_features_train_the_same_heads_as_zeros_and_ones(standardise: bool) -> None:
    h, test = features(N), features(M, 1)
    ways = [Inputs(bits.pack(h), width=D), Inputs(h, binary=True), Inputs((h > 0).float())]
    tests = [bits.pack(test), test, (test > 0).float()]
    if standardise:
        ways = [way.standardised() for way in ways]
    trained = [fit(way, posed(), GRID, seed=1) for way in ways]
    assert same(trained[0], trained[2]) and same(trained[1], trained[2])
    for recipe in range(len(GRID)):
        scores = [heads[recipe].scores(way.like(h)) for heads, way, h in zip(trained, ways, tests, strict=True)]
        for task in scores[2]:
            assert torch.equal(scores[0][task], scores[2][task]) and torch.equal(scores[1][task], scores[2][task])


def test_standardised_rows_have_mean_0_and_variance_1_and_dead_dimensions_are_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_inputs, "_PART", 1)
    h = torch.rand(N, D, generator=generator(0, "test"))
    h[:, 3] = 1e4 + h[:, 3]  # a mean 35,000 times the spread
    h[:, 7] = 3.3
    h = h.double().float()
    inputs = Inputs(h).standardised()
    assert inputs.shift is not None and inputs.scale is not None
    torch.testing.assert_close(inputs.shift.double(), h.double().mean(0), rtol=1e-7, atol=1e-7)
    alive = torch.arange(D) != 7
    torch.testing.assert_close(1 / inputs.scale[alive].double(), h.double().std(0, correction=0)[alive], rtol=1e-6, atol=0)
    made = inputs.rows(slice(None)).double()
    assert made.shape == (N, D) and float(made[:, 7].abs().max()) == 0
    torch.testing.assert_close(made.std(0, correction=0)[alive], torch.ones(D - 1).double(), rtol=1e-4, atol=0)
    other = inputs.like(h[:20] + 1)
    torch.testing.assert_close(other.rows(slice(None))[:, 0], (h[:20, 0] + 1 - inputs.shift[0]) * inputs.scale[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_reading_rows_leaves_features_as_they_are(dtype: torch.dtype) -> None:
    h = features(N).to(dtype)
    before = h.clone()
    inputs = Inputs(h).standardised()
    part = inputs.rows(slice(10, 50))
    assert torch.equal(part, inputs.rows(torch.arange(10, 50))) and part.dtype == torch.float32
    Inputs(h).rows(slice(0, 5)).zero_()
    assert torch.equal(h, before)


def test_slices_cover_every_row_once() -> None:
    inputs = Inputs(torch.zeros(1003, 2**13, dtype=torch.float16))
    assert inputs.part == 128
    assert torch.cat([torch.arange(len(inputs))[at] for at in inputs.slices()]).tolist() == list(range(1003))


def test_scores_at_rows_are_the_rows_of_all_scores() -> None:
    inputs, rows = Inputs(features(N)), torch.tensor([5, 3, 149, 3])
    (heads,) = fit(inputs, posed(), GRID[:1], seed=0)
    every, some = heads.scores(inputs), heads.scores(inputs, rows)
    for task in every:
        torch.testing.assert_close(some[task], every[task][rows])


def test_a_quantity_that_does_not_vary_is_answered_by_itself() -> None:
    task = Task("size", 0, torch.full((N,), 4.0), torch.full((M,), 4.0))
    (heads,) = fit(Inputs(features(N)), [task], [Recipe(1e-2, 0.0, N, 300, cosine=True)], seed=0)
    torch.testing.assert_close(heads.scores(Inputs(features(M, 1)))["size"], torch.full((M, 1), 4.0), rtol=0, atol=0.1)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="must share batch"):
        fit(Inputs(features(N)), posed(), [GRID[0], Recipe(1e-3, 0.0, 41, 4, True)], seed=0)
    with pytest.raises(ValueError, match="not rows of 13 packed bits"):
        Inputs(torch.zeros(3, 4, dtype=torch.uint8), width=13)
