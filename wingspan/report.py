"""Results -> a front page, a page a measure where there are several, and PNGs. Every page is whole in one file."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import jinja2
import pandas as pd

from wingspan import canvas, layout, pages, spec
from wingspan.claims import Word
from wingspan.errors import UserError
from wingspan.findings import Finding, compare, headlines, leading, missing
from wingspan.measures.base import Measure
from wingspan.pages import Content, Files
from wingspan.results import name_of
from wingspan.tables import number, tidy

__all__ = ["Page", "Ruling", "compare", "headlines", "write"]


@dataclass(frozen=True)
class Ruling:
    """What became of one claim: its words, where it comes from, the verdict (holds, fails, undecided, not measured), and the
    sentence with the numbers that decide it. paper: the same statistic of the paper's numbers, where it prints them."""

    claim: str
    source: str
    word: str
    evidence: str
    paper: str = ""


def tally(rulings: Iterable[Ruling]) -> dict[str, int]:
    """Verdict -> how many claims met it, in a fixed order, without those that none met."""
    counts = Counter(ruling.word for ruling in rulings)
    return {word: counts[word] for word in get_args(Word) if counts[word]}


@dataclass(frozen=True)
class Page:
    """Everything the pages show.

    table: a row per measured number with the columns `tables.ROW` and any further axes of the study; series and error may
    be absent. runs: a row per planned run with run, objective, width, seed, status and whatever else should be shown of it.
    curves: a row per measured curve with run, objective, width, seed, axes, measure, data, role, task, series and
    `tables.CURVE`; may be empty. measures and measured_notes: by the label that stands in the column `measure`.
    """

    title: str
    question: str
    notes: tuple[str, ...]
    table: pd.DataFrame
    runs: pd.DataFrame
    settings: Mapping[str, object]  # the base run, nested, JSON-able
    command: str
    provenance: Mapping[str, str]
    pictures: Mapping[str, Path]  # caption -> PNG
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    measured_notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rulings: Sequence[Ruling] = ()
    published: pd.DataFrame = field(default_factory=pd.DataFrame)  # as `table`: drawn below the measure of the same file
    published_from: str = ""


def write(page: Page, folder: Path) -> Path:
    """Write `report.html` into `folder` and return its path; UserError if nothing was measured.

    With one measure its pictures stand on that page and their PNGs beside it; with several each has `pages/NAME.html` and
    its PNGs there.
    """
    if (page.table.empty or page.table["value"].isna().all()) and page.curves.empty:
        states = ", ".join(f"{count} {name}" for name, count in page.runs["status"].value_counts().items())
        raise UserError(
            f"No result was measured (runs: {states or 'none'}). Mend what stopped the runs and repeat:\n  {page.command}"
        )
    pictures = [(caption, _embed(path)) for caption, path in page.pictures.items()]
    table = tidy(page.table)
    lines = dict(zip(table["run"], table["line"], strict=True))
    named = [lines.get(run, name) for run, name in zip(page.runs["run"], page.runs["objective"], strict=True)]
    runs = page.runs.assign(line=named)
    labels = _labels(page, table)
    below = folder / "pages" if len(labels) > 1 else folder
    below.mkdir(parents=True, exist_ok=True)
    files = Files(below)
    names = {label: files.name(label, ".html") for label in labels}
    made = {label: _content(page, label, table, runs, files) for label in labels}
    if len(labels) > 1:
        for at, label in enumerate(labels):
            before, after = ([*labels[at - 1 : at], None][0], [*labels[at + 1 : at + 2], None][0])
            around = {"before": before, "after": after, "names": names, "titles": {each: made[each].title for each in labels}}
            render("measure.html.j2", below / names[label], page=page, content=made[label], **around)
    path = folder / "report.html"
    render(
        "report.html.j2",
        path,
        page=page,
        contents=list(made.values()),
        names=names,
        tally=tally(page.rulings),
        headlines=_headlines(table) if len(labels) > 1 else {},
        leading=leading(table) if len(table) else "",
        missing=missing(table, runs) if len(labels) > 1 else [],
        unmeasured={label: page.measured_notes.get(label, ()) for label in page.measures if label not in labels},
        runs=_runs(runs.drop(columns="line")),
        settings=json.dumps(page.settings, indent=2, ensure_ascii=False, default=str),
        pictures=pictures,
    )
    return path


def _labels(page: Page, table: pd.DataFrame) -> list[str]:
    """The measures that found something, in the order they were asked for."""
    found = {*table.loc[table["value"].notna(), "measure"], *(page.curves["measure"] if len(page.curves) else ())}
    rows = list(page.table["measure"]) if len(page.table) else []
    drawn = list(page.curves["measure"]) if len(page.curves) else []
    return [label for label in dict.fromkeys([*page.measures, *rows, *drawn]) if label in found]


def _content(page: Page, label: str, table: pd.DataFrame, runs: pd.DataFrame, files: Files) -> Content:
    drawn = page.curves[page.curves["measure"] == label] if len(page.curves) else page.curves
    measure, notes = page.measures.get(label), page.measured_notes.get(label, ())
    made = pages.content(label, table[table["measure"] == label], drawn, runs, measure, notes, page.title, files)
    return replace(made, published=pages.published(_same(page.published, measure), page.published_from, files))


def _same(published: pd.DataFrame, measure: Measure | None) -> pd.DataFrame:
    """The published rows by the same kind of measure: its settings may be others."""
    if published.empty or measure is None:
        return published.iloc[:0]
    kinds = {label: spec.kind_of(spec.named(Measure, name_of(label))) for label in published["measure"].unique()}
    return published[published["measure"].map(kinds) == spec.kind_of(measure)]


def _headlines(table: pd.DataFrame) -> dict[str, list[Finding]]:
    return pages.by_line(headlines(table)) if layout.widths_vary(table) else {}


def render(template: str, path: Path, **given: Any) -> None:
    """Fill a template that lies beside this file, with the palette of both pages at hand."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    light, dark = canvas.palette()
    path.write_text(found.get_template(template).render(light=light, dark=dark, **given), encoding="utf-8")


def _runs(runs: pd.DataFrame) -> dict[str, Any]:
    rows = [[(_plain(value), "" if pd.isna(value) else value) for value in row] for row in runs.astype(object).to_numpy()]
    return {"columns": list(runs), "rows": rows, "status": runs["status"].value_counts().to_dict()}


def _plain(value: Any) -> str:
    if pd.isna(value):
        return "–"
    return number(value) if isinstance(value, float) else str(value)


def _embed(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"There is no picture at '{path}'. Give the path of a PNG, or leave the picture out.")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
