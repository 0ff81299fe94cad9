"""Which numbers of a metric share a panel, which a line, and how the panels are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from wingspan.canvas import Picture, series_styles, styles
from wingspan.figures import Plot, against_width, dots
from wingspan.tables import OWN, summary

CROWDED = 6  # panels, beyond which data sets are shown apart


def widths_vary(rows: pd.DataFrame) -> bool:
    """Whether a line has numbers at two widths or more: else there is nothing to compare along D."""
    return bool((rows.groupby("line")["width"].nunique() > 1).any()) if len(rows) else False


def groups(rows: pd.DataFrame, table: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """The rows of one metric, whole under ""; by data set where they are too many panels, or columns of a table, for one."""
    series, sets = rows["series"].nunique(), list(dict.fromkeys(rows["data"]))
    across = series if table else rows["line"].nunique() if series > 1 else 1
    count = rows["panel"].nunique() * across
    most, least = (4, 2) if table else (CROWDED, 3)
    if count <= most or len(sets) == 1 or count < least * len(sets):
        return [("", rows)]
    return [(data, rows[rows["data"] == data]) for data in sets]


def picture(rows: pd.DataFrame, label: str, scale: float, apart: bool = False, change: bool = False) -> Picture:
    """The rows of one metric (or one data set of it, `apart`) against width, or as dots where there is one width only.

    Lines are series where the metric has several, and then every objective has panels of its own; else they are objectives
    and axes. change: the rows are differences from the narrowest width, comparable between all panels.
    """
    flat = rows["width"].nunique() == 1
    cells = summary(rows)
    cells["caption"] = [_caption(row, apart or flat, rows["data"].nunique() > 1) for _, row in cells.iterrows()]
    arrange: Callable[..., pd.DataFrame] = _rows_of_dots if flat else _panels
    cells, points = arrange(cells, apart), arrange(rows.dropna(subset=["value"]), apart)
    if change:
        cells["caption"], cells["scope"], points["scope"] = "against the narrowest width, same seed", "", ""
    traces = list(dict.fromkeys(cells["trace"]))
    names = next((cells[name] for name in ("line", "objective") if traces == list(dict.fromkeys(cells[name]))), None)
    made = series_styles(traces) if names is None else styles(dict(zip(names, cells["objective"], strict=True)))
    plot = Plot(cells, points, label, made, scale)
    if flat:
        return dots(plot)
    lines, (_, crossed) = cells["line"].nunique(), _crossing(cells)
    return against_width(plot, columns=lines if crossed and lines <= 4 else 0)  # a row of panels a task


def places(frame: pd.DataFrame, apart: bool) -> pd.Series[str]:
    """How a task is called: without its data set where that stands above."""
    return frame["task"].where(frame["task"] != "", frame["data"]) if apart else frame["panel"]


def _panels(frame: pd.DataFrame, apart: bool) -> pd.DataFrame:
    several, crossed = _crossing(frame)
    place, line = places(frame, apart), frame["line"]
    facet = frame["panel"] + "\n" + line if crossed else frame["panel"]
    title = place if not crossed else line if place.nunique() == 1 else place + " · " + line
    trace = _series(frame) if several else line
    made = frame.assign(facet=facet, title=title, trace=trace, scope=frame["panel"])
    if crossed and "caption" in frame and place.nunique() == 1:
        made["caption"] = place + " · " + frame["caption"]
    return made


def _rows_of_dots(frame: pd.DataFrame, apart: bool) -> pd.DataFrame:
    several, crossed = _crossing(frame)
    line, width = frame["line"], f"D = {frame['width'].iloc[0]}"
    if several and frame["panel"].nunique() == 1:  # one task, as in Table 5: its series are the rows
        title = frame["panel"].iloc[0]
        return frame.assign(facet="", title=title, caption=width, trace=line, row=_series(frame), scope="")
    if not crossed and line.nunique() > frame["objective"].nunique():  # more lines than markers can tell apart: a row each
        alone = frame["objective"].nunique() == 1
        row = line.str.partition(", ")[2] if alone else line
        return frame.assign(
            facet=frame["panel"], title=frame["panel"], caption=width, trace=frame["objective"], row=row, scope=""
        )
    sets = frame["data"].nunique() > 1 and frame.groupby("data")["task"].nunique().max() > 1
    where, nothing = frame["data"], pd.Series("", frame.index)
    parts = [*([where] if sets else []), *([line] if crossed else [])]
    title = parts[0] + " · " + parts[1] if len(parts) == 2 else parts[0] if parts else nothing + width
    return frame.assign(
        facet=title,
        title=title,
        caption=width if parts else "",
        trace=_series(frame) if several else line,
        row=places(frame, apart=sets),
        scope="",
    )


def _crossing(frame: pd.DataFrame) -> tuple[bool, bool]:
    """Whether there are several series, and whether there are several lines besides."""
    several = frame["series"].nunique() > 1
    return several, several and frame["line"].nunique() > 1


def _series(frame: pd.DataFrame) -> pd.Series[str]:
    return frame["series"].where(frame["series"] != "", "without a name")


def _caption(row: pd.Series[Any], apart: bool, several: bool) -> str:
    unsaid = several and not apart and str(row["data"]) not in str(row["panel"])  # the title may name it already
    facts = [OWN if row["role"] == OWN else "", row["data"] if unsaid else ""]
    facts += [f"{int(row[name]):,} {what}" for name, what in (("classes", "classes"), ("n", "images")) if row[name] > 0]
    return " · ".join(filter(None, facts))
