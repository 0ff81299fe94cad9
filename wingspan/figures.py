"""Accuracy against width, as small multiples: one drawing serves the page (one SVG a panel) and the PNG (all panels).

Figures are built from `Figure` objects inside an rc context: no backend is chosen, a caller's settings stay.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ORDER = ("supervised", "simclr", "vicreg", "byol", "barlow")
# Okabe and Ito's colour-blind-safe hues, darker for paper and lighter for a dark page; the last three are for others.
LIGHT = ("#c44e00", "#0067a5", "#00805c", "#b0538a", "#a87400", "#2f8fc4", "#5f6670", "#7a5230")
DARK = ("#ff9257", "#63b3f2", "#3ecf9f", "#ea9fcd", "#f0bd4b", "#a5d8f8", "#b4bac3", "#d2a679")
MARKERS = "os^DvPX*"
DASHES = ("-", "--", ":", "-.")
INK = "#23282f"
PANEL = (3.6, 2.75)  # inches

# What a row is about; any other column that varies is an axis of the study and splits an objective into several lines.
ROW = ["run", "objective", "width", "seed", "measure", "metric", "data", "task", "role", "classes", "n", "chance", "value"]
RUN = ["fingerprint", "steps", "seconds", "views_per_second", "final_loss", "backbone_parameters", "status"]

RC = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a class called "$x" is a name, not a formula
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # real text: the page's own font, searchable
    "svg.hashsalt": "wingspan",
}


@dataclass(frozen=True)
class Plot:
    """What one set of panels shows.

    cells: a row per line, panel and width with `mean`, `half` (of the 95 % interval; NaN for one seed), `chance`, `caption`.
    points: a row per line, panel, width and seed with `value`. Both carry `line`, `objective`, `panel` and `role`.
    """

    cells: pd.DataFrame
    points: pd.DataFrame
    label: str  # of the y axis
    scale: float = 1.0  # 100 draws a fraction as per cent
    share: bool = False  # one y range for all panels

    @property
    def panels(self) -> list[str]:
        # "in-distribution" sorts before "transfer"
        return list(dict.fromkeys(self.cells.sort_values("role", kind="stable")["panel"]))


@dataclass(frozen=True)
class Style:
    """How one line is drawn; `slot` indexes LIGHT, DARK and MARKERS."""

    slot: int
    dash: str


def arrange(objectives: set[str]) -> list[str]:
    """The fixed order of the known objectives, then the others alphabetically."""
    return [name for name in ORDER if name in objectives] + sorted(objectives.difference(ORDER))


def styles(objective_of: Mapping[str, str]) -> dict[str, Style]:
    """A style for every line: the objective decides colour and marker, variants of one objective differ in dash."""
    others = arrange(set(objective_of.values()).difference(ORDER))
    made: dict[str, Style] = {}
    seen: dict[str, int] = {}
    for line, name in objective_of.items():
        slot = ORDER.index(name) if name in ORDER else len(ORDER) + others.index(name) % (len(LIGHT) - len(ORDER))
        made[line] = Style(slot, DASHES[seen.get(name, 0) % len(DASHES)])
        seen[name] = seen.get(name, 0) + 1
    return made


def t95(degrees: int) -> float:
    """Student's t with P(|T| <= t) = 0.95: the finite series for whole degrees (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        odd, total, term = degrees % 2, 0.0, math.cos(angle) ** (degrees % 2)
        for power in range(odd, degrees - 1, 2):
            total += term
            term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
        within = math.sin(angle) * total
        within = 2 / math.pi * (angle + within) if odd else within
        low, high = (angle, high) if within < 0.95 else (low, angle)
    return math.tan(low) * math.sqrt(degrees)


def half_width(values: pd.Series[float]) -> float:
    """Half the 95 % t-interval of the mean; NaN for fewer than two values."""
    count = len(values)
    return t95(count - 1) * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the fixed order, with `line` (objective and varying axes) and `panel` (task, and data where needed)."""
    if "line" in table:
        return table
    made = table.assign(task=table["task"].fillna("").astype(str), data=table["data"].fillna("").astype(str))
    axes = [str(name) for name in table if name not in ROW + RUN and table[name].nunique(dropna=False) > 1]
    made["line"] = made["objective"].astype(str)
    for axis in axes:
        made["line"] += f", {axis} " + table[axis].astype(str).replace("", "none")
    places = made.groupby("task")["data"].nunique()
    made["panel"] = [
        f"{task} ({data})" if task and places[task] > 1 else task or data
        for task, data in zip(made["task"], made["data"], strict=True)
    ]
    rank = {name: place for place, name in enumerate(arrange(set(made["objective"])))}
    return made.sort_values(
        ["objective", "role", "width"], key=lambda column: column.map(rank) if column.name == "objective" else column
    )


def svgs(plot: Plot) -> list[str]:
    """One inline SVG a panel: transparent, ink as `currentColor`, line colours as `var(--line-0)` and so on."""
    made = []
    for panel in plot.panels:
        with _context():
            figure = Figure(figsize=PANEL, layout="constrained")
            _draw(figure.add_subplot(), plot, panel)
            made.append(_inline(figure))
    return made


def png(plot: Plot, path: Path, *, title: str, note: str) -> None:
    """All panels with one legend, and the note above it, on white, 160 dots an inch."""
    panels = plot.panels
    columns = min(len(panels), 4 if len(panels) > 6 else 3)
    rows = math.ceil(len(panels) / columns)
    with _context():
        spaced = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.9), facecolor="white", layout=spaced)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, plot, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        drawn = {line: handle for axes in grid for handle, line in zip(*axes.get_legend_handles_labels(), strict=True)}
        named_lines = [line for line in _styles(plot) if line in drawn]
        across = max(1, int(PANEL[0] * columns * 9 / (6 + max(map(len, named_lines)))))
        figure.legend(
            [drawn[line] for line in named_lines],
            named_lines,
            loc="outside lower left",
            ncols=min(across, len(named_lines)),
            frameon=False,
            title=note,
            title_fontsize=8.5,
            alignment="left",
        )
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def key(style: Style) -> str:
    """The legend's picture of one line, as an inline SVG."""
    with _context():
        figure = Figure(figsize=(0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 0.5, 1], [0, 0, 0], style.dash, color=LIGHT[style.slot], lw=1.8)
        axes.plot([0.5], [0], MARKERS[style.slot], color=LIGHT[style.slot], ms=5.5)
        return _inline(figure)


