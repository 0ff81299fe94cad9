"""Nearest neighbours against slow loops and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import Tensor

from wingspan import bits, neighbours
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.base import NotApplicableError
from wingspan.measures.knn import Knn
from wingspan.neighbours import cosine, hamming

D = 24
TASKS = {"kind": 3, "colour": 5}


def features(rows: int, seed: int, width: int = D) -> Tensor:
    return torch.randn(rows, width, generator=generator(seed, "features")).relu().half()


def bank(n_train: int = 120, n_test: int = 200, width: int = D) -> Bank:
    draw = generator(0, "bank")
    ways = {task: torch.randn(C, width, generator=draw) for task, C in TASKS.items()}

    def half(n: int) -> Split:
        labels = {task: torch.randint(C, (n,), generator=draw) for task, C in TASKS.items()}
        h = sum(ways[task][y] for task, y in labels.items()) + 2.5 * torch.randn(n, width, generator=draw)
        distance = h[:, 0] * 2 + 5 + 0.1 * torch.randn(n, generator=draw)
        classes = {task: tuple(map(str, range(C))) for task, C in TASKS.items()}
        images = ImageSet(
            InMemory(torch.zeros(n, 3, 1, 1, dtype=torch.uint8)), labels, classes, quantities={"distance": distance}
        )
        return Split(h.relu().half(), images)

    return Bank("made", half(n_train), half(n_test), "0")


def slow(bank_h: Tensor, query_h: Tensor, k: int, distance: Callable[[Tensor, Tensor], float]) -> list[list[int]]:
    """Every distance in a loop; Python's sort is stable, so the first row wins a tie."""
    found = []
    for query in query_h:
        distances = [distance(row, query) for row in bank_h]
        found.append(sorted(range(len(bank_h)), key=distances.__getitem__)[:k])
    return found


def slow_cosine(row: Tensor, query: Tensor) -> float:
    lengths = float(row.double().norm() * query.double().norm())
    return 1 - float(row.double() @ query.double()) / lengths if lengths else 1.0


def slow_hamming(row: Tensor, query: Tensor) -> float:
    return sum(bool(a > 0) != bool(b > 0) for a, b in zip(row, query, strict=True))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_MOST_QUERIES", 7)
    monkeypatch.setattr(neighbours, "_MOST_BANK", 11)


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.usefixtures("small_blocks")
def test_cosine_neighbours_are_those_of_a_slow_loop(k: int) -> None:
    held, asked = features(60, 1), features(25, 2)
    found = cosine(held, asked, k)
    assert found.indices.tolist() == slow(held, asked, k, slow_cosine)
    far = torch.tensor([[slow_cosine(held[i], q) for i in row] for row, q in zip(found.indices, asked, strict=True)])
    assert torch.allclose(found.distances, far.float(), atol=1e-6)


@pytest.mark.parametrize(("k", "width"), [(1, 5), (9, 5), (60, 13), (20, 40)])
@pytest.mark.usefixtures("small_blocks")
def test_hamming_neighbours_are_those_of_a_slow_loop_and_ties_go_to_the_first_row(k: int, width: int) -> None:
    held, asked = features(60, 1, width), features(25, 2, width)
    found = hamming(bits.pack(held), bits.pack(asked), width, k)
    assert found.indices.tolist() == slow(held, asked, k, slow_hamming)
    assert found.distances.tolist() == [
        [slow_hamming(held[i], q) for i in row] for row, q in zip(found.indices, asked, strict=True)
    ]


@pytest.mark.usefixtures("small_blocks")
def test_equal_cosines_go_to_the_first_rows() -> None:
    held = torch.eye(4).repeat(10, 1).half()  # row i is axis i % 4
    found = cosine(held * torch.arange(1, 41).unsqueeze(1), torch.eye(4).half(), 13)
    for axis, row in enumerate(found.indices.tolist()):
        assert row == [*range(axis, 40, 4), *[i for i in range(40) if i % 4 != axis][:3]]


def test_rows_of_zeros_are_far_from_everything_and_spoil_nothing() -> None:
    held = torch.cat([torch.zeros(3, D).half(), features(9, 1)])
    found = cosine(held, torch.cat([features(2, 2), torch.zeros(1, D).half()]), 12)
    assert all(set(row[-3:]) == {0, 1, 2} for row in found.indices[:2].tolist())
    assert found.indices[2].tolist() == list(range(12)) and found.distances[2].tolist() == [1.0] * 12


def test_the_smallest_and_largest_features_of_half_precision() -> None:
    held = torch.tensor([[6e-8, 0.0], [65504.0, 65504.0], [0.0, 1.0]]).half()
    found = cosine(held, torch.tensor([[60000.0, 100.0], [1e-7, 6e-8]]).half(), 3)
    assert found.indices.tolist() == [[0, 1, 2], [1, 0, 2]] and bool(found.distances.isfinite().all())


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_cosine_votes_are_scikit_learns(temperature: float) -> None:
    given = bank()
    labels, C = given.train.images.labels["colour"], TASKS["colour"]
    votes = cosine(given.train.h, given.test.h, 20).votes(labels, C, temperature)
    oracle = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d) / temperature), metric="cosine", algorithm="brute")
    shares = oracle.fit(given.train.h.double().numpy(), labels.numpy()).predict_proba(given.test.h.double().numpy())
    assert np.allclose(votes / votes.sum(1, keepdim=True), shares, atol=1e-4)


