"""Measured curves, as the paper's Figure 7: a panel a data set and objective, a line a width, theory dashed and grey."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from wingspan.canvas import GREY, INK, Panel, Picture, Style, ramp, short
from wingspan.tables import OWN, tidy

EXPECTED = "expected by theory"
CROWDED = 8  # panels, from which on data sets are shown apart


def pictures(curves: pd.DataFrame) -> list[tuple[str, Picture]]:
    """Heading -> picture, for the curves of one measure: a picture a name, and a data set where there are many panels.

    curves: a row a curve, with the columns of `tables.CURVE` beside those that tell whose it is.
    """
    if curves.empty:
        return []
    rows = tidy(curves)
    rows["expected"] = rows["expected"].fillna(False).astype(bool) if "expected" in rows else False
    widths = sorted(set(rows["width"]))
    styles = {f"D = {width}": style for width, style in zip(widths, ramp(len(widths)), strict=True)}
    made = []
    for name, mine in rows.groupby("name", sort=False):
        facets = mine[~mine["expected"]].drop_duplicates(["panel", "line", "series"])
        apart = len(facets) > CROWDED and mine["data"].nunique() > 1
        for data in dict.fromkeys(mine["data"]) if apart else [""]:
            part = mine[mine["data"] == data] if apart else mine
            made.append((f"{name}, {data}" if apart else str(name), _picture(part, styles, apart)))
    return made


def _picture(rows: pd.DataFrame, styles: Mapping[str, Style], apart: bool) -> Picture:
    measured = rows[~rows["expected"]]
    shown = measured if len(measured) else rows
    facets = shown.sort_values("role", kind="stable").drop_duplicates(["panel", "line", "series"])
    rank = {panel: place for place, panel in enumerate(dict.fromkeys(facets["panel"]))}
    facets = facets.sort_values("panel", key=lambda panel: panel.map(rank), kind="stable")
    lines, places, known = facets["line"].nunique(), facets["panel"].nunique(), set(facets["series"])
    panels = []
    for _, facet in facets.iterrows():
        here = (rows["panel"] == facet["panel"]) & (rows["line"] == facet["line"])
        # theory is often given once, under a series of its own: it then belongs to every panel of its objective
        mine = rows[here & ((rows["series"] == facet["series"]) | (rows["expected"] & ~rows["series"].isin(known)))]
        panel = (facet["task"] or facet["data"]) if apart else facet["panel"]
        parts = [panel if places > 1 else "", facet["line"] if lines > 1 or places == 1 else ""]
        title = " · ".join(part for part in parts if part)
        facts = [facet["series"], facet["line"] if facet["line"] not in title else "", "" if places > 1 else panel]
        caption = " · ".join(str(fact) for fact in facts if fact)
        panels.append(Panel(title, caption, facet["role"] == OWN, functools.partial(_draw, rows=mine, styles=styles)))
    legend = {name: style for name, style in styles.items() if name in {f"D = {width}" for width in measured["width"]}}
    if rows["expected"].any():
        legend = {**legend, EXPECTED: Style(GREY, "--")}
    return Picture(panels, legend, columns=lines if lines in (2, 3, 4) and len(panels) == lines * places else 0)


def _draw(axes: Any, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    first = rows.iloc[0]
    scales = {side: str(first.get(f"{side}_scale", "linear")) for side in "xy"}
    for _, curve in rows.sort_values(["expected", "width"], ascending=[False, True], kind="stable").iterrows():
        x, y = (np.asarray(curve[side], dtype=float) for side in "xy")
        kept = np.isfinite(x) & np.isfinite(y)
        for side, values in (("x", x), ("y", y)):
            kept &= (values > 0) | (scales[side] != "log")
        style = Style(GREY, "--") if curve["expected"] else styles[f"D = {curve['width']}"]
        marker = "o" if kept.sum() == 1 else ""  # a curve of one point would leave no trace
        axes.plot(x[kept], y[kept], style.dash, marker=marker, color=style.colour, lw=1.3 if curve["expected"] else 1.6)
    for side in "xy":
        if scales[side] == "log":
            _logarithmic(axes, side)
    axes.set_xlabel(short(str(first["x_label"]), 44))
    axes.set_ylabel(short(str(first["y_label"]), 34))
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)


def _logarithmic(axes: Any, side: str) -> None:
    """Ticks in plain digits: matplotlib writes powers as formulas, which are switched off (a name may hold a dollar)."""
    getattr(axes, f"set_{side}scale")("log")
    low, high = getattr(axes, f"get_{side}lim")()
    axis = getattr(axes, f"{side}axis")
    narrow = math.log10(high / low) < 2
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
