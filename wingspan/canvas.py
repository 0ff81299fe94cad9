"""How every picture is drawn: one drawing serves the page (one SVG a panel) and the PNG (all panels and a legend).

Figures are built from `Figure` objects inside an rc context: no backend is chosen, a caller's settings stay.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from wingspan.tables import ORDER, arrange

# Okabe and Ito's colour-blind-safe hues, darker for paper and lighter for a dark page; the last three are for others.
LIGHT = ("#c44e00", "#0067a5", "#00805c", "#b0538a", "#a87400", "#2f8fc4", "#5f6670", "#7a5230")
DARK = ("#ff9257", "#63b3f2", "#3ecf9f", "#ea9fcd", "#f0bd4b", "#a5d8f8", "#b4bac3", "#d2a679")
# The viridis map from its middle to the end that stands out, once for paper and once for a dark page: narrow to wide.
RAMP_LIGHT = ("#5ec962", "#3fbc73", "#28ae80", "#1fa088", "#21918c", "#26828e", "#2c728e", "#33638d", "#3b528b", "#424086",
              "#472d7b", "#440154")  # fmt: skip
RAMP_DARK = ("#5a6fa8", "#4a7fae", "#3a8fb0", "#2f9fa9", "#2bae9f", "#35b779", "#5ec962", "#8bd646", "#b5de2b", "#d2e21b",
             "#ece51b", "#fff36b")  # fmt: skip
GREY = "#8a9099"  # what theory gives
MARKERS = "os^DvPX*"
DASHES = ("-", "--", ":", "-.")
INK = "#23282f"
PANEL = (3.6, 2.75)  # inches

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
class Style:
    """How one line is drawn."""

    colour: str  # of LIGHT, RAMP_LIGHT or GREY; the page turns it into its own for a dark page
    dash: str = "-"
    marker: str = ""


@dataclass(frozen=True)
class Panel:
    """One set of axes: its title, a caption below the title, and what draws into it."""

    title: str
    caption: str
    own: bool  # in-distribution: thick axes
    draw: Callable[[Any], None]  # takes matplotlib's Axes


@dataclass(frozen=True)
class Picture:
    """Panels that share one legend."""

    panels: Sequence[Panel]
    legend: Mapping[str, Style]
    size: tuple[float, float] = PANEL  # inches a panel
    columns: int = 0  # panels a row, where they belong together; 0: as many as fit


def palette() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The page's colours by name, on paper and on a dark page."""
    names = [*(f"line-{slot}" for slot in range(len(LIGHT))), *(f"ramp-{level}" for level in range(len(RAMP_LIGHT)))]
    return list(zip(names, LIGHT + RAMP_LIGHT, strict=True)), list(zip(names, DARK + RAMP_DARK, strict=True))


def styles(objective_of: Mapping[str, str]) -> dict[str, Style]:
    """A style for every line: the objective decides colour and marker, variants of one objective differ in dash."""
    others = arrange(set(objective_of.values()).difference(ORDER))
    made: dict[str, Style] = {}
    seen: dict[str, int] = {}
    for line, name in objective_of.items():
        slot = ORDER.index(name) if name in ORDER else len(ORDER) + others.index(name) % (len(LIGHT) - len(ORDER))
        made[line] = Style(LIGHT[slot], DASHES[seen.get(name, 0) % len(DASHES)], MARKERS[slot])
        seen[name] = seen.get(name, 0) + 1
    return made


def series_styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for every series of a metric, in their order: colour and marker, then another dash when they run out."""
    slots = [(at % len(LIGHT), at // len(LIGHT) % len(DASHES)) for at in range(len(names))]
    return {name: Style(LIGHT[slot], DASHES[dash], MARKERS[slot]) for name, (slot, dash) in zip(names, slots, strict=True)}


def ramp(count: int) -> list[Style]:
    """`count` line styles from narrow to wide, of one sequence of colours; a single one takes the end that stands out."""
    last = len(RAMP_LIGHT) - 1
    return [Style(RAMP_LIGHT[round(at * last / (count - 1)) if count > 1 else last]) for at in range(count)]


def svgs(picture: Picture) -> list[str]:
    """One inline SVG a panel: transparent, ink as `currentColor`, colours as `var(--line-0)`, `var(--ramp-0)` and so on."""
    made = []
    for panel in picture.panels:
        with context():
            figure = Figure(figsize=picture.size, layout="constrained")
            _draw(figure.add_subplot(), panel)
            made.append(_inline(figure))
    return made


def png(picture: Picture, path: Path, *, title: str, note: str) -> None:
    """All panels with one legend, and the note above it, on white, 160 dots an inch."""
    panels, (width, height) = picture.panels, picture.size
    columns = picture.columns or min(len(panels), 2 if width > PANEL[0] else 4 if len(panels) > 6 else 3)
    rows = math.ceil(len(panels) / columns)
    names = [short(name, 60) for name in picture.legend]
    across = max(1, int(width * columns * 9 / (6 + max(map(len, names), default=0))))
    if sum(6 + len(name) for name in names) < width * columns * 9:
        across = max(1, len(names))
    below = 0.6 + 0.17 * max(2, math.ceil(len(names) / across))  # the note and the legend's rows
    with context():
        spaced = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(width * columns, height * rows + below), facecolor="white", layout=spaced)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        room = int(15 * width * columns)  # letters of the title's size
        figure.suptitle(short(title, room), x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.legend(
            [_line(style, lw=1.6, ms=4.6) for style in picture.legend.values()],
            names,
            loc="outside lower left",
            ncols=max(1, min(across, len(names))),
            frameon=False,
            title=note,
            title_fontsize=8.5,
            alignment="left",
        )
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def key(style: Style) -> str:
    """The legend's picture of one line, as an inline SVG."""
    with context():
        figure = Figure(figsize=(0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 0.5, 1], [0, 0, 0], style.dash, color=style.colour, lw=1.8)
        axes.plot([0.5], [0], style.marker, color=style.colour, ms=5.5)
        return _inline(figure)


def short(text: str, length: int) -> str:
    """The text on one line, cut where it is longer than `length`."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _line(style: Style, lw: float, ms: float) -> Line2D:
    return Line2D([], [], color=style.colour, ls=style.dash, marker=style.marker, lw=lw, ms=ms, mew=0)


@contextmanager
def context() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same figure whatever the user's matplotlibrc says; undone on leaving
        matplotlib.rcParams.update(RC)
        yield


def _draw(axes: Any, panel: Panel) -> None:
    panel.draw(axes)
    axes.tick_params(length=3, labelsize=8.5)
    axes.set_axisbelow(True)
    axes.set_title(short(panel.title, 36), loc="left", fontsize=10.5, fontweight="bold", pad=17 if panel.caption else 6)
    axes.annotate(
        short(panel.caption, 52),
        (0, 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        alpha=0.8,
        in_layout=False,
    )
    if panel.own:
        for side in ("left", "bottom"):
            axes.spines[side].set_linewidth(1.8)


def _inline(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg.split(">", 1)[0]) + ">" + svg.split(">", 1)[1]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    for name, colour in palette()[0]:
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace(INK, "currentColor")
