"""How wide: the narrowest representation that is as good, as far as the numbers tell, as the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from wingspan.errors import UserError
from wingspan.evidence import Floats
from wingspan.selection import MissingError, Where, grid_of, pick

Costs = Mapping[int, Mapping[str, float]]
"""Width -> what it costs: {"parameters": 11e6, "bytes a vector": 64}."""


@dataclass(frozen=True)
class Curve:
    """One number against D. values: (seeds, widths) in `unit`, accuracies in points, of the seeds that have every width."""

    widths: tuple[int, ...]  # rising
    seeds: tuple[object, ...]
    values: Floats
    measured: Floats  # (widths,) standard error of the mean that the measure itself tells; NaN where it tells none
    unit: str
    over: str  # what each value is the mean over; may be ""

    @property
    def errors(self) -> Floats:
        """(widths,) one standard error of each width's mean: over seeds, or with one seed the measurements' own."""
        if len(self.seeds) == 1:
            return self.measured
        found: Floats = np.std(self.values, axis=0, ddof=1) / math.sqrt(len(self.seeds))
        return found


@dataclass(frozen=True)
class Advice:
    """The width advised and why; values in `unit`, accuracies in points."""

    width: int
    best: int
    means: Mapping[int, float]
    error: float
    """One standard error of the best width's mean: over seeds, or with one seed over test images."""
    n: int
    unit: str
    costs: Mapping[str, float]
    errors: Mapping[int, float]
    """One standard error of every width's mean; NaN where nothing tells it."""
    sentence: str = ""


def advise(table: pd.DataFrame, where: Where, costs: Costs) -> Advice:
    """The narrowest width whose mean lies within one standard error of the highest mean (Breiman et al. 1984, section 3.4.3).

    `table` is `wingspan.results.tables(...).numbers`; `where` picks what matters: objective, measure, metric and the tasks, of
    a metric for which more is better. Seeds are the unit: tasks are averaged within a seed, and only seeds with every width
    count. With one seed the standard error is the measurements' own, tasks taken as independent.

    Raises UserError where something of this was not measured, and where one seed's measurements tell no standard error.
    """
    return advised(against_width(table, where), costs)


def against_width(table: pd.DataFrame, where: Where) -> Curve:
    """What `where` picks of a table, against D. Raises UserError where something of it was not measured."""
    try:
        widths = sorted({int(width) for width in pick(table, where)["width"]})
        if len(widths) < 2:
            raise MissingError(f"no second width beside D={widths[0]}")
        grid = grid_of(where, table, [{"width": width} for width in widths])
        whole = ~np.isnan(grid.values).any(axis=1)
        if not whole.any():
            raise MissingError(f"no seed has a value at every width: {', '.join(map(str, widths))}")
    except MissingError as error:
        raise UserError(f"No width can be advised: {error}. Measure it, or ask about what was measured.") from None
    seeds = tuple(grid.seeds[int(place)] for place in np.flatnonzero(whole))
    rows = pick(table, where)
    rows = rows[rows["seed"].isin(seeds)]
    measured = [_measured(rows[rows["width"] == str(width)], grid.unit) for width in widths]
    return Curve(tuple(widths), seeds, grid.values[whole], np.array(measured), grid.unit, grid.over)


def _measured(rows: pd.DataFrame, unit: str) -> float:
    """Standard error of the mean of independent measurements."""
    errors = rows["error"].to_numpy(dtype=float) if "error" in rows else np.full(1, math.nan)
    return float(np.sqrt((errors**2).sum())) / len(errors) * (100 if unit == "points" else 1)


def advised(curve: Curve, costs: Costs) -> Advice:
    """The rule of `advise` on a curve of which more is better. Raises UserError where nothing tells the best's error."""
    means = {width: float(mean) for width, mean in zip(curve.widths, curve.values.mean(axis=0), strict=True)}
    errors = {width: float(error) for width, error in zip(curve.widths, curve.errors, strict=True)}
    best = max(curve.widths, key=lambda width: means[width])
    if math.isnan(errors[best]):
        raise UserError("No width can be advised from one seed of a measure without standard errors: run a second seed.")
    width = next(width for width in curve.widths if means[width] >= means[best] - errors[best])
    found = Advice(width, best, means, errors[best], len(curve.seeds), curve.unit, costs.get(width, {}), errors)
    return replace(found, sentence=_sentence(found, curve.over, costs))


def _sentence(found: Advice, over: str, costs: Costs) -> str:
    def cost(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    def number(value: float) -> str:
        return f"{value:.{2 if 0 < value < 0.1 else 1}f}" if found.unit else f"{value:.3g}"

    unit = f" {found.unit}" if found.unit else ""
    seeds = f"n = {found.n} seed{'s' * (found.n > 1)}" + (f", each the mean of {over}" if over else "")
    error = f"one standard error ({number(found.error)}{unit}, {seeds})"
    mean, best = number(found.means[found.width]), number(found.means[found.best])
    text = f"D={found.width}: {mean}{unit}, within {error} of the best, {best} at D={found.best}"
    if found.width == found.best:
        text = f"D={found.width}: {mean}{unit}, the best; no narrower one comes within {error}"
        if found.width == min(found.means):
            text = f"D={found.width}: {mean}{unit}, the best and the narrowest ({seeds})"
        elif found.width == max(found.means):
            text += "; no wider one was measured"
    if found.width == min(found.means):
        text += "; no narrower one was measured"
    dear = costs.get(found.best, {}) if found.width != found.best else {}
    parts = [
        f"{name} {cost(value)}" + (f" instead of {cost(dear[name])}" if name in dear else "")
        for name, value in found.costs.items()
    ]
    return text + (f"; {', '.join(parts)}" if parts else "") + "."
