"""Advice without labels: rules on planted tables, and their tracking against scipy and permutations one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from wingspan.advice import Curve, against_width
from wingspan.proxy import RULES, WIDEST, Found, permuted, proxies, tau_b, track

WIDTHS = (32, 64, 128)
METRICS = {rule.name: (rule.measure, rule.metric, rule.series) for rule in RULES}


def rows(name: str, values: dict[int, list[float]], role: str = "in-distribution", **more: object) -> pd.DataFrame:
    """A row a width and seed of one rule's metric, or of 'accuracy' in points."""
    measure, metric, series = METRICS.get(name, ("linear", "accuracy", ""))
    scale = 100 if name == "accuracy" else 1
    about = {"objective": "simclr", "measure": measure, "metric": metric, "series": series, "role": role, "task": "", **more}
    made = [
        {**about, "width": width, "seed": seed, "error": 0.01, "value": value / scale}
        for width, found in values.items()
        for seed, value in enumerate(found)
    ]
    return pd.DataFrame(made)


def flat(values: tuple[float, ...], seeds: int = 2) -> dict[int, list[float]]:
    """The same values at each seed, but for a thousandth: an error as good as none."""
    return {width: [value * (1 + 1e-3 * seed) for seed in range(seeds)] for width, value in zip(WIDTHS, values, strict=True)}


def curve(values: list[list[float]], widths: tuple[int, ...] = WIDTHS, seeds: tuple[int, ...] | None = None) -> Curve:
    """values: a row a seed."""
    found = np.array(values)
    return Curve(widths, seeds or tuple(range(len(found))), found, np.full(len(widths), math.nan), "points", "")


def by_name(found: list[Found]) -> dict[str, Found]:
    return {each.rule.name: each for each in found}


@pytest.mark.parametrize("levels", [3, 1000])
def test_tau_b_is_scipy_s_with_and_without_ties(levels: int) -> None:
    drawn = np.random.default_rng(0)
    for n in (2, 3, 6, 12, 40):
        x, y = drawn.integers(levels, size=(2, n)).astype(float)
        assert tau_b(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, nan_ok=True)
    assert math.isnan(tau_b(np.ones(4), np.arange(4.0)))


@pytest.mark.parametrize(("widths", "seeds", "levels"), [(2, 3, 100), (3, 2, 100), (4, 1, 3), (5, 3, 4)])
def test_the_p_value_counts_every_order_of_the_widths(widths: int, seeds: int, levels: int) -> None:
    drawn = np.random.default_rng(widths)
    for _ in range(5):
        x, y = drawn.integers(levels, size=(2, seeds, widths)).astype(float)
        x[0, 0], y[0, 0] = levels, levels + 1  # neither is constant
        observed = scipy.stats.kendalltau(x.ravel(), y.ravel()).statistic
        orders = [list(order) for order in itertools.permutations(range(widths))]
        dealt = [scipy.stats.kendalltau(x.ravel(), y[:, order].ravel()).statistic for order in orders]
        assert permuted(x, y) == (pytest.approx(np.mean(np.array(dealt) >= observed - 1e-9)), True)


def test_many_widths_are_dealt_at_random() -> None:
    x = np.arange(9.0)[None]
    p, exact = permuted(x, x)
    assert not exact and 0 < p < 1e-3
    assert permuted(x, -x)[0] == 1.0


@pytest.mark.parametrize(
    ("name", "values", "advised"),
    [
        ("RankMe", (20.0, 50.0, 40.0), 64),
        ("RankMe", (20.0, 40.0, 90.0), 128),
        ("alpha", (0.5, 0.9, 1.3), 64),
        ("alpha", (1.1, 0.4, 1.9), 32),
        ("zeros per image", (0.1, 0.3, 0.2), 64),
    ],
)
def test_each_rule_s_direction_is_the_literature_s(name: str, values: tuple[float, ...], advised: int) -> None:
    found = by_name(proxies(rows(name, flat(values)), {}, None))[name]
    assert found.advice and (found.advice.width, found.tracking) == (advised, None)


