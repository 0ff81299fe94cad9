from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.features import Bank, Split
from wingspan.measures import _curves
from wingspan.measures.base import Measured, NotApplicableError
from wingspan.measures.sparsity import Sparsity


def measured(h: Tensor) -> Measured:
    def split(values: Tensor) -> Split:
        return Split(values.half(), ImageSet(InMemory(torch.zeros(len(values), 3, 1, 1, dtype=torch.uint8))))

    return Sparsity().measure(Bank("made", split(h[:0]), split(h), "0"), seed=0)


def read(h: Tensor) -> dict[str, float]:
    return {number.metric: number.value for number in measured(h).numbers}


def rectified(N: int, D: int, seed: int = 0) -> Tensor:
    """Dimensions of very different thresholds, a dead one and one that never rests, after a ReLU."""
    h = (torch.randn(N, D, generator=generator(seed, "sparsity test")) + torch.linspace(-2, 2, D)).relu()
    h[:, 0], h[:, -1] = 0, h[:, -1] + 1
    return h


def slow_sparseness(responses: list[float]) -> float:
    n = len(responses)
    a = (sum(responses) / n) ** 2 / (sum(r * r for r in responses) / n)
    return (1 - a) / (1 - 1 / n)


def test_every_number_is_what_counting_one_by_one_gives() -> None:
    h = rectified(37, 11).half()
    h[5] = 0
    rows, columns = h.double().tolist(), h.double().T.tolist()
    zeros = sorted(sum(value == 0 for value in row) / 11 for row in rows)
    off = [sum(value == 0 for value in column) for column in columns]
    population = [slow_sparseness(row) for row in rows if any(row)]
    lifetime = [slow_sparseness(column) for column in columns if any(column)]
    expected = {
        "zeros per image": sum(zeros) / 37,
        "zeros per image, median": zeros[18],
        "images with half their dimensions at zero": sum(z >= 0.5 for z in zeros) / 37,
        "dead dimensions": off.count(37) / 11,
        "dimensions never at zero": off.count(0) / 11,
        "population sparseness": sum(population) / 36,
        "lifetime sparseness": sum(lifetime) / len(lifetime),
    }
    assert read(h) == pytest.approx(expected, rel=1e-9)
    assert off.count(37) > 0 and expected["images with half their dimensions at zero"] not in (0, 1)


def test_sparseness_is_one_for_one_response_and_zero_for_equal_ones() -> None:
    one_hot = read(torch.eye(8) * 3)
    assert one_hot["population sparseness"] == pytest.approx(1) and one_hot["lifetime sparseness"] == pytest.approx(1)
    alike = read(torch.full((8, 6), 2.0))
    assert alike["population sparseness"] == pytest.approx(0) and alike["lifetime sparseness"] == pytest.approx(0)
    sign = read(torch.full((8, 6), 2.0) * (torch.arange(6) % 2 * 2 - 1))
    assert sign["population sparseness"] == pytest.approx(0), "a response is |h|"


def test_curves_are_the_sorted_counts_of_images_and_of_dimensions() -> None:
    h = torch.tensor([[0, 0, 1.0, 1], [0, 2, 1, 1], [0, 0, 0, 1]])
    image, dimension = measured(h).curves
    assert (image.name, image.x, image.y) == ("zeros per image", (0, 0.5, 1), (0.25, 0.5, 0.75))
    assert dimension.name == "zeros per dimension" and dimension.y == pytest.approx((0, 1 / 3, 2 / 3, 1))
    assert dimension.x == pytest.approx((0, 1 / 3, 2 / 3, 1))
    long = measured(rectified(1000, 700))
    for curve in long.curves:
        assert len(curve.x) == 256 and curve.x[0] == 0 and curve.x[-1] == 1
        assert list(curve.y) == sorted(curve.y)
    assert long.curves[1].y[-1] == 1 and long.curves[1].y[0] == 0, "the ends are the extremes"


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    h = rectified(205, 30)
    whole = measured(h)
    monkeypatch.setattr(_curves, "_ELEMENTS", 100)
    for number, expected in zip(measured(h).numbers, whole.numbers, strict=True):
        assert number.value == pytest.approx(expected.value, rel=1e-9)
        assert (number.error or 0) == pytest.approx(expected.error or 0, rel=1e-6)


def test_standard_errors_are_the_spread_over_fresh_images() -> None:
    thresholds = torch.linspace(-1, 1, 12)
    draw = generator(1, "sparsity test")

    def fresh() -> Measured:
        common = torch.randn(200, 1, generator=draw)
        return measured((torch.randn(200, 12, generator=draw) + common + thresholds).relu())

    runs = [fresh().numbers for _ in range(120)]
    checked = 0
    for at, number in enumerate(runs[0]):
        if number.error is None:
            assert number.metric in ("dead dimensions", "dimensions never at zero")
            continue
        values = torch.tensor([numbers[at].value for numbers in runs])
        told = torch.tensor([numbers[at].error or 0.0 for numbers in runs]).mean()
        assert 0.7 < float(told / values.std()) < 1.4, number.metric
        checked += 1
    assert checked == 5


def test_numbers_that_fp16_cannot_hold_well_are_told() -> None:
    assert not measured(rectified(50, 20)).notes
    (note,) = measured(rectified(50, 20) * 1e-6).notes
    assert "6e-5" in note


def test_nothing_at_all_is_all_dead_and_has_no_sparseness() -> None:
    found = read(torch.zeros(6, 5))
    assert found["zeros per image"] == found["dead dimensions"] == found["images with half their dimensions at zero"] == 1
    assert not [metric for metric in found if "sparseness" in metric]
    assert all(math.isfinite(number.error or 0) for number in measured(torch.ones(1, 1)).numbers)
    assert all(math.isfinite(number.value) for number in measured(torch.ones(1, 3)).numbers)


def test_no_images_are_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match="'made' has no test images"):
        measured(torch.zeros(0, 5))