def test_hamming_votes_are_scikit_learns_where_no_tie_decides() -> None:
    given = bank(width=400)
    labels, C = given.train.images.labels["colour"], TASKS["colour"]
    train, test = given.train.h > 0, given.test.h > 0
    votes = hamming(bits.pack(given.train.h), bits.pack(given.test.h), 400, 9).votes(labels, C)
    oracle = KNeighborsClassifier(9, weights="uniform", metric="hamming", algorithm="brute")
    shares = oracle.fit(train.numpy(), labels.numpy()).predict_proba(test.numpy())
    nearest = torch.sort((test.unsqueeze(1) != train).sum(2), dim=1).values
    clear = nearest[:, 8] < nearest[:, 9]
    assert 100 < int(clear.sum()) < 200
    assert np.allclose(votes[clear] / 9, shares[clear.numpy()], atol=1e-6)


def test_numbers_are_those_of_scikit_learn() -> None:
    given = bank()
    numbers = {(number.series, number.task): number for number in Knn(k=7).measure(given, 0).numbers}
    assert set(numbers) == {(series, task) for series in ("cosine", "hamming") for task in (*TASKS, "distance")}
    train, test = given.train.h.double().numpy(), given.test.h.double().numpy()
    weights = lambda d: np.exp((1 - d) / 0.07)  # noqa: E731
    for task in TASKS:
        oracle = KNeighborsClassifier(7, weights=weights, metric="cosine", algorithm="brute")
        oracle.fit(train, given.train.images.labels[task].numpy())
        right = float(oracle.score(test, given.test.images.labels[task].numpy()))
        number = numbers["cosine", task]
        assert number.value == pytest.approx(right, abs=1e-9) and number.chance is not None
        assert number.chance + 0.1 < right < 0.95
        assert (number.metric, number.n, number.classes) == ("accuracy", 200, TASKS[task])
    far = KNeighborsRegressor(7, weights=weights, metric="cosine", algorithm="brute")
    far.fit(train, given.train.images.quantities["distance"].numpy())
    expected = far.score(test, given.test.images.quantities["distance"].numpy())
    assert numbers["cosine", "distance"].metric == "r2" and expected > 0.1
    assert numbers["cosine", "distance"].value == pytest.approx(expected, abs=1e-5)


def test_hamming_numbers_are_those_of_a_slow_loop() -> None:
    given = bank(60, 80)
    numbers = {number.task: number.value for number in Knn(k=5).measure(given, 0).numbers if number.series == "hamming"}
    neighbours = slow(given.train.h, given.test.h, 5, slow_hamming)
    for task, C in TASKS.items():
        held, truth = given.train.images.labels[task].tolist(), given.test.images.labels[task].tolist()
        right = 0
        for row, label in zip(neighbours, truth, strict=True):
            counts = [sum(held[i] == c for i in row) for c in range(C)]
            right += counts.index(max(counts)) == label
        assert numbers[task] == pytest.approx(right / 80, abs=1e-12)
    far, truth = given.train.images.quantities["distance"].double(), given.test.images.quantities["distance"].double()
    answers = torch.stack([far[row].mean() for row in neighbours])
    expected = 1 - float((truth - answers).square().sum() / (truth - truth.mean()).square().sum())
    assert numbers["distance"] == pytest.approx(expected, abs=1e-5)


def test_a_bank_smaller_than_k_votes_as_a_whole_and_says_so() -> None:
    given = bank(n_train=8)
    found = Knn().measure(given, 0)
    assert found.notes == ("made has 8 training images: all of them vote, not 20.",)
    assert [n.value for n in found.numbers] == [n.value for n in Knn(k=8).measure(given, 0).numbers]
    assert Knn(k=8).measure(given, 0).notes == ()


def test_all_tasks_share_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = neighbours._search
    monkeypatch.setattr(neighbours, "_search", lambda *given: searches.append(given) or search(*given))
    Knn().measure(bank(), 0)
    assert len(searches) == 2  # cosine and hamming


def test_a_low_temperature_is_the_nearest_neighbour_and_does_not_overflow() -> None:
    given = bank()
    cold = [n.value for n in Knn(k=20, temperature=1e-6).measure(given, 0).numbers if n.series == "cosine"]
    one = [n.value for n in Knn(k=1).measure(given, 0).numbers if n.series == "cosine"]
    assert cold == pytest.approx(one) and all(math.isfinite(value) for value in cold)


def test_images_without_labels_have_no_neighbours_to_ask() -> None:
    given = bank()
    bare = replace(given, test=replace(given.test, images=ImageSet(given.test.images.images)))
    with pytest.raises(NotApplicableError, match="'made' has no labels"):
        Knn().measure(bare, 0)


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k 0 must be at least 1"), ({"temperature": 0.0}, "temperature 0.0 must be positive")]
)
def test_mistakes_are_quoted(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Knn(**options)  # type: ignore[arg-type]
