"""Claims against constructed tables whose verdicts are known, scipy, and simulated studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from wingspan import evidence
from wingspan.claims import Claim, Difference, Extreme, Flat, Shrinks, Trend, Verdict, judge
from wingspan.errors import UserError

WIDTHS = (32, 64, 128, 256)
PROBE = {"objective": "simclr", "measure": "linear", "metric": "accuracy"}
NONE, SMALL, LARGE = {"projector": ""}, {"projector": "32"}, {"projector": "8192"}


def row(value: float, seed: int, width: int = 32, **more: object) -> dict[str, object]:
    about = {"objective": "simclr", "measure": "linear", "metric": "accuracy", "series": "", "data": "scenes", "task": "kind"}
    return {"run": f"{width}-{seed}", "width": width, "seed": seed, **about, "role": "transfer", "value": value, **more}


def along(value: Callable[[int, int], float], seeds: Iterable[int], **more: object) -> pd.DataFrame:
    """A row a seed and width; `value` of (place of the width, seed)."""
    return pd.DataFrame([row(value(k, seed), seed, width, **more) for seed in seeds for k, width in enumerate(WIDTHS)])


def projectors(values: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame([row(value, seed, projector=key) for key, made in values.items() for seed, value in enumerate(made)])


def says(kind: Trend | Difference | Shrinks | Extreme | Flat, table: pd.DataFrame, **where: object) -> Verdict:
    return judge(Claim("a sentence", {**PROBE, **where}, kind), table)


# ------------------------------------------------------------------------------------------------------------- the statistics


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30])
def test_students_distribution_is_scipys(degrees: int) -> None:
    for t in (0.0, 0.3, 2.0, 12.0):
        assert evidence.student(t, degrees) == pytest.approx(1 - 2 * scipy.stats.t.sf(t, degrees), abs=1e-12)
    for confidence in (0.5, 0.95, 0.99):
        assert evidence.quantile(confidence, degrees) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, degrees))


def test_theil_sen_slopes_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.normal(size=6)), rng.normal(size=(5, 6))
    assert evidence.theil_sen(x, y) == pytest.approx([scipy.stats.theilslopes(one, x).slope for one in y])


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_the_permutation_p_value_is_that_of_every_deal_written_out(lines: int) -> None:
    rng = np.random.default_rng(lines)
    x = np.array([0.0, 1.0, 3.0, 4.0])
    ys = rng.integers(0, 4, size=(lines, 4)) + 0.5 * x  # ties among values and among slopes
    observed = sum(scipy.stats.theilslopes(y, x).slope for y in ys)
    slopes = [[scipy.stats.theilslopes(list(deal), x).slope for deal in itertools.permutations(y)] for y in ys]
    sums = np.array([sum(deal) for deal in itertools.product(*slopes)])
    for sign in (1, -1):
        p, exact = evidence.permutation([(x, y) for y in ys], sign)
        assert exact
        assert p == pytest.approx(float((sign * sums >= sign * observed - 1e-9).mean()))


def test_a_permutation_too_large_to_count_is_drawn_and_agrees_with_the_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lines = [(np.arange(5.0), rng.normal(size=5)) for _ in range(3)]
    counted, exact = evidence.permutation(lines, 1)
    monkeypatch.setattr(evidence, "LARGEST", 100)
    drawn, still = evidence.permutation(lines, 1)
    assert (exact, still) == (True, False)
    assert 0.01 < counted < 0.9
    assert drawn == pytest.approx(counted, abs=4 * math.sqrt(counted / evidence.DRAWS))
    monkeypatch.undo()
    assert evidence.permutation([(np.arange(9.0), rng.normal(size=9))], 1)[1] is False


def test_the_bootstrap_of_five_seeds_is_that_of_all_3125_draws() -> None:
    values = np.array([1.0, 2.0, 4.0, 4.5, 6.0])
    every = [np.mean(draw) for draw in itertools.product(values, repeat=5)]
    assert evidence.Sample.of(values).bootstrap() == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.11)
    assert evidence.Sample.of(values).bootstrap() == evidence.Sample.of(values).bootstrap()


# --------------------------------------------------------------------------------------------------------------------- trends


def test_a_trend_is_the_mean_of_the_seeds_slopes_with_its_t_interval_in_points_per_doubling() -> None:
    slopes = [0.010, 0.012, 0.020]
    found = says(Trend("rises"), along(lambda k, seed: 0.5 + 0.1 * seed + slopes[seed] * k, range(3)))
    low, high = scipy.stats.t.interval(0.95, 2, 1.4, scipy.stats.sem([1.0, 1.2, 2.0]))
    assert (found.word, found.n, found.unit) == ("holds", 3, "points per doubling of width")
    assert (found.statistic, found.low, found.high) == pytest.approx((1.4, low, high))
    assert found.p == pytest.approx(1 / 24**3)
    assert found.sentence == (
        "Holds: over width 32 to 256, the Theil-Sen slope is +1.40 points per doubling of width "
        "(95 % interval +0.09 to +2.71; n = 3 seeds; one-sided p = 7.2e-05 by permutation)."
    )
    assert says(Trend("falls"), along(lambda k, seed: 0.5 + slopes[seed] * k, range(3))).word == "fails"
    assert says(Trend("falls"), along(lambda k, seed: 0.5 - slopes[seed] * k, range(3))).word == "holds"


def test_one_seed_never_decides_yet_its_slope_is_told() -> None:
    found = says(Trend("rises"), along(lambda k, seed: 0.5 + 0.1 * k, [4]))
    assert (found.word, found.n, found.statistic) == ("undecided", 1, pytest.approx(10.0))
    assert math.isnan(found.low)
    assert "+10.00 points per doubling of width (one seed gives no interval; n = 1 seed; one-sided p = 0.042" in found.sentence


def test_seeds_that_agree_to_rounding_decide_nothing() -> None:
    table = along(lambda k, seed: 0.1 + 0.1 * seed + 0.1 * k, range(3))
    found = says(Trend("rises"), table)
    assert found.word == "undecided"
    assert "3 seeds agree exactly" in found.sentence
    assert math.isnan(evidence.Sample.of(np.array([1e-17, 2e-17, 1e-17]), 1.0).error)
    same = projectors({"32": [0.1, 0.2, 0.3], "": [0.1, 0.2, 0.3]})
    assert says(Flat((SMALL, NONE), 1.0), same).word == "undecided"


def test_tasks_are_averaged_within_a_seed_and_the_sentence_says_so() -> None:
    steep = along(lambda k, seed: 0.5 + (0.02 + 0.004 * seed) * k, range(3), task="steep")
    table = pd.concat([steep, along(lambda k, seed: 0.5, range(3), task="level")])
    found = says(Trend("rises"), table)
    assert found.statistic == pytest.approx(1.2)
    assert "n = 3 seeds, each the mean of 2 tasks;" in found.sentence


def test_a_trend_along_another_axis_by_its_log_or_itself() -> None:
    temperatures = {"0.1": 0, "0.2": 1, "0.4": 2}
    rows = [
        row(1 + seed + (2 + seed) * k, seed, metric="rank", temperature=t) for t, k in temperatures.items() for seed in range(3)
    ]
    table = pd.DataFrame(rows)
    assert says(Trend("rises", "temperature"), table, metric="rank").statistic == pytest.approx(3.0)
    plain = says(Trend("rises", "temperature", log=False), table, metric="rank")
    assert plain.statistic == pytest.approx(3 * np.median([1 / 0.1, 1 / 0.2, 2 / 0.3]))
    assert plain.unit == "per unit of temperature"
    with pytest.raises(UserError, match="temperature 0 has no logarithm"):
        says(Trend("rises", "temperature"), table.replace({"temperature": {"0.1": "0"}}), metric="rank")
    with pytest.raises(UserError, match=r"no numbers: 0\.4, hot, mild"):
        says(Trend("rises", "temperature"), table.replace({"temperature": {"0.1": "hot", "0.2": "mild"}}), metric="rank")


def test_a_seed_without_both_ends_is_left_out_of_a_trend_and_one_without_a_middle_width_is_not() -> None:
    table = along(lambda k, seed: 0.5 + (0.01 + 0.001 * seed) * k, range(4))
    middle, end = (table["seed"] == 1) & (table["width"] == 64), (table["seed"] == 3) & (table["width"] == 256)
    table.loc[end, "value"] = math.nan
    found = says(Trend("rises"), table[~middle])
    assert (found.n, found.statistic) == (3, pytest.approx(1.1))
    assert "n = 3 seeds, 1 left out for lack of a value" in found.sentence


# ---------------------------------------------------------------------------------------------------------------- differences


def test_a_difference_is_paired_by_seed_as_scipys_paired_t_test() -> None:
    first, second = [0.40, 0.52, 0.61, 0.70], [0.38, 0.49, 0.60, 0.66]
    table = projectors({"32": first, "": second}).sample(frac=1, random_state=0)
    found = says(Difference(SMALL, NONE), table)
    oracle = scipy.stats.ttest_rel(first, second, alternative="greater")
    interval = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert (found.word, found.statistic, found.unit) == ("holds", pytest.approx(2.5), "points")
    assert found.sentence.startswith(
        "Holds: projector 32 minus projector none +2.50 points (95 % interval +0.45 to +4.55; n = 4"
    )
    assert "bootstrap +1." in found.sentence
    assert says(Difference(NONE, SMALL), table).word == "fails"
    assert says(Difference(NONE, SMALL, "below"), table).word == "holds"


def test_seeds_that_only_one_setting_has_are_left_out_of_a_difference() -> None:
    table = projectors({"32": [0.4, 0.5, 0.6, math.nan], "": [0.39, 0.48, 0.57, 0.5]})
    found = says(Difference(SMALL, NONE), table)
    assert (found.n, found.statistic) == (3, pytest.approx(2.0))
    assert "1 left out" in found.sentence


def test_a_seed_that_lacks_a_task_is_left_out_rather_than_averaged_over_fewer() -> None:
    rows = [row(0.5 + 0.01 * (seed + 1) * (key == "32"), seed, projector=key, task=task)
            for key in ("", "32") for seed in range(3) for task in ("easy", "hard")]  # fmt: skip
    found = says(Difference(SMALL, NONE), pd.DataFrame(rows[:-1]))
    assert (found.n, found.statistic) == (2, pytest.approx(1.5))


def test_a_gap_that_closes_shrinks_and_one_that_opens_fails() -> None:
    def both(sign: int) -> pd.DataFrame:
        gap = [[0.10, 0.08, 0.05, 0.02], [0.11, 0.08, 0.05, 0.01], [0.12, 0.08, 0.05, 0.03]]
        upper = along(lambda k, seed: 0.5 + 0.02 * k + gap[seed][::sign][k], range(3), series="mlp")
        return pd.concat([upper, along(lambda k, seed: 0.5 + 0.02 * k, range(3), series="linear")])

    kind = Shrinks({"series": "mlp"}, {"series": "linear"})
    found = says(kind, both(1))
    oracle = scipy.stats.ttest_1samp([-8, -10, -9], 0, alternative="less")
    assert (found.word, found.statistic, found.p) == ("holds", pytest.approx(-9.0), pytest.approx(oracle.pvalue))
    assert "from width 32 to 256, series mlp minus series linear goes +11.00 to +2.00, by -9.00 points" in found.sentence
    assert says(kind, both(-1)).word == "fails"
    assert says(kind, both(1).query("seed == 0")).word == "undecided"


def test_the_gap_between_roles_may_have_other_tasks_on_each_side() -> None:
    own = along(lambda k, seed: 0.9, range(3), role="in-distribution", task="own")
    others = [along(lambda k, seed: 0.5 + (0.1 + 0.01 * seed) * k, range(3), task=task) for task in ("a", "b")]
    kind = Shrinks({"role": "in-distribution"}, {"role": "transfer"})
    assert says(kind, pd.concat([own, *others])).word == "holds"
    lacking = others[1][others[1]["width"] != 256]
    assert says(kind, pd.concat([own, others[0], lacking])).word == "not measured"


# ---------------------------------------------------------------------------------------------------------- orders, equivalence


def test_the_best_of_several_holds_by_its_weakest_comparison() -> None:
    table = projectors({"32": [0.60, 0.61, 0.62], "8192": [0.57, 0.59, 0.59], "": [0.30, 0.31, 0.33]})
    found = says(Extreme(SMALL, (NONE, LARGE)), table)
    assert found.word == "holds"
    assert "projector 32 minus projector 8192 +2.67 points (95 % interval" in found.sentence
    assert found.sentence.endswith("; Holm over 2 comparisons).")
    assert says(Extreme(NONE, (SMALL, LARGE), "lowest"), table).word == "holds"
    assert says(Extreme(LARGE, (SMALL, NONE)), table).word == "fails"
    once = says(Extreme(SMALL, (NONE, LARGE)), table[table["seed"] == 0])
    assert (once.word, once.statistic) == ("undecided", pytest.approx(3.0))  # its nearest rival
    assert says(Extreme(SMALL, (LARGE,)), table).sentence.endswith("one-sided p = 0.0076).")


def test_several_comparisons_are_held_to_holm() -> None:
    differences = {"a": [0.02, 0.03, 0.035], "b": [0.02, 0.03, 0.036], "c": [0.02, 0.03, 0.037]}
    for values in differences.values():  # each alone excludes 0 at 95 %, none at 98.3 %
        assert 0.025 / 3 < scipy.stats.ttest_1samp(values, 0, alternative="greater").pvalue < 0.025
    table = projectors({"32": [0.6, 0.6, 0.6], **{key: [0.6 - d for d in made] for key, made in differences.items()}})
    found = says(Extreme(SMALL, tuple({"projector": key} for key in differences)), table)
    assert found.word == "undecided"
    assert found.low < 0 < found.high
    assert "98.3 % interval" in found.sentence


def test_flat_is_equivalence_within_the_margin_by_two_one_sided_tests() -> None:
    table = projectors({"32": [0.500, 0.510, 0.520], "8192": [0.503, 0.509, 0.520], "": [0.450, 0.462, 0.470]})
    found = says(Flat((SMALL, LARGE), 1.0), table)
    differences = np.array([-0.3, 0.1, 0.0])
    lower = scipy.stats.ttest_1samp(differences, -1, alternative="greater").pvalue
    upper = scipy.stats.ttest_1samp(differences, 1, alternative="less").pvalue
    assert (found.word, found.p) == ("holds", pytest.approx(max(lower, upper)))
    assert found.sentence.endswith("; margin 1 points).")
    assert says(Flat((SMALL, LARGE), 0.2), table).word == "undecided"
    assert says(Flat((SMALL, LARGE, NONE), 1.0), table).word == "fails"
    both = says(Flat((NONE, LARGE, SMALL), 10.0), table)
    assert both.word == "holds"
    assert "largest of 3 differences" in both.sentence


# ------------------------------------------------------------------------------------------------------- what a table may lack


@pytest.mark.parametrize(
    ("kind", "where", "named"),
    [
        (Trend("rises"), {"measure": "knn"}, "no number with objective simclr, measure knn"),
        (Trend("rises"), {"task": ("kind", "count")}, "no number with task count among those with"),
        (Trend("rises"), {"width": 64}, "a second value of width: there is only 64"),
        (Trend("rises", "temperature"), {}, "a second value of temperature: there is only none"),
        (
            Difference(SMALL, NONE),
            {},
            "no number with projector 32 among those with objective simclr, measure linear, metric accuracy",
        ),
        (Extreme(NONE, (LARGE,)), {}, "projector 8192"),
        (Flat(({"width": 32}, {"width": 512}), 1.0), {}, "width 512"),
        (Shrinks({"series": "mlp"}, {"series": ""}), {}, "series mlp"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_guessed(kind: Trend, where: dict[str, object], named: str) -> None:
    found = says(kind, along(lambda k, seed: 0.5 + 0.1 * k + 0.01 * seed * k, range(3)), **where)
    assert (found.word, found.p) == ("not measured", None)
    assert math.isnan(found.statistic)
    assert found.sentence.startswith("Not measured: ")
    assert named in found.sentence


def test_a_task_measured_at_one_setting_only_is_missing_not_averaged_away() -> None:
    table = projectors({"32": [0.6, 0.7, 0.8], "": [0.5, 0.5, 0.6]})
    more = pd.DataFrame([row(0.1, seed, projector="", task="hard") for seed in range(3)])
    found = says(Difference(SMALL, NONE), pd.concat([table, more]))
    assert found.sentence == "Not measured: no number for task hard at projector 32."


def test_seeds_without_a_pair_and_empty_tables_are_not_measured() -> None:
    table = pd.concat([projectors({"32": [0.6]}), projectors({"": [math.nan, 0.5]})])
    assert says(Difference(SMALL, NONE), table).sentence.startswith("Not measured: no seed has all the values")
    ends = along(lambda k, seed: 0.1 * k, range(2))
    apart = ends[(ends["seed"] == 0) == (ends["width"] == 32)]
    assert says(Trend("rises"), apart).word == "not measured"
    assert says(Shrinks({"task": "kind"}, {"task": "kind"}), apart).word == "not measured"
    assert says(Trend("rises"), pd.DataFrame()).word == "not measured"
    assert says(Trend("rises"), ends.assign(value=math.nan)).word == "not measured"


def test_a_claim_may_not_mix_measures_or_count_a_number_twice_or_be_misspelt() -> None:
    table = along(lambda k, seed: 0.5, range(2))
    with pytest.raises(UserError, match=r"several values of series \(, mlp\)"):
        says(Trend("rises"), pd.concat([table, table.assign(series="mlp")]))
    with pytest.raises(UserError, match=r"a number twice at .*width 32"):
        says(Trend("rises"), pd.concat([table, table]))
    with pytest.raises(UserError, match=r"'rise' is no direction of a claim\. Did you mean 'rises'"):
        Trend("rise")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="margin 0"):
        Flat((SMALL, NONE), 0)
    with pytest.raises(UserError, match="highest of nothing"):
        Extreme(SMALL, ())


def test_numbers_and_texts_name_the_same_value_and_a_missing_column_is_an_empty_one() -> None:
    table = along(lambda k, seed: 0.5 + 0.1 * k + 0.01 * seed * k, range(3)).astype({"width": float}).drop(columns="series")
    at = {"32": says(Difference({"width": 64}, {"width": "32"}), table), "none": says(Trend("rises"), table, series="")}
    assert [found.word for found in at.values()] == ["holds", "holds"]


# --------------------------------------------------------------------------------------------------------- simulated studies


NOISE = 0.02
KINDS = {
    "trend": Trend("rises"),
    "difference": Difference({"width": 256}, {"width": 32}),
    "shrinks": Shrinks({"series": "a"}, {"series": "b"}),
    "best": Extreme({"width": 256}, ({"width": 32}, {"width": 64}, {"width": 128})),
    "flat": Flat(({"width": 64}, {"width": 32}), 2.0),
}


def simulated(name: str, seeds: int, studies: int, step: float) -> float:
    """The share of studies in which a claim holds: a seed's own level, noise, and a true step a doubling of the width."""
    rng, held = np.random.default_rng([seeds, *name.encode()]), 0
    for _ in range(studies):
        level, noise = rng.normal(0.6, 0.05, seeds), rng.normal(0, NOISE, (2, seeds, len(WIDTHS)))
        a, b = level[:, None] + noise + step * np.array([[[0.0]], [[1.0]]]) * np.arange(len(WIDTHS))
        table = along(lambda k, seed, b=b: b[seed, k], range(seeds), series="b")
        if name == "shrinks":
            table = pd.concat([along(lambda k, seed, a=a: a[seed, k], range(seeds), series="a"), table])
        held += says(KINDS[name], table).word == "holds"
    return held / studies


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_an_interval_of_few_seeds_misses_the_truth_in_one_case_of_forty_on_each_side(seeds: int) -> None:
    drawn = np.random.default_rng(seeds).normal(size=(4000, seeds))
    low, high = np.array([evidence.Sample.of(values).interval() for values in drawn]).T
    assert [(low > 0).mean(), (high < 0).mean()] == pytest.approx([0.025, 0.025], abs=4 * math.sqrt(0.025 / 4000))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", KINDS)
def test_where_there_is_nothing_a_claim_holds_in_one_study_of_forty_at_most(name: str, seeds: int) -> None:
    nothing = 0.02 if name == "flat" else 0.0  # a difference of just the margin is the equivalence's worst case
    studies = 40
    assert simulated(name, seeds, studies, nothing) <= 0.025 + 3 * math.sqrt(0.025 / studies)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", KINDS)
def test_a_large_effect_is_nearly_always_seen(name: str, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "flat":
        monkeypatch.setitem(KINDS, "flat", Flat(({"width": 64}, {"width": 32}), 20.0))
    assert simulated(name, seeds, 10, 0.0 if name == "flat" else 0.2) >= 0.9


def test_no_study_of_one_seed_or_of_two_alike_holds() -> None:
    assert all(simulated(name, 1, 3, 0.2) == 0 for name in KINDS)
