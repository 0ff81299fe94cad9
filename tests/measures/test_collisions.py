"""Collisions of binary codes against brute force over pairs and against simulated independent bits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from wingspan import bits
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.base import Curve, Measured, NotApplicableError
from wingspan.measures.collisions import Collisions, agreement, dimensions, sharing, unique


def measured(h: Tensor, subsets: int = 8, seed: int = 0) -> Measured:
    images = ImageSet(InMemory(torch.zeros(len(h), 3, 1, 1, dtype=torch.uint8)))
    return Collisions(subsets).measure(
        Bank("made", Split(h[:0], ImageSet(InMemory(torch.empty(0, 3, 1, 1)))), Split(h, images), "0"), seed
    )


def independent(rows: int, rates: Tensor, seed: int = 0) -> Tensor:
    """(rows, D) in fp16, every value above 0 with its dimension's rate, independently."""
    draw = generator(seed, "bits")
    values = torch.rand(rows, len(rates), generator=draw) + 0.5
    return values.where(torch.rand(rows, len(rates), generator=draw) < rates, 0.0).half()


def number(found: Measured, metric: str, series: str = "") -> float:
    return next(n.value for n in found.numbers if n.metric == metric and n.series == series)


def curve(found: Measured, series: str) -> Curve:
    return next(c for c in found.curves if c.series == series)


def slow_pairs(h: Tensor) -> int:
    codes = [tuple((row > 0).tolist()) for row in h]
    return sum(a == b for a, b in itertools.combinations(codes, 2))


@pytest.mark.parametrize(("rows", "D", "rate"), [(40, 3, 0.5), (60, 8, 0.2), (50, 13, 0.1), (30, 70, 0.01)])
def test_counts_are_those_of_all_pairs(rows: int, D: int, rate: float) -> None:
    h = independent(rows, torch.full((D,), rate))
    found = measured(h)
    codes = [tuple((row > 0).tolist()) for row in h]
    assert number(found, "distinct codes") == len(set(codes)) < rows
    assert number(found, "images sharing a code") == sum(codes.count(code) > 1 for code in codes)
    assert number(found, "colliding pairs", "observed") == slow_pairs(h)
    assert number(found, "dead images") == codes.count((False,) * D)
    assert all(n.n == rows for n in found.numbers)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_observed_curve_is_brute_force_over_nested_subsets(seed: int) -> None:
    h = independent(40, torch.linspace(0.05, 0.5, 45))
    counts = dimensions(45)
    orders = [torch.randperm(45, generator=generator(seed, "collisions", i)) for i in range(2)]
    slow = [sum(slow_pairs(h[:, order[:K]]) for order in orders) / 2 / math.comb(40, 2) for K in counts]
    found = curve(measured(h, 2, seed), "observed")
    kept = [(K, p) for K, p in zip(counts, slow, strict=True) if p > 0]
    assert len(kept) < len(counts) and found.x == tuple(K for K, _ in kept)
    assert found.y == pytest.approx([p for _, p in kept], rel=1e-12)


def test_many_dimensions_between_two_points_are_looked_at_in_parts() -> None:
    h = independent(30, torch.full((300,), 0.004))
    counts, order = [1, 150, 151, 300], torch.randperm(300, generator=generator(0, "order"))
    found = sharing(*unique(bits.pack(h)), order, counts)
    assert found.tolist() == [slow_pairs(h[:, order[:K]]) for K in counts] and found[-1] > 0


def test_agreement_is_the_share_of_pairs_of_different_images() -> None:
    h = independent(25, torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]))
    on = h > 0
    slow = [sum(a == b for a, b in itertools.combinations(column.tolist(), 2)) / math.comb(25, 2) for column in on.T]
    assert agreement(bits.pack(h), 5).tolist() == pytest.approx(slow, rel=1e-12)


def test_fair_independent_bits_collide_as_appendix_c_proves() -> None:
    h = independent(3000, torch.full((64,), 0.5))
    found = measured(h)
    theory, own, observed = (curve(found, series) for series in ("0.5^K", "own rates", "observed"))
    assert theory.y == tuple(0.5**K for K in theory.x)
    for other in (own, observed):
        several = [(a, b) for K, a, b in zip(theory.x, theory.y, other.y, strict=False) if K <= 11]  # 2,000 pairs there
        assert all(b == pytest.approx(a, rel=0.1) for a, b in several)
    assert theory.x[:9] == observed.x[:9] == (1, 2, 3, 4, 6, 8, 11, 16, 23)
    assert number(found, "colliding pairs", "observed") == 0 and number(found, "distinct codes") == 3000
    assert number(found, "bits a dimension", "observed") == pytest.approx(1, abs=0.03)
    assert number(found, "bits a dimension", "own rates") == pytest.approx(1, abs=0.01)


