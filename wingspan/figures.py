"""Numbers against width, as small multiples; and where there is one width only, dots in rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from wingspan.canvas import INK, Panel, Picture, Style, short
from wingspan.tables import OWN


@dataclass(frozen=True)
class Plot:
    """What one set of panels shows.

    cells: a row per mark with `mean`, `half` (of the 95 % interval; NaN for one seed), `error` (of that one seed), `chance`,
    `width`, `role`. points: a row per seed with `value`. Both carry `facet` (the panel it is drawn in), `title` and
    `caption` of it, `trace` (the line it belongs to), `scope` (facets of one scope share their vertical range) and, where
    `width` does not vary, `row` (what stands at the left of its dots).
    """

    cells: pd.DataFrame
    points: pd.DataFrame
    label: str  # of the axis of values
    styles: Mapping[str, Style]  # by trace
    scale: float = 1.0  # 100 draws a fraction as per cent


def against_width(plot: Plot, columns: int = 0) -> Picture:
    """A panel a facet, a line a trace."""
    return Picture(_panels(plot, _draw_lines), plot.styles, columns=columns)


def dots(plot: Plot) -> Picture:
    """For one width: a panel a facet, a line of dots a row, values to the right."""
    rows = int(plot.cells.groupby("facet")["row"].nunique().max())
    traces = plot.cells["trace"].nunique()
    height = 1.05 + rows * max(0.24, 0.11 * traces)
    return Picture([replace(panel, own=False) for panel in _panels(plot, _draw_dots)], plot.styles, size=(5.4, height))


def _panels(plot: Plot, draw: Any) -> list[Panel]:
    own_first = plot.cells.sort_values("role", kind="stable")  # "in-distribution" before "transfer"
    rank = {panel: place for place, panel in enumerate(dict.fromkeys(own_first["panel"]))}
    facets = own_first.sort_values("panel", key=lambda panel: panel.map(rank), kind="stable").drop_duplicates("facet")
    return [
        Panel(title, caption, role == OWN, functools.partial(draw, plot=plot, facet=facet))
        for facet, title, caption, role in facets[["facet", "title", "caption", "role"]].to_numpy()
    ]


def reach(cells: pd.DataFrame) -> pd.Series[float]:
    """How far a cell's bar goes to each side: the interval over seeds, else one seed's standard error, else 0."""
    return cells["half"].fillna(cells["error"]).fillna(0.0).astype(float)


def _draw_lines(axes: Any, plot: Plot, facet: str) -> None:
    cells, points = (frame[frame["facet"] == facet] for frame in (plot.cells, plot.points))
    widths = sorted(set(plot.cells["width"]))
    span = max(math.log2(widths[-1] / widths[0]), 1.0)
    drawn = {trace: style for trace, style in plot.styles.items() if trace in set(plot.cells["trace"])}
    gap = min(np.diff(np.log2(widths)), default=1.0)
    # lines step aside so that their bars do not hide each other; without bars there is no need to
    step = min(0.014 * span, 0.3 * gap / len(drawn)) if reach(plot.cells).any() else 0.0
    for index, (trace, style) in enumerate(drawn.items()):
        mine, seeds = cells[cells["trace"] == trace].sort_values("width"), points[points["trace"] == trace]
        aside = (index - (len(drawn) - 1) / 2) * step
        x, mean = np.log2(mine["width"].to_numpy(float)) + aside, mine["mean"].to_numpy(float) * plot.scale
        bar = reach(mine).to_numpy() * plot.scale
        axes.vlines(x, mean - bar, mean + bar, color=style.colour, lw=np.where(mine["half"].notna(), 1.3, 0.8), alpha=0.5)
        seen = seeds["value"].to_numpy(float) * plot.scale
        axes.plot(np.log2(seeds["width"].to_numpy(float)) + aside, seen, "o", color=style.colour, ms=2.6, alpha=0.4, mew=0)
        axes.plot(x, mean, style.dash, marker=style.marker, color=style.colour, lw=1.6, ms=4.6, mew=0)
    chance = float(cells["chance"].iloc[0])
    if math.isfinite(chance):
        axes.axhline(chance * plot.scale, color=INK, lw=0.9, ls=(0, (4, 3)), alpha=0.65, zorder=0.5)
    scope = cells["scope"].iloc[0]
    cells, points = (frame[frame["scope"] == scope] for frame in (plot.cells, plot.points))
    axes.set_ylim(*limits(cells, points, plot.scale))
    axes.set_ylabel(plot.label if len(plot.label) <= 28 else plot.label.rpartition(", ")[2][:28])
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
    width_ticks(axes, widths, span)


def limits(cells: pd.DataFrame, points: pd.DataFrame, scale: float) -> tuple[float, float]:
    """All means, seeds and chance; bars only as far as they leave the lines readable (two seeds: t = 12.7)."""
    seen = np.concatenate([cells["mean"], points["value"], cells["chance"]]).astype(float)
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    room = max(high - low, 0.02 if scale != 1.0 else abs(high) * 0.05 or 0.05)
    bar = reach(cells)
    bottom = max(float((cells["mean"] - bar).min()), low - 0.3 * room)
    top = min(float((cells["mean"] + bar).max()), high + 0.3 * room)
    top = min(top, max(high, 1.0)) if scale == 100 else top  # no accuracy above 100 %
    return (min(bottom, low) - 0.06 * room) * scale, (max(top, high) + 0.06 * room) * scale


def width_ticks(axes: Any, widths: Sequence[int], span: float, margin: float = 0.06) -> None:
    """Name the widths along an axis of log2 D where there is room, with a margin of so much of the span at either end."""
    ticks = [math.log2(width) for width in widths]
    shown: list[float] = []
    for tick in reversed(ticks):  # from the widest, whose label is the longest and the one most looked for
        if not shown or shown[-1] - tick >= 0.115 * span:
            shown.append(tick)
    axes.set_xticks(ticks, [str(w) if t in shown else "" for w, t in zip(widths, ticks, strict=True)])
    axes.set_xlim(ticks[0] - margin * span, ticks[-1] + margin * span)
    axes.set_xlabel("representation width D")


def _draw_dots(axes: Any, plot: Plot, facet: str) -> None:
    cells, points = (frame[frame["facet"] == facet] for frame in (plot.cells, plot.points))
    rows = {row: place for place, row in enumerate(dict.fromkeys(cells["row"]))}
    drawn = [trace for trace in plot.styles if trace in set(plot.cells["trace"])]
    step = 0.6 / len(drawn)
    for index, trace in enumerate(drawn):
        style, aside = plot.styles[trace], (index - (len(drawn) - 1) / 2) * step
        mine, seeds = cells[cells["trace"] == trace], points[points["trace"] == trace]
        y, mean = mine["row"].map(rows).to_numpy(float) + aside, mine["mean"].to_numpy(float) * plot.scale
        bar = reach(mine).to_numpy() * plot.scale
        axes.hlines(y, mean - bar, mean + bar, color=style.colour, lw=np.where(mine["half"].notna(), 1.6, 1.0), alpha=0.6)
        at, seen = seeds["row"].map(rows).to_numpy(float) + aside, seeds["value"].to_numpy(float) * plot.scale
        axes.plot(seen, at, "o", color=style.colour, ms=2.6, alpha=0.4, mew=0)
        axes.plot(mean, y, style.marker, ls="none", color=style.colour, ms=5.2, mew=0)
    guess = cells.dropna(subset=["chance"]).drop_duplicates("row")
    at = guess["row"].map(rows).to_numpy(float)
    axes.vlines(guess["chance"] * plot.scale, at - 0.42, at + 0.42, color=INK, lw=0.9, ls=(0, (3, 2)), alpha=0.65, zorder=0.5)
    axes.set_yticks(list(rows.values()), [short(str(row), 30) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(*limits(plot.cells, plot.points, plot.scale))
    axes.set_xlabel(short(plot.label, 50))
    axes.grid(axis="x", color=INK, alpha=0.12, lw=0.6)
