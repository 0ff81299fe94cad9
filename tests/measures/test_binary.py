from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from wingspan.augment import Augment
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.base import Number
from wingspan.measures.binary import PRESETS, Binary, codes, ones
from wingspan.network import Network
from wingspan.runtime import Runtime

FAST = replace(PRESETS["binary_fast"], hidden=32, batch=64, lr=5e-3, grid=())
LOST = "accuracy lost to binarising"


def bank(h: Tensor, labels: dict[str, Tensor], D: int = 12) -> Bank:
    """The first half of the rows is the training split."""
    classes = {task: tuple(map(str, range(int(y.max()) + 1))) for task, y in labels.items()}

    def split(rows: slice) -> Split:
        pixels = InMemory(torch.zeros(len(h[rows]), 3, 1, 1, dtype=torch.uint8))
        return Split(h[rows].half(), ImageSet(pixels, {task: y[rows] for task, y in labels.items()}, classes))

    middle = len(h) // 2
    network = Network(nn.Identity(), Augment(), Runtime("cpu", "fp32"))
    return Bank("made", split(slice(0, middle)), split(slice(middle, None)), "0", network)


def sparse(N: int, D: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    """Features behind a ReLU, half of them 0, and two tasks with noise."""
    draw = generator(0, "sparse")
    h = torch.randn(N, D, generator=draw)
    scores = h @ torch.randn(D, 5, generator=draw) + torch.randn(N, 5, generator=draw)
    return h.clamp(min=0), {"a": scores[:, :3].argmax(1), "b": scores[:, 3:].argmax(1)}


def numbers(probe: Binary, given: Bank, seed: int = 0) -> dict[tuple[str, str, str], Number]:
    return {(n.metric, n.task, n.series): n for n in probe.measure(given, seed).numbers}


@pytest.mark.parametrize("probe", [FAST, Binary(hidden=16, epochs=2)])
def test_features_that_are_bits_already_lose_exactly_nothing(probe: Binary) -> None:
    h, labels = sparse(400)
    found = numbers(probe, bank((h > 0).float(), labels))
    lost = [number for (metric, _, _), number in found.items() if metric == LOST]
    assert len(lost) == 6 and all(number.value == 0 and number.error == 0 for number in lost)


def test_a_class_that_lies_in_the_magnitude_alone_is_lost() -> None:
    label = torch.arange(1200) % 4
    draw = generator(0, "magnitude")
    h = 0.2 + torch.rand(1200, 8, generator=draw) * 0.3
    h[torch.arange(1200), label] += 1.0
    given = bank(h, {"kind": label})
    found = numbers(FAST, given)
    for name in FAST.probes:
        assert found["accuracy", "kind", name].value > 0.95
        assert found["accuracy", "kind", f"{name}, binary"].value == pytest.approx(0.25, abs=0.01)
        assert found[LOST, "kind", name].value > 0.7
    assert found["ones", "", ""].value == 1
    assert "100.0% of the codes of 'made' are ones" in FAST.measure(given, 0).notes[0]


def test_binary_probes_are_those_of_features_binarised_beforehand() -> None:
    h, labels = sparse(600)
    found, twin = numbers(FAST, bank(h, labels)), numbers(FAST, bank((h > 0).float(), labels))
    for task in labels:
        for name in FAST.probes:
            binary, plain = found["accuracy", task, f"{name}, binary"], found["accuracy", task, name]
            assert binary.value == twin["accuracy", task, name].value
            assert binary.value != plain.value, "else this test tells nothing"
            lost = found[LOST, task, name]
            assert lost.value == pytest.approx(plain.value - binary.value, abs=1e-12)
            assert lost.error and plain.error and binary.error
            assert lost.error < math.hypot(plain.error, binary.error), "both answer the same images"


def test_neighbours_of_both_kinds_are_scikit_learns() -> None:
    h, labels = sparse(700)
    given = bank(h, labels)
    found = numbers(Binary(probes=("knn",), k=7, temperature=0.2), given)
    for name, train, test in (
        ("knn", given.train.h.float(), given.test.h.float()),
        ("knn, binary", (given.train.h > 0).float(), (given.test.h > 0).float()),
    ):
        # Codes tie at the k-th place, where either neighbour is right: a few answers may differ.
        theirs = KNeighborsClassifier(7, metric="cosine", weights=lambda d: np.exp(-d / 0.2), algorithm="brute")
        for task in labels:
            theirs.fit(train.numpy(), given.train.images.labels[task].numpy())
            expected = theirs.score(test.numpy(), given.test.images.labels[task].numpy())
            assert found["accuracy", task, name].value == pytest.approx(expected, abs=0.03 if "binary" in name else 1e-9)


def test_fewer_images_than_neighbours_are_all_asked() -> None:
    h, labels = sparse(24)
    assert numbers(Binary(probes=("knn",), k=500), bank(h, labels)) == numbers(Binary(probes=("knn",), k=12), bank(h, labels))


def test_only_the_probes_asked_for_are_trained() -> None:
    h, labels = sparse(80)
    series = {s for _, _, s in numbers(replace(FAST, probes=("linear",), epochs=1), bank(h, labels))}
    assert series == {"", "linear", "linear, binary"}


def test_codes_and_ones_are_what_is_above_zero() -> None:
    h = torch.randn(3000, 900, generator=generator(0, "codes")).half()
    h[:, 0] = 0
    h[5] = -1
    before = h.clone()
    assert torch.equal(codes(h), torch.where(h > 0, 1.0, 0.0).half()) and codes(h).dtype == torch.float16
    found = ones(h)
    shares = [float(np.count_nonzero(row > 0)) / 900 for row in h.float().numpy()]
    assert found.value == pytest.approx(np.mean(shares)) and found.n == 3000
    assert found.error == pytest.approx(np.std(shares) / math.sqrt(3000))
    assert torch.equal(h, before)


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong, message in (
        ({"probes": ("linaer",)}, "no probe 'linaer'. Did you mean 'linear'?"),
        ({"probes": ()}, "at least one"),
        ({"probes": ("knn", "knn")}, "different"),
        ({"k": 0}, "k 0"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"epochs": 0}, "epochs 0"),
    ):
        with pytest.raises(UserError) as error:
            replace(Binary(), **wrong)  # type: ignore[arg-type]
        assert message in str(error.value)