def test_sparse_independent_bits_collide_by_their_own_rates_and_not_by_a_half() -> None:
    rates = torch.linspace(0.01, 0.15, 32)
    observed, own = [], []
    for seed in range(8):
        found = measured(independent(800, rates, seed), seed=seed)
        observed.append(number(found, "colliding pairs", "observed"))
        own.append(number(found, "colliding pairs", "own rates"))
    exact = math.comb(800, 2) * float((rates.double() ** 2 + (1 - rates.double()) ** 2).prod())
    assert exact > 100  # 0.5^32 would give 0.00007 pairs
    assert sum(own) / 8 == pytest.approx(exact, rel=0.05)
    spread = float(torch.tensor(observed).double().std()) / math.sqrt(8)
    assert abs(sum(observed) / 8 - exact) < 4 * spread < 0.2 * exact


def test_dimensions_that_repeat_each_other_collide_more_than_their_rates_allow() -> None:
    h = independent(1000, torch.full((8,), 0.5)).repeat(1, 16)
    found = measured(h)
    observed = dict(zip(curve(found, "observed").x, curve(found, "observed").y, strict=True))
    own = dict(zip(curve(found, "own rates").x, curve(found, "own rates").y, strict=True))
    assert observed[1] == pytest.approx(own[1], rel=1e-9)
    assert observed[16] > 20 * own[16] and observed[128] == pytest.approx(0.5**8, rel=0.2) and 128 not in own
    bits_observed, bits_own = (number(found, "bits a dimension", series) for series in ("observed", "own rates"))
    assert bits_observed < 0.8 * bits_own


def test_dead_images_are_told_apart() -> None:
    h = independent(50, torch.full((200,), 0.5))
    h[:5] = 0
    found = measured(h)
    assert number(found, "dead images") == 5 and number(found, "colliding pairs", "observed") == 10
    assert found.notes == ("made: 5 of 50 test images are dead (h = 0): 10 of 10 colliding pairs.",)
    assert curve(found, "observed").x[-1] == 200 and curve(found, "observed").y[-1] == 10 / math.comb(50, 2)
    assert measured(h[5:]).notes == ()


def test_curves_have_no_zeros_on_their_logarithmic_axes_and_only_theory_is_dashed() -> None:
    found = measured(independent(20, torch.full((4000,), 0.3)))
    assert [c.series for c in found.curves] == ["observed", "own rates", "0.5^K"]
    assert [c.expected for c in found.curves] == [False, True, True]
    for c in found.curves:
        assert c.x_scale == c.y_scale == "log" and len(c.x) == len(c.y) > 0 and min(c.y) > 0
    assert min(curve(found, "0.5^K").y) >= 1 / (8 * math.comb(20, 2))


def test_one_code_for_all_and_no_dimension_that_varies() -> None:
    found = measured(torch.ones(6, 16).half())
    assert number(found, "colliding pairs", "observed") == 15 and number(found, "distinct codes") == 1
    assert set(curve(found, "observed").y) == set(curve(found, "own rates").y) == {1.0}
    assert number(found, "bits a dimension", "own rates") == 0


def test_the_points_of_a_curve_are_half_octaves_and_end_at_the_width() -> None:
    assert dimensions(1) == [1] and dimensions(2) == [1, 2] and dimensions(12) == [1, 2, 3, 4, 6, 8, 11, 12]
    assert dimensions(32768)[-2:] == [23170, 32768] and len(dimensions(32768)) < 40


def test_curves_are_a_function_of_features_and_seed() -> None:
    h = independent(100, torch.linspace(0.01, 0.5, 40))
    assert measured(h, seed=3) == measured(h, seed=3) and measured(h, seed=3) != measured(h, seed=4)


def test_mistakes_are_quoted() -> None:
    with pytest.raises(UserError, match="subsets 0 must be at least 1"):
        Collisions(subsets=0)
    with pytest.raises(NotApplicableError, match="'made' has 2 test images"):
        measured(torch.ones(2, 4).half())
