"""Claims as values, and what a table of numbers says to each: holds, fails, undecided, or not measured.

Seeds are the unit. Whatever else varies among the rows a claim picks (tasks, data sets, further axes) is averaged within a
seed, and a seed counts only where nothing of that mean is missing: means over different tasks cannot be compared. Differences
are paired by seed. A claim holds where the t-interval of the mean over seeds lies wholly on the claimed side and fails where it
lies wholly on the other; so one seed never decides, nor do seeds that agree to the last digit, whose spread nobody can tell.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from wingspan.errors import UserError, nearest
from wingspan.evidence import Floats, Sample, permutation, theil_sen
from wingspan.selection import Grid, MissingError, Where, grid_of, pick, spoken

Word = Literal["holds", "fails", "undecided", "not measured"]


def _check(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise UserError(f"'{value}' is no {name} of a claim.{nearest(value, known)}")


@dataclass(frozen=True)
class Trend:
    """The value rises or falls along an axis of numbers: the mean over seeds of each seed's Theil-Sen slope (Sen 1968)."""

    direction: Literal["rises", "falls"]
    axis: str = "width"
    log: bool = True
    """Slope over log2 of the axis, so per doubling; False: over the axis itself."""

    def __post_init__(self) -> None:
        _check("direction", self.direction, "rises", "falls")


@dataclass(frozen=True)
class Difference:
    """The value at one setting minus that at another is above (or below) 0."""

    first: Where
    second: Where
    direction: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        _check("direction", self.direction, "above", "below")


@dataclass(frozen=True)
class Shrinks:
    """First minus second is smaller at the axis's upper end than at its lower. Put first what lies above: a gap is above 0."""

    first: Where
    second: Where
    axis: str = "width"


@dataclass(frozen=True)
class Extreme:
    """One setting lies above all others (or below): which of the two is best depends on the metric."""

    setting: Where
    others: tuple[Where, ...]
    place: Literal["highest", "lowest"] = "highest"

    def __post_init__(self) -> None:
        _check("place", self.place, "highest", "lowest")
        if not self.others:
            raise UserError(f"{spoken(self.setting)} cannot be {self.place} of nothing: name the `others`.")


@dataclass(frozen=True)
class Flat:
    """No two of the settings differ by more than a margin (two one-sided tests, Schuirmann 1987, at 2.5 % each)."""

    settings: tuple[Where, ...]
    margin: float
    """In the unit that verdicts are told in: points for accuracies."""

    def __post_init__(self) -> None:
        if not self.margin > 0 or len(self.settings) < 2:
            raise UserError(
                f"{len(self.settings)} settings, margin {self.margin}: give two settings or more, and a margin above 0."
            )


Kind = Trend | Difference | Shrinks | Extreme | Flat


@dataclass(frozen=True)
class Claim:
    """A sentence and what decides it."""

    text: str
    where: Where
    """The rows it is about, such as objective, measure, metric, series, role."""
    kind: Kind


@dataclass(frozen=True)
class Verdict:
    """What the numbers say. `statistic`, `low` and `high` are in `unit`, accuracies in points; NaN where there is none."""

    word: Word
    statistic: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0  # seeds
    p: float | None = None  # one-sided, toward the claim; unadjusted for several comparisons
    unit: str = ""
    sentence: str = ""
    told: str = ""
    """The part of the sentence that names the statistic and gives it, without verdict and interval."""


def judge(claim: Claim, table: pd.DataFrame) -> Verdict:
    """What a table of `wingspan.results.tables(...).numbers` says to a claim.

    Raises UserError for a claim that mixes several measures, metrics, series or objectives without naming them, for a table
    that holds one number twice, and for a trend along an axis without numbers.
    """
    try:
        match claim.kind:
            case Trend():
                return _trend(claim, claim.kind, table)
            case Difference(first, second, direction):
                grid = grid_of(claim.where, table, [first, second])
                what = f"{spoken(first)} minus {spoken(second)}"
                return _compared(grid, grid.minus(0, 1), 1 if direction == "above" else -1, what)
            case Shrinks():
                return _shrinks(claim, claim.kind, table)
            case Extreme():
                return _extreme(claim, claim.kind, table)
            case Flat():
                return _flat(claim, claim.kind, table)
    except MissingError as error:
        return Verdict("not measured", sentence=f"Not measured: {error}.")


