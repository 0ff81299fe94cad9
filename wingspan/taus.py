"""What was kept against width: a panel a factor, a line a group, the lower rungs and the references beside."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wingspan.canvas import GREY, INK, Panel, Picture, Style, styles
from wingspan.figures import width_ticks
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.kept import Metric, Rung
from wingspan.tables import arrange

MAIN: Mapping[Rung, tuple[Metric, str]] = {"samples": ("tau", "τ"), "decoder": ("r2", "R²"), "ridge": ("r2", "R²")}
_RIDGE: tuple[Rung, str, str] = ("ridge", "--", "D")  # with its dash and marker
_DECODER: tuple[Rung, str, str] = ("decoder", ":", "v")
_LOWER: Mapping[Rung, tuple[tuple[Rung, str, str], ...]] = {"samples": (_RIDGE, _DECODER), "decoder": (_RIDGE,), "ridge": ()}
_REFERENCES = Style(GREY, "-."), Style(GREY, ":"), Style(GREY, "--")
_FLOOR = -0.25  # of what is drawn: how far a failed fit falls below nothing is no matter
NOTE = "Bars: 95 % bootstrap intervals over test images"


def picture(table: pd.DataFrame, factors: Sequence[str], references: Sequence[str], rung: Rung) -> Picture | None:
    """Panels of `retained.table`, all of one vertical range; None where nothing but references was drawn.

    references: names of encoders that are drawn as horizontal lines.
    """
    own = table[~table["encoder"].isin(references)]
    if own.empty:
        return None
    lines = styles({group: group for group in arrange(set(own["group"]))})
    levels = dict(zip(references, _REFERENCES, strict=False))
    beside = {f"R² of the {lower}": Style(INK, dash, marker) for lower, dash, marker in _LOWER[rung]}
    shown = table[table["metric"].isin(("r2", MAIN[rung][0])) & table["factor"].isin(factors)]
    seen = shown["value"].to_numpy(float)
    lowest = float(np.min(seen, initial=0.0, where=np.isfinite(seen)))
    limits = max(lowest, _FLOOR) - 0.04, 1.02
    drawn = functools.partial(_draw, table=shown, lines=lines, levels=levels, rung=rung, limits=limits)
    panels = [Panel(factor, "", False, functools.partial(drawn, factor=factor)) for factor in factors]
    return Picture(panels, {**lines, **beside, **levels}, columns=min(len(panels), 4))


def note(table: pd.DataFrame, rung: Rung) -> str:
    """What marks are, as far as they are there."""
    name = MAIN[rung][1]
    said = [f"Solid: {name} of the {rung}; a line a group. {NOTE}"]
    if (table.groupby(["group", "D"])["encoder"].nunique() > 1).any():
        said.append("Several seeds: the line is their mean, dots are single seeds")
    if (table["trusted"] == False).any():  # noqa: E712 - a column of True, False and nothing
        said.append("Hollow, its line faint: under-trained, do not read")
    if (table.loc[table["metric"].isin(("r2", MAIN[rung][0])), "value"] < _FLOOR).any():
        said.append(f"What lies below {_FLOOR:g} is cut off")
    return ". ".join(said) + "."


def in_order(encoders: Sequence[Encoder]) -> list[Encoder]:
    """Group by group from narrow to wide, then the references."""
    own = [encoder for encoder in encoders if not encoder.reference]
    rank = {group: place for place, group in enumerate(arrange({encoder.group for encoder in own}))}
    own.sort(key=lambda each: (rank[each.group], each.D, each.seed))
    return [*own, *(encoder for encoder in encoders if encoder.reference)]


def _draw(
    axes: Any, table: pd.DataFrame, lines: Mapping[str, Style], levels: Mapping[str, Style], rung: Rung,
    limits: tuple[float, float], factor: str,
) -> None:  # fmt: skip
    rows = table[table["factor"] == factor]
    widths = sorted(set(table.loc[table["group"].isin(lines) & ~table["encoder"].isin(levels), "D"]))
    span = max(math.log2(widths[-1] / widths[0]), 1.0)
    metric, label = MAIN[rung]
    for name, style in levels.items():
        level = rows.loc[(rows["encoder"] == name) & (rows["rung"] == rung) & (rows["metric"] == metric), "value"]
        if len(level) and math.isfinite(level.iloc[0]):
            axes.axhline(level.iloc[0], color=style.colour, ls=style.dash, lw=1.2, zorder=0.5)
    for at, (group, style) in enumerate(lines.items()):
        mine = rows[(rows["group"] == group) & ~rows["encoder"].isin(levels)]
        for lower, dash, marker in _LOWER[rung]:
            means = mine[(mine["rung"] == lower) & (mine["metric"] == "r2")].groupby("D")["value"].mean()
            x = np.log2(means.index.to_numpy(float))
            axes.plot(x, means, dash, marker=marker, color=style.colour, lw=0.9, ms=2.2, mew=0, alpha=0.85)
        main = mine[(mine["rung"] == rung) & (mine["metric"] == metric)].dropna(subset=["value"])
        _line(axes, main, style, (at - (len(lines) - 1) / 2) * 0.014 * span)
    axes.set_ylim(*limits)
    axes.set_ylabel("τ, retention" if metric == "tau" else label)
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
    width_ticks(axes, widths, span, 0.08)  # markers are larger than a figure's


def _line(axes: Any, rows: pd.DataFrame, style: Style, aside: float) -> None:
    """Means over seeds with markers, hollow where one of them breaks the trust rule; seeds as dots; an interval each."""
    x = np.log2(rows["D"].to_numpy(float)) + aside
    axes.vlines(x, rows["low"], rows["high"], color=style.colour, lw=1.3, alpha=0.5)
    means = rows.groupby("D")["value"].mean()
    at = np.log2(means.index.to_numpy(float)) + aside
    hollow = {D for D, trusted in zip(rows["D"], rows["trusted"], strict=True) if trusted is False}
    axes.plot(at, means, style.dash, color=style.colour, lw=0.9, alpha=0.35)
    axes.plot(at, [math.nan if D in hollow else mean for D, mean in means.items()], style.dash, color=style.colour, lw=1.6)
    if len(rows) > len(means):
        axes.plot(x, rows["value"], "o", color=style.colour, ms=2.6, alpha=0.4, mew=0)
    for place, D, mean in zip(at, means.index, means, strict=True):
        how = {"mfc": "none", "ms": 7, "mew": 1.3} if D in hollow else {"ms": 4.6, "mew": 0}
        axes.plot([place], [mean], style.marker, color=style.colour, **how)