@contextmanager
def _context() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same figure whatever the user's matplotlibrc says; undone on leaving
        matplotlib.rcParams.update(RC)
        yield


def _styles(plot: Plot) -> dict[str, Style]:
    return styles(dict(zip(plot.cells["line"], plot.cells["objective"], strict=True)))


def _draw(axes: Any, plot: Plot, panel: str) -> None:
    cells, points = (frame[frame["panel"] == panel] for frame in (plot.cells, plot.points))
    widths = sorted(set(plot.cells["width"]))
    span = max(math.log2(widths[-1] / widths[0]), 1.0)
    drawn = _styles(plot)
    gap = min(np.diff(np.log2(widths)), default=1.0)
    # lines step aside so that their intervals do not hide each other; without intervals there is no need to
    step = min(0.014 * span, 0.3 * gap / len(drawn)) if plot.cells["half"].notna().any() else 0.0
    for index, (line, style) in enumerate(drawn.items()):
        mine, dots = cells[cells["line"] == line].sort_values("width"), points[points["line"] == line]
        if mine.empty:
            continue
        colour, marker = LIGHT[style.slot], MARKERS[style.slot]
        aside = (index - (len(drawn) - 1) / 2) * step
        x, mean = np.log2(mine["width"].to_numpy(float)) + aside, mine["mean"].to_numpy(float) * plot.scale
        half = mine["half"].fillna(0.0).to_numpy(float) * plot.scale
        axes.vlines(x, mean - half, mean + half, color=colour, lw=1.1, alpha=0.45)
        axes.plot(
            np.log2(dots["width"].to_numpy(float)) + aside,
            dots["value"].to_numpy(float) * plot.scale,
            "o",
            color=colour,
            ms=2.6,
            alpha=0.4,
            mew=0,
        )
        axes.plot(x, mean, style.dash, marker=marker, color=colour, lw=1.6, ms=4.6, mew=0, label=line)
    chance = float(cells["chance"].iloc[0])
    if math.isfinite(chance):
        axes.axhline(chance * plot.scale, color=INK, lw=0.9, ls=(0, (4, 3)), alpha=0.65, zorder=0.5)
    own = (plot.cells, plot.points) if plot.share else (cells, points)
    axes.set_ylim(*_limits(*own, plot.scale))
    _label(axes, cells, widths, span, plot.label)


def _limits(cells: pd.DataFrame, points: pd.DataFrame, scale: float) -> tuple[float, float]:
    """All means, seeds and chance; intervals only as far as they leave the lines readable (two seeds: t = 12.7)."""
    seen = np.concatenate([cells["mean"], points["value"], cells["chance"]]).astype(float)
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    room = max(high - low, 0.02 if scale != 1.0 else abs(high) * 0.05, 1e-9)
    half = cells["half"].fillna(0.0)
    bottom = max(float((cells["mean"] - half).min()), low - 0.3 * room)
    top = min(float((cells["mean"] + half).max()), high + 0.3 * room)
    top = min(top, max(high, 1.0)) if scale == 100 else top  # no accuracy above 100 %
    return (min(bottom, low) - 0.06 * room) * scale, (max(top, high) + 0.06 * room) * scale


def _label(axes: Any, cells: pd.DataFrame, widths: list[int], span: float, label: str) -> None:
    ticks = [math.log2(width) for width in widths]
    shown: list[float] = []
    for tick in reversed(ticks):  # from the widest, whose label is the longest and the one most looked for
        if not shown or shown[-1] - tick >= 0.115 * span:
            shown.append(tick)
    axes.set_xticks(ticks, [str(w) if t in shown else "" for w, t in zip(widths, ticks, strict=True)])
    axes.set_xlim(ticks[0] - 0.06 * span, ticks[-1] + 0.06 * span)
    axes.set_xlabel("representation width D")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
    axes.tick_params(length=3, labelsize=8.5)
    axes.set_axisbelow(True)
    own = cells["role"].iloc[0] == "in-distribution"
    panel, caption = str(cells["panel"].iloc[0]), str(cells["caption"].iloc[0])
    axes.set_title(_short(panel, 38), loc="left", fontsize=10.5, fontweight="bold", pad=17)
    axes.annotate(
        _short(caption, 62),
        (0, 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        alpha=0.8,
        in_layout=False,
    )
    if own:
        for side in ("left", "bottom"):
            axes.spines[side].set_linewidth(1.8)


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _inline(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg.split(">", 1)[0]) + ">" + svg.split(">", 1)[1]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    for slot, colour in enumerate(LIGHT):
        svg = svg.replace(colour, f"var(--line-{slot})")
    return svg.replace(INK, "currentColor")
