"""What a measure's page shows: its pictures, tables, sentences and settings, ready for the templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from wingspan import canvas, curves, frontier, layout, spec
from wingspan.canvas import Picture
from wingspan.findings import Finding, compare, missing, result
from wingspan.measures.base import Measure
from wingspan.tables import OWN, changes, difference, metrics, number, scale_of, scored, spoken, spread, summary, tidy, unit_of


@dataclass
class Files:
    """A folder whose file names are given out once; names that differ only in case count as one (macOS, Windows)."""

    folder: Path
    taken: set[str] = field(default_factory=set)

    def name(self, wanted: str, ending: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-") or "page"
        found, count = stem[:80], 1
        while (found + ending).lower() in self.taken:
            count += 1
            found = f"{stem[:80]}-{count}"
        self.taken.add((found + ending).lower())
        return found + ending


@dataclass(frozen=True)
class Drawn:
    """A picture on a page: one SVG a panel, a legend, a note, and the PNG beside the page."""

    heading: str
    legend: Sequence[tuple[str, Markup]]
    svgs: Sequence[Markup]
    note: str
    png: str
    kind: str  # of the grid: "wide", "by-2" and so on, or ""


@dataclass(frozen=True)
class Cell:
    """What stands in a table: `aside` in grey behind the text; `sort` is what a click on the heading sorts by."""

    text: str
    aside: str = ""
    sort: Any = ""
    bold: bool = False
    left: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: columns, rows and a last row that does not move."""

    heading: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Cell] = ()


@dataclass(frozen=True)
class Section:
    """One metric of a measure."""

    name: str
    unit: str
    against: str  # what its numbers are drawn against; "" where all are of one width
    figures: Sequence[Drawn]
    change: Sequence[Drawn]  # one or none
    tables: Sequence[Grid]
    note: str  # of the tables


@dataclass(frozen=True)
class Content:
    """All of one measure."""

    label: str
    title: str
    source: str
    reading: str
    sections: Sequence[Section]
    curves: Sequence[Drawn]
    curves_first: bool
    findings: Mapping[str, Sequence[Finding]]  # by line
    missing: Sequence[str]
    notes: Sequence[str]
    settings: str
    result: str
    published: Sequence[Section] = ()  # the same from a publication

    @property
    def thumb(self) -> Markup:
        """The picture on the front page's card."""
        shown = [drawn for section in self.sections for drawn in section.figures]
        shown = [*self.curves, *shown] if self.curves_first else [*shown, *self.curves]
        return shown[0].svgs[0] if shown else Markup("")


def content(
    label: str,
    table: pd.DataFrame,
    drawn: pd.DataFrame,
    runs: pd.DataFrame,
    measure: Measure | None,
    notes: Sequence[str],
    study: str,
    files: Files,
) -> Content:
    """One measure's page. table: its tidy rows; drawn: its curves; PNGs go into `files.folder`. runs: with their `line`."""
    return Content(
        label=label,
        title=measure.title if measure else label,
        source=measure.source if measure else "",
        reading=measure.reading if measure else "",
        sections=[_section(rows, study, runs, files) for rows in metrics(table)],
        curves=_curves(drawn, label, study, files),
        curves_first=bool(measure and measure.curves_first),
        findings=by_line(compare(table)) if layout.widths_vary(table) else {},
        missing=missing(table, runs) if len(table) else [],
        notes=tuple(dict.fromkeys(notes)),
        settings=json.dumps(spec.to_json(measure), indent=2, ensure_ascii=False, default=str) if measure else "",
        result=result(table),
    )


def published(table: pd.DataFrame, source: str, files: Files) -> list[Section]:
    """A publication's numbers, drawn as our own are; empty for an empty table."""
    if table.empty:
        return []
    rows = tidy(table)
    return [replace(_section(part, source, rows, files, "paper-"), note="One run a number.") for part in metrics(rows)]


def by_line(said: Sequence[Finding]) -> dict[str, list[Finding]]:
    return {line: [one for one in said if one.line == line] for line in dict.fromkeys(one.line for one in said)}