# -------------------------------------------------------------------------------------------------------------------- verdicts


def _word(low: float, high: float, sign: int) -> Word:
    side = (low > 0) - (high < 0)  # comparisons with NaN are false
    return "undecided" if side == 0 else "holds" if side == sign else "fails"


def _verdict(
    word: Word, grid: Grid, sample: Sample, p: float | None, what: str, confidence: float = 0.95, more: str = ""
) -> Verdict:
    """The sentence: verdict, statistic with unit and interval, number of seeds, what each is a mean over, p."""
    n, (low, high) = len(sample.values), sample.interval(confidence)
    if n == 0:
        raise MissingError(f"no seed has all the values for this: {what}")
    if n == 1:
        interval = "one seed gives no interval"
    elif math.isnan(low):
        interval = f"no interval: {n} seeds agree exactly, which does not tell their spread"
    else:
        interval = f"{confidence * 100:.3g} % interval {_number(low, grid.unit)} to {_number(high, grid.unit)}"
    unit = f" {grid.unit}" if grid.unit else ""
    over = f", each the mean of {grid.over}" if grid.over else ""
    away = f", {len(grid.seeds) - n} left out for lack of a value" if len(grid.seeds) > n else ""
    tail = "" if p is None else f"; one-sided p = {p:.2g}"
    seeds = f"n = {n} seed{'s' * (n > 1)}{away}{over}"
    told = f"{what} {_number(sample.mean, grid.unit)}{unit}"
    text = f"{word.capitalize()}: {told} ({interval}; {seeds}{tail}{more})."
    return Verdict(word, sample.mean, low, high, n, p, grid.unit, text, told)


def _number(value: float, unit: str) -> str:
    return f"{value:+.2f}" if unit.startswith("points") else f"{value:+.3g}"


def _p(sample: Sample, sign: int, bound: float = 0.0) -> float | None:
    return None if math.isnan(sample.error) else sample.p(sign, bound)


def _compared(grid: Grid, differences: Floats, sign: int, what: str) -> Verdict:
    sample = Sample.of(differences, grid.size)
    more = (
        "; bootstrap {} to {}".format(*(_number(end, grid.unit) for end in sample.bootstrap()))
        if len(sample.values) > 1
        else ""
    )
    return _verdict(_word(*sample.interval(), sign), grid, sample, _p(sample, sign), what, more=more)


def _ends(claim: Claim, axis: str, table: pd.DataFrame) -> list[str]:
    """The axis's values among the claim's rows, in rising order."""
    labels = set(pick(table, claim.where).get(axis, pd.Series([""])))
    if len(labels) < 2:
        raise MissingError(f"a second value of {axis}: there is only {labels.pop() or 'none'}")
    try:
        return sorted(labels, key=float)
    except ValueError:
        raise UserError(f"claim '{claim.text}': {axis} has values that are no numbers: {', '.join(sorted(labels))}.") from None


def _shrinks(claim: Claim, kind: Shrinks, table: pd.DataFrame) -> Verdict:
    labels = _ends(claim, kind.axis, table)
    ends = [{kind.axis: label} for label in (labels[0], labels[-1])]
    grid = grid_of(claim.where, table, [{**setting, **end} for end in ends for setting in (kind.first, kind.second)])
    gaps = grid.values[:, [0, 2]] - grid.values[:, [1, 3]]
    whole = gaps[~np.isnan(gaps).any(axis=1)]
    before, after = (_number(Sample.of(whole[:, end]).mean, grid.unit) for end in (0, 1))
    gap = f"{spoken(kind.first)} minus {spoken(kind.second)}"
    what = f"from {spoken(ends[0])} to {labels[-1]}, {gap} goes {before} to {after}, by"
    return _compared(grid, gaps[:, 1] - gaps[:, 0], -1, what)


