"""Numbers against a backbone's parameters, for studies that compare architectures (paper, figure 6)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from wingspan.canvas import INK, Panel, Picture, Style, series_styles, short
from wingspan.figures import limits, reach
from wingspan.tables import OWN, summary

AXIS = "architecture"


def parameters_of(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.Series[float] | None:
    """Each row's backbone parameters, from the table of runs; None where architecture does not vary or they are not known."""
    if AXIS not in rows or rows[AXIS].nunique() < 2 or "backbone_parameters" not in runs:
        return None
    found = rows["run"].map(runs.set_index("run")["backbone_parameters"]).astype(float)
    return None if found.isna().any() else found


def picture(rows: pd.DataFrame, parameters: pd.Series[float], label: str, scale: float) -> Picture:
    """A panel an objective and task; one trace a network, joined over its widths, which stand beside the points.

    "small D=512" and "small D=2048" are one network.
    """
    rows = rows.assign(parameters=parameters, family=rows[AXIS].astype(str).str.partition(" D=")[0])
    facts = rows.drop_duplicates("line").set_index("line")[["parameters", "family"]]
    cells = summary(rows).join(facts, on="line")
    several = cells["objective"].nunique() > 1
    places = cells["panel"].nunique() > 1
    tasks = cells.sort_values("role", kind="stable")[["role", "panel"]].drop_duplicates()
    rank = {(role, panel): place for place, (role, panel) in enumerate(tasks.to_numpy())}
    drawn = []
    for role, objective, panel in cells[["role", "objective", "panel"]].drop_duplicates().to_numpy():
        mine = cells[(cells["objective"] == objective) & (cells["panel"] == panel) & (cells["role"] == role)]
        seen = rows[(rows["objective"] == objective) & (rows["panel"] == panel) & (rows["role"] == role)]
        title = f"{panel} · {objective}" if several and places else objective if several else panel
        drawn.append((rank[role, panel], title, panel if several and not places else "", role == OWN, mine, seen))
    styles = series_styles(list(dict.fromkeys(cells["family"])))
    panels = [
        Panel(title, caption, own, functools.partial(_draw, cells=mine, points=seen, styles=styles, label=label, scale=scale))
        for _, title, caption, own, mine, seen in sorted(drawn, key=lambda each: each[0])
    ]
    return Picture(panels, styles, columns=cells["objective"].nunique() if several and places else 0)


def _draw(axes: Any, cells: pd.DataFrame, points: pd.DataFrame, styles: dict[str, Style], label: str, scale: float) -> None:
    for family, mine in cells.sort_values("parameters").groupby("family", sort=False):
        style, x = styles[str(family)], mine["parameters"].to_numpy(float) / 1e6
        mean, bar = mine["mean"].to_numpy(float) * scale, reach(mine).to_numpy() * scale
        axes.vlines(x, mean - bar, mean + bar, color=style.colour, lw=np.where(mine["half"].notna(), 1.3, 0.8), alpha=0.5)
        axes.plot(x, mean, style.dash, marker=style.marker, color=style.colour, lw=1.6, ms=5.2, mew=0)
        seeds = points[points["family"] == family]
        axes.plot(seeds["parameters"] / 1e6, seeds["value"] * scale, "o", color=style.colour, ms=2.6, alpha=0.4, mew=0)
        for at, height, width in zip(x, mean, mine["width"] if len(mine) > 1 else [], strict=len(mine) > 1):
            axes.annotate(f"{width}", (at, height), (4, 4), textcoords="offset points", fontsize=7, color=INK, alpha=0.8)
    axes.set_xscale("log")
    ticks = _ticks(cells["parameters"].to_numpy(float) / 1e6)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.margins(x=0.12)
    axes.set_ylim(*limits(cells, points, scale))
    axes.set_xlabel("backbone parameters, millions")
    axes.set_ylabel(short(label, 40))
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)


def _ticks(values: Any) -> Sequence[float]:
    """Up to four of the values, far enough apart to be read."""
    spread = np.log(values.max() / values.min()) or 1.0
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or np.log(value / kept[-1]) > 0.22 * spread:
            kept.append(float(value))
    return kept
