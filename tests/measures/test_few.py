from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.inputs import Inputs
from wingspan.measures import few
from wingspan.measures._tasks import Task
from wingspan.measures.base import Number
from wingspan.measures.few import Few, subset

ONE = Few(fractions=(0.1,), per_class=(), draws=1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "drawn"))


def made(N: int, D: int, C: int, pull: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sparse, non-negative features of C classes around random centres, as behind a ReLU; labels are not balanced."""
    draw = generator(seed, "made")
    label = (torch.rand(N, generator=draw) ** 1.5 * C).long()
    hidden = pull * drawn(C, 20, seed=9)[label] + torch.randn(N, 20, generator=draw)
    return (hidden @ drawn(20, D, seed=8) / 4 - 0.3).clamp(min=0).half(), label


def split(h: Tensor, labels: dict[str, Tensor], C: int, target: str | None) -> Split:
    classes = {task: tuple(f"{task}-{c}" for c in range(C)) for task in labels}
    return Split(h, ImageSet(InMemory(torch.zeros(len(h), 3, 1, 1, dtype=torch.uint8)), labels, classes, target))


def bank(h: Tensor, labels: dict[str, Tensor], n: int, C: int, target: str | None = None) -> Bank:
    """The first n rows are the training split."""
    train, test = ({task: y[part] for task, y in labels.items()} for part in (slice(0, n), slice(n, None)))
    return Bank("made", split(h[:n], train, C, target), split(h[n:], test, C, target), "0")


def values(probe: Few, given: Bank, seed: int = 0) -> dict[tuple[str, str], float]:
    return {(number.task, number.series): number.value for number in probe.measure(given, seed).numbers}


def rng_labels(N: int, C: int) -> Tensor:
    return (torch.rand(N, generator=generator(1, "labels")) ** 2 * C).long()


@pytest.mark.parametrize(("size", "least"), [(0.01, 1), (0.1, 1), (0.37, 1), (1.0, 1), (5, 5)])
def test_a_subset_holds_its_share_of_every_class(size: float, least: int) -> None:
    labels = rng_labels(700, 6)
    have = [sum(int(y == c) for y in labels) for c in range(6)]
    rows = subset(labels, few._wanted(size, torch.bincount(labels, minlength=6)), draw=2).tolist()
    assert rows == sorted(set(rows)), "no image twice"
    for c in range(6):
        expected = size if isinstance(size, int) else max(least, round(size * have[c]))
        assert sum(int(labels[row]) == c for row in rows) == expected


def test_smaller_subsets_lie_within_larger_ones_and_draws_differ() -> None:
    labels = rng_labels(700, 6)
    have = torch.bincount(labels)
    nested = [set(subset(labels, few._wanted(size, have), draw=0).tolist()) for size in (1, 0.05, 0.1, 0.5)]
    assert all(small < large for small, large in itertools.pairwise(nested))
    assert len({tuple(subset(labels, few._wanted(20, have), draw).tolist()) for draw in range(4)}) == 4


def test_every_image_is_drawn_about_as_often() -> None:
    labels = torch.arange(60) % 3
    counts = torch.zeros(60)
    for draw in range(600):
        counts[subset(labels, torch.tensor([5, 5, 5]), draw)] += 1
    assert counts.mean() == 150 and float(counts.std()) == pytest.approx(math.sqrt(150 * 0.75), rel=0.35)


def test_every_run_sees_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    h, y = made(900, 12, 3, 1.0)
    seen: list[tuple[int, ...]] = []
    inner = Few.fit

    def spied(self: Few, inputs: Inputs, rows: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        seen.append(tuple(rows.tolist()))
        return inner(self, inputs, rows, task)

    monkeypatch.setattr(Few, "fit", spied)
    first = Few().measure(bank(h, {"kind": y}, 600, 3), seed=0)
    torch.manual_seed(5)
    again = Few().measure(bank(h, {"kind": y}, 600, 3), seed=7)
    other = Few().measure(bank(h.roll(1, 0), {"kind": y}, 600, 3), seed=7)
    assert len(seen) == 3 * 4 * 3 and seen[:12] == seen[12:24] == seen[24:] and len(set(seen[:12])) == 12
    assert first == again and other != again


def sklearn_accuracy(given: Bank, task: str, rows: Tensor, prior: float) -> float:
    """scikit-learn's minimum of the same objective: sum of cross entropies + |V|^2 / (2 prior) of x / sqrt(live D)."""
    x, test = given.train.h.double().numpy(), given.test.h.double().numpy()
    mean, std = x.mean(0), x.std(0)
    live = std > 0
    x, test = ((part - mean)[:, live] / std[live] / math.sqrt(live.sum()) for part in (x, test))
    model = LogisticRegression(C=prior, tol=1e-8, max_iter=2000)
    model.fit(x[rows.numpy()], given.train.images.labels[task][rows].numpy())
    return float(model.score(test, given.test.images.labels[task].numpy()))


@pytest.mark.parametrize("prior", [1.0, 10.0])
def test_values_are_means_over_draws_of_scikit_learns_probe(prior: float) -> None:
    h, y = made(2600, 30, 4, 0.6)
    h[:, 3] = 2.5  # dead
    given = bank(h, {"kind": y, "other": (y + (torch.arange(2600) % 3 == 0)) % 4}, 600, 4)
    found = Few(prior=prior).measure(given, seed=0)
    assert {n.series for n in found.numbers} == {"1 %", "10 %", "5 a class", "20 a class"} and len(found.numbers) == 8
    for number in found.numbers:
        labels = given.train.images.labels[number.task]
        have = torch.bincount(labels, minlength=4)
        size = {"1 %": 0.01, "10 %": 0.1, "5 a class": 5, "20 a class": 20}[number.series]
        each = [sklearn_accuracy(given, number.task, subset(labels, few._wanted(size, have), d), prior) for d in range(3)]
        assert 0.3 < np.mean(each) < 0.95, "what is solved wholly tells nothing apart"
        assert number.value == pytest.approx(np.mean(each), abs=2 / 2000)
        assert number.error == pytest.approx(np.std(each, ddof=1) / math.sqrt(3), abs=2 / 2000)
        assert (number.metric, number.n, number.classes) == ("accuracy", 2000, 4)


@pytest.mark.parametrize(("D", "C", "pull"), [(64, 10, 1.0), (512, 10, 0.8), (512, 3, 0.3)])
def test_the_default_is_not_worse_than_scikit_learns_default(D: int, C: int, pull: float) -> None:
    h, y = made(3000, D, C, pull)
    given = bank(h, {"kind": y}, 2000, C)
    inputs = Inputs(given.train.h).standardised()
    x, test = inputs.rows(slice(None)).numpy(), inputs.like(given.test.h).rows(slice(None)).numpy()
    for number in Few().measure(given, seed=0).numbers:
        size = {"1 %": 0.01, "10 %": 0.1, "5 a class": 5, "20 a class": 20}[number.series]
        theirs = []
        for draw in range(3):
            rows = subset(y[:2000], few._wanted(size, torch.bincount(y[:2000])), draw).numpy()
            model = LogisticRegression(max_iter=300).fit(x[rows], y[:2000][rows].numpy())
            theirs.append(model.score(test, y[2000:].numpy()))
        assert number.value > np.mean(theirs) - 0.01, number.series


def test_width_alone_changes_nothing() -> None:
    h, y = made(1500, 16, 3, 0.6)
    plain, wide = bank(h, {"kind": y}, 500, 3), bank(h.repeat(1, 8), {"kind": y}, 500, 3)
    assert values(Few(), wide) == pytest.approx(values(Few(), plain), abs=1.5 / 1000)


def test_dead_dimensions_change_nothing() -> None:
    h, y = made(1500, 16, 3, 0.6)
    padded = torch.cat([h, torch.zeros(1500, 48, dtype=torch.float16)], 1)
    assert values(Few(), bank(padded, {"kind": y}, 500, 3)) == pytest.approx(
        values(Few(), bank(h, {"kind": y}, 500, 3)), abs=1.5 / 1000
    )


def test_a_subset_that_is_read_in_parts_is_learnt_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    h, y = made(1500, 16, 3, 0.6)
    given, probe = bank(h, {"kind": y}, 500, 3), Few(fractions=(0.2,), per_class=())
    whole = values(probe, given)
    monkeypatch.setattr(few, "_HELD", 16 * 7)
    assert values(probe, given) == pytest.approx(whole, abs=1.5 / 1000)


def test_with_one_draw_the_error_is_over_test_images() -> None:
    h, y = made(900, 16, 3, 0.6)
    (number,) = ONE.measure(bank(h, {"kind": y}, 500, 3), seed=0).numbers
    assert number.error == pytest.approx(math.sqrt(number.value * (1 - number.value) / 400))


def test_a_default_size_that_a_class_cannot_give_is_left_out_and_told() -> None:
    h, _ = made(200, 8, 3, 1.0)
    y = torch.tensor([0] * 88 + [1] * 12 + [0, 1] * 50)
    found = Few().measure(bank(h, {"kind": y}, 100, 2), seed=0)
    assert [number.series for number in found.numbers] == ["1 %", "10 %", "5 a class"]
    (note,) = found.notes
    assert "20 a class" in note and "'kind-1' of 'kind'" in note and "12 training images" in note


def test_a_size_that_was_asked_for_and_cannot_be_given_is_refused() -> None:
    h, _ = made(200, 8, 3, 1.0)
    y = torch.tensor([0] * 88 + [1] * 12 + [0, 1] * 50)
    with pytest.raises(UserError, match="13 a class: class 'kind-1' of 'kind' in 'made' has 12 training images"):
        Few(per_class=(13,)).measure(bank(h, {"kind": y}, 100, 2), seed=0)
    assert Few(per_class=(12,), fractions=(), draws=1).measure(bank(h, {"kind": y}, 100, 2), seed=0).numbers


def test_a_class_of_the_test_split_without_a_training_image_is_named() -> None:
    h, _ = made(200, 8, 3, 1.0)
    whole, torn = torch.arange(200) % 3, torch.cat([torch.arange(100) % 2, torch.arange(100) % 3])
    with pytest.raises(UserError, match="'torn' of 'made' has test images of 'torn-2' and not one to train on"):
        Few().measure(bank(h, {"torn": torn}, 100, 3), seed=0)
    with pytest.raises(UserError, match="torn-2"):
        Few().measure(bank(h, {"whole": whole, "torn": torn}, 100, 3, target="torn"), seed=0)
    found = Few().measure(bank(h, {"whole": whole, "torn": torn}, 100, 3, target="whole"), seed=0)
    assert {number.task for number in found.numbers} == {"whole"} and "'torn-2'" in found.notes[0]


def test_a_class_that_no_split_has_is_no_hindrance() -> None:
    h, y = made(200, 8, 2, 1.0)
    given = bank(h, {"kind": y}, 100, 4)
    assert len(ONE.measure(given, seed=0).numbers) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fractions": (0.0,)}, "fraction 0.0"),
        ({"fractions": (10.0,)}, "fraction 10.0"),
        ({"per_class": (0,)}, "0 a class"),
        ({"fractions": (), "per_class": ()}, "at least one"),
        ({"per_class": (5, 5)}, "different"),
        ({"draws": 0}, "draws 0"),
        ({"prior": 0.0}, "prior 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(Few(), **wrong)  # type: ignore[arg-type]


def test_the_mean_of_draws_keeps_what_a_number_says() -> None:
    numbers = [Number("accuracy", "t", value, 50, 3, 0.4, "1 %", 0.1) for value in (0.2, 0.4, 0.9)]
    assert few._mean(numbers) == replace(numbers[0], value=pytest.approx(0.5), error=pytest.approx(0.2081666))