def test_the_narrowest_within_one_standard_error_is_advised_here_too() -> None:
    noisy = {32: [20.0, 21.0], 64: [50.0, 56.0], 128: [52.0, 58.0]}  # 55 with an error of 3
    found = by_name(proxies(rows("RankMe", noisy), {}, None))["RankMe"]
    assert found.advice and (found.advice.width, found.advice.best) == (64, 128)
    assert found.advice.error == pytest.approx(scipy.stats.sem(noisy[128]))
    alone = by_name(proxies(rows("RankMe", {32: [50.0], 64: [50.005]}), {}, None))["RankMe"]  # the measure's own error is .01
    assert alone.advice and alone.advice.width == 32


def test_a_rule_that_goes_as_the_labels_do_loses_nothing() -> None:
    labels = against_width(rows("accuracy", flat((50.0, 70.0, 60.0))), {})
    table = pd.concat([rows("RankMe", flat((20.0, 50.0, 40.0))), rows("zeros per image", flat((0.3, 0.1, 0.2)))])
    found = by_name(proxies(table, {}, labels))
    good, bad, widest = (found[name].tracking for name in ("RankMe", "zeros per image", WIDEST.name))
    assert good and bad and widest
    assert (good.same, good.regret, good.runs, good.exact) == (True, 0.0, 6, True)
    assert good.p == pytest.approx(1 / 6) == good.least_p  # three widths have six orders
    assert (bad.same, bad.p) == (False, 1.0) and bad.regret == pytest.approx(20 * 1.0005)  # 70 at D=64, 50 at D=32
    assert good.tau > 0 > bad.tau
    advice = found[WIDEST.name].advice
    assert advice and advice.width == 128 and widest.regret == pytest.approx(10 * 1.0005)
    labelled = rows("accuracy", flat((50.0, 70.0, 60.0)))
    assert widest.tau == pytest.approx(scipy.stats.kendalltau(labelled["width"], labelled["value"]).statistic)


def test_tracking_is_over_the_runs_that_have_both() -> None:
    score = curve([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], (16, 32, 64), seeds=(1, 2))
    labels = curve([[9.0, 9.0, 9.0], [10.0, 20.0, 5.0]], WIDTHS, seeds=(0, 1))
    found = track(score, labels, 64)
    assert found and (found.widths, found.seeds, found.tau) == (2, 1, 1.0)  # D = 32 and 64 at seed 1: 10, 20
    assert found.regret == 0.0  # means 9.5, 14.5, 7
    outside = track(score, labels, 16)
    assert outside and math.isnan(outside.regret) and not outside.same
    assert track(curve([[1.0, 2.0]], (8, 16)), labels, 8) is None
    assert track(curve([[1.0, 2.0]], (32, 64), seeds=(7,)), labels, 32) is None


def test_labels_that_do_not_change_have_no_order_to_track() -> None:
    found = track(curve([[1.0, 2.0, 3.0]] * 2), curve([[5.0] * 3] * 2), 128)
    assert found and math.isnan(found.tau) and math.isnan(found.p) and found.regret == 0.0


def test_only_the_runs_own_images_and_what_is_picked_count() -> None:
    own, other = rows("RankMe", flat((20.0, 50.0, 40.0))), rows("RankMe", flat((90.0, 50.0, 40.0)), "transfer", data="x")
    vicreg = rows("RankMe", flat((90.0, 50.0, 40.0)), objective="vicreg")
    found = by_name(proxies(pd.concat([own, other, vicreg]), {"objective": "simclr"}, None))["RankMe"]
    assert found.advice and found.advice.width == 64


def test_what_a_rule_lacks_is_told() -> None:
    labels = against_width(rows("accuracy", flat((50.0, 70.0, 60.0))), {})
    alpha = rows("alpha", {64: [0.9, 0.91], 128: [1.3, 1.31]}, measure="spectrum(images=64)")
    found = by_name(proxies(pd.concat([alpha, rows("RankMe", {32: [1.0, 2.0]}, measure="spectrum(images=64)")]), {}, labels))
    assert found["alpha"].missing == "not measured at D=32" and found["alpha"].tracking
    assert found["alpha"].tracking.widths == 2
    assert found["RankMe"].advice is None and "no second width beside D=32" in found["RankMe"].missing
    assert "zeros per image" not in found
    assert proxies(rows("accuracy", flat((50.0, 70.0, 60.0))), {}, labels) == []