def _curves(curves_of: pd.DataFrame, label: str, study: str, files: Files) -> list[Drawn]:
    made = []
    for heading, shown in curves.pictures(curves_of):
        seeds = " A line a seed." if curves_of["seed"].nunique() > 1 else ""
        theory = " Dashed grey: what theory gives." if curves.EXPECTED in shown.legend else ""
        widths = curves_of["width"].unique()
        note = (f"D = {widths[0]}." if len(widths) == 1 else "One colour a width D.") + seeds + theory
        made.append(_drawn(shown, heading, note, f"{study} · {label} {heading}", f"{label}-{heading}", files))
    return made


def _drawn(shown: Picture, heading: str, note: str, title: str, wanted: str, files: Files) -> Drawn:
    name = files.name(wanted, ".png")
    canvas.png(shown, files.folder / name, title=title, note=note.split(". ")[0].rstrip("."))
    legend = [(line, Markup(canvas.key(style))) for line, style in shown.legend.items()]
    svgs = [Markup(svg) for svg in canvas.svgs(shown)]
    kind = "wide" if shown.size[0] > canvas.PANEL[0] else f"by-{shown.columns}" if shown.columns > 1 else ""
    return Drawn(heading, legend if len(legend) > 1 else [], svgs, note, name, kind)


def _section(rows: pd.DataFrame, study: str, runs: pd.DataFrame, files: Files, prefix: str = "") -> Section:
    measure, metric = str(rows["measure"].iloc[0]), str(rows["metric"].iloc[0])
    scale, name = scale_of(metric), spoken(metric)
    unit = f", {unit_of(metric)}" if unit_of(metric) else ""
    shown_rows = rows.assign(chance=0.0) if difference(metric) else rows  # where a difference is nothing
    parts, cells, flat = layout.groups(shown_rows), summary(rows), rows["width"].nunique() == 1
    figures, told = [], ""
    for data, part in [("", shown_rows)] if flat else parts:
        wanted = f"{prefix}{measure}-{metric}" + (f"-{data}" if data else "")
        parameters = frontier.parameters_of(part, runs)
        if parameters is None:
            shown = layout.picture(part, name + unit, scale, apart=bool(data))
        else:
            shown = frontier.picture(part, parameters, name + unit, scale)
        title, note = f"{study} · {measure} {name}" + (f" · {data}" if data else ""), _bars(summary(part), flat)
        drawn = _drawn(shown, data, note, title, wanted, files)
        figures.append(replace(drawn, note="") if note == told else drawn)  # what holds for all is said once
        told = note
    tables = [_grid(part, data, scale, runs) for data, part in layout.groups(rows, table=True)]
    moved, change = changes(rows), []
    if layout.widths_vary(moved):
        shown = layout.picture(moved, "change, points", scale, change=True)
        bars = "; bars: 95 % t-interval of the mean" if cells["half"].notna().any() else ""
        note = f"Each seed against itself at the narrowest width{bars}. All panels share one vertical range."
        change = [_drawn(shown, "", note, f"{study} · {measure} {name}, change", f"{prefix}{measure}-{metric}-change", files)]
    against = "" if flat else "width" if parameters is None else "parameters"
    return Section(name, unit, against, figures, change, tables, _table_note(cells))


def _bars(cells: pd.DataFrame, flat: bool) -> str:
    """What marks, bars and the dashed line are, as far as they are there."""
    fewest, most = cells["seeds"].min(), cells["seeds"].max()
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' if most > 1 else ''}"
    mark = "Large dots" if flat else "Lines"
    said = [
        f"{mark}: mean over seeds ({seeds} a point); small dots: single seeds"
        if most > 1
        else f"One seed a {'dot' if flat else 'point'}"
    ]
    if cells["half"].notna().any():
        said[0] += "; bars: 95 % t-interval of the mean"
        said.append("A bar longer than its panel is cut at the edge")
    single = cells[cells["half"].isna()]
    if single["error"].notna().any():
        said[0] += "; thin bars: ± one standard error of the single seed's measurement"
        said.append("That error is of measuring this one network and says nothing of other seeds")
    elif most == 1:
        said[0] += ": no intervals"
    if cells["chance"].notna().any():
        said.append(f"Dashed: {_reference(str(cells['metric'].iloc[0]))}")
    if not flat:
        if (cells["role"] == OWN).any():
            said.append("Thick axes: in-distribution")
        if cells["panel"].nunique() > 1:
            said.append("Each task has its own vertical range")
    return ". ".join(said) + "."