def _extreme(claim: Claim, kind: Extreme, table: pd.DataFrame) -> Verdict:
    """Holm (1979) over the comparisons, at 2.5 % a side: the comparison told is the one that makes the word true."""
    grid = grid_of(claim.where, table, [kind.setting, *kind.others])
    sign, count = (1 if kind.place == "highest" else -1), len(kind.others)
    samples = [Sample.of(grid.minus(0, place + 1), grid.size) for place in range(count)]
    order = sorted(range(count), key=lambda place: (samples[place].p(sign), sign * samples[place].mean))
    levels = {place: 1 - 0.05 / (count - rank) for rank, place in enumerate(order)}
    each = {place: _word(*samples[place].interval(levels[place]), sign) for place in order}
    worst = min(range(count), key=lambda place: samples[place].p(-sign))
    word: Word = "holds"
    told, level = order[-1], 0.95
    if any(found != "holds" for found in each.values()):
        level = 1 - 0.05 / count
        word = "fails" if _word(*samples[worst].interval(level), sign) == "fails" else "undecided"
        told = worst if word == "fails" else next(place for place in order if each[place] != "holds")
    what = f"{spoken(kind.setting)} minus {spoken(kind.others[told])}"
    more = f"; Holm over {count} comparisons" if count > 1 else ""
    return _verdict(word, grid, samples[told], _p(samples[told], sign), what, level, more)


def _flat(claim: Claim, kind: Flat, table: pd.DataFrame) -> Verdict:
    """Holds where every pair's 95 % interval lies inside the margin; fails where one's (Bonferroni's) lies wholly outside."""
    grid = grid_of(claim.where, table, kind.settings)
    pairs = list(itertools.combinations(range(len(kind.settings)), 2))
    samples = [Sample.of(grid.minus(one, other), grid.size) for one, other in pairs]

    def reach(place: int) -> float:  # how far from 0 a pair may lie; a pair without an interval is the least known
        far = max(map(abs, samples[place].interval()))
        return math.inf if math.isnan(far) else far

    def clear(place: int) -> float:
        low, high = samples[place].interval(1 - 0.05 / len(pairs))
        return max(low, -high)

    word: Word = "holds"
    told, level = max(range(len(pairs)), key=reach), 0.95
    if not reach(told) < kind.margin:
        outside = [place for place in range(len(pairs)) if clear(place) > kind.margin]
        word, level = ("fails" if outside else "undecided"), 1 - 0.05 / len(pairs)
        told = max(outside, key=clear) if outside else told
    sample, (one, other) = samples[told], pairs[told]
    sides = [_p(sample, -1, kind.margin), _p(sample, 1, -kind.margin)]
    p = max((side for side in sides if side is not None), default=None)
    unit = f" {grid.unit}" if grid.unit else ""
    of = f", the largest of {len(pairs)} differences" if len(pairs) > 1 else ""
    what = f"{spoken(kind.settings[one])} minus {spoken(kind.settings[other])}"
    return _verdict(word, grid, sample, p, what, level, f"; margin {kind.margin:g}{unit}{of}")


def _trend(claim: Claim, kind: Trend, table: pd.DataFrame) -> Verdict:
    """A seed counts where it has both ends of the axis: slopes over different stretches cannot be averaged."""
    labels = _ends(claim, kind.axis, table)
    along = np.array([float(label) for label in labels])
    if kind.log and along[0] <= 0:
        raise UserError(f"claim '{claim.text}': {kind.axis} {labels[0]} has no logarithm; give the trend log=False.")
    along = np.log2(along) if kind.log else along
    grid = grid_of(claim.where, table, [{kind.axis: label} for label in labels])
    whole = ~np.isnan(grid.values[:, [0, -1]]).any(axis=1)
    lines = [(along[there], row[there]) for row in grid.values[whole] for there in [~np.isnan(row)]]
    sample = Sample.of(np.array([theil_sen(x, y[None])[0] for x, y in lines]), grid.size)
    sign = 1 if kind.direction == "rises" else -1
    p, exact = permutation(lines, sign) if lines else (None, True)
    per = f"{grid.unit} per {'doubling' if kind.log else 'unit'} of {kind.axis}".strip()
    grid = Grid(grid.values, grid.seeds, per, grid.over)
    more = " by permutation" + ("" if exact else ", drawn")
    what = f"over {kind.axis} {labels[0]} to {labels[-1]}, the Theil-Sen slope is"
    return _verdict(_word(*sample.interval(), sign), grid, sample, p, what, more=more)