def _reference(metric: str) -> str:
    if difference(metric):
        return "no difference"
    return "chance, the share of the most frequent class" if scale_of(metric) == 100 else "what guessing gives"


def _table_note(cells: pd.DataFrame) -> str:
    said = []
    if (cells["seeds"] > 1).any():
        said.append("Mean ± standard deviation over seeds")
    if cells["error"].notna().any():
        said.append("In grey: ± standard error of one seed's measurement")
    if scored(cells).any() and cells["width"].nunique() > 1:
        said.append("In bold: the width with the highest value of each objective and task, which is no test of a difference")
    return ". ".join([*said, "Click a heading to sort."])


def _grid(rows: pd.DataFrame, heading: str, scale: float, runs: pd.DataFrame) -> Grid:
    """Rows line x width (also those of runs that gave nothing), columns tasks and series. A single row is stood upright."""
    cells = summary(rows).sort_values("role", kind="stable")
    columns = list(dict.fromkeys(zip(cells["panel"], cells["series"], strict=True)))
    called = dict(zip(cells["panel"], layout.places(cells, apart=bool(heading)), strict=True))
    names = [_column(called[panel], series, columns) for panel, series in columns]
    at = {(row["line"], row["width"], (row["panel"], row["series"])): row for _, row in cells.iterrows()}
    peak: dict[Any, float] = {}
    for (line, _, column), row in at.items():
        peak[line, column] = max(peak.get((line, column), -math.inf), row["mean"])
    body, rankable = [], bool(scored(cells).all())
    for line in dict.fromkeys([*rows["line"], *runs["line"]]):
        widths = sorted({*rows.loc[rows["line"] == line, "width"], *runs.loc[runs["line"] == line, "width"]})
        for width in widths:
            found = [at.get((line, width, column)) for column in columns]
            seeds = max((int(cell["seeds"]) for cell in found if cell is not None), default=0)
            best = [rankable and len(widths) > 1 and cell is not None and cell["mean"] == peak[line, column]
                    for cell, column in zip(found, columns, strict=True)]  # fmt: skip
            values = [_value(cell, scale, seeds, bold) for cell, bold in zip(found, best, strict=True)]
            body.append([Cell(line, sort=line, left=True), *(Cell(str(v), sort=v) for v in (width, seeds)), *values])
    guesses = {column: number(row["chance"], scale) for (_, _, column), row in at.items()}
    chance = [Cell(guesses[column]) for column in columns] if cells["chance"].notna().any() else []
    what = "chance" if scale == 100 else "guess"
    if len(body) == 1 and len(columns) > 3:
        upright = [[Cell(name, sort=name, left=True), value] for name, value in zip(names, body[0][3:], strict=True)]
        head = [Cell("", left=True), Cell(f"{body[0][0].text}, D={body[0][1].text}")]
        if chance:
            upright, head = [[*row, cell] for row, cell in zip(upright, chance, strict=True)], [*head, Cell(what)]
        return Grid(heading, head, upright)
    head = [Cell("objective", left=True), Cell("D"), Cell("seeds"), *map(Cell, names)]
    return Grid(heading, head, body, [Cell(what, left=True), Cell(""), Cell(""), *chance] if chance else ())


def _column(panel: str, series: str, columns: Sequence[tuple[str, str]]) -> str:
    """A column's heading: the series alone where there is one task only."""
    alone = len({name for name, _ in columns}) == 1
    return series if alone and series and len(columns) > 1 else f"{panel}: {series}" if series else panel


def _value(cell: pd.Series[Any] | None, scale: float, seeds: int, bold: bool) -> Cell:
    if cell is None:
        return Cell("–")
    text, aside = number(cell["mean"], scale), ""
    if cell["seeds"] > 1:
        text += f" ± {spread(cell['std'], cell['mean'], scale)}"
    elif not math.isnan(cell["error"]):
        aside = f"± {spread(cell['error'], cell['mean'], scale)}"
    if cell["seeds"] < seeds:
        text += f" (n = {cell['seeds']})"
    return Cell(text, aside, cell["mean"], bold)
