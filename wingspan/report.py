"""Results -> one self-contained HTML page, PNGs beside it, and findings in words that claim no more than the numbers."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from wingspan import figures
from wingspan.errors import UserError
from wingspan.figures import half_width, named

KEYS = ["measure", "metric", "line", "objective", "role", "data", "task", "panel", "width"]
OWN, TRANSFER, GAP = "in-distribution", "transfer", "transfer minus in-distribution"


@dataclass(frozen=True)
class Page:
    """Everything the page shows.

    table: a row per measured number with the columns `figures.ROW` and any further axes of the study.
    runs: a row per planned run with run, objective, width, seed, status and whatever else should be shown of it.
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


@dataclass(frozen=True)
class Finding:
    """One sentence: `about` (objective, axes, measure where several), what changed by how much, and the verdict."""

    line: str
    about: str
    text: str
    word: str  # rises | falls | undecided
    headline: bool  # of means over tasks, not of a single one

    def __str__(self) -> str:
        return f"{self.about}: {self.text}: {self.word}"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per measure, metric, objective, task and width with mean, std and half (95 %) over seeds, and seeds.

    A fraction stays a fraction. std and half are NaN for one seed; rows without a number are left out.
    """
    rows = named(table).dropna(subset=["value"])
    facts: dict[str, Any] = {name: (name, "first") for name in ("classes", "n", "chance")}
    seeds = rows.groupby([*KEYS, "seed"], sort=False, as_index=False).agg(value=("value", "mean"), **facts)
    over: dict[str, Any] = {"mean": "mean", "std": "std", "half": half_width, "seeds": "size"}
    made: dict[str, Any] = {name: ("value", how) for name, how in over.items()}
    cells: pd.DataFrame = seeds.groupby(KEYS, sort=False, as_index=False).agg(**made, **facts)
    return cells


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Each run's mean over its in-distribution and over its transfer tasks, and their gap, as rows like the table's.

    A run that lacks one of its line's tasks gives no mean: means over different tasks cannot be compared.
    """
    rows, parts = named(table), []
    for _, mine in rows.groupby(["measure", "metric", "line"], sort=False):
        same = {name: mine[name].iloc[0] for name in ("measure", "metric", "line", "objective")}
        means: dict[str, pd.Series[float]] = {}
        for role in (OWN, TRANSFER):
            wide = mine[mine["role"] == role].pivot_table(index=["width", "seed"], columns="panel", values="value")
            if wide.empty:
                continue
            means[role] = wide.mean(axis=1, skipna=False).dropna()
            n = mine.loc[mine["panel"] == wide.columns[0], "n"].iloc[0]
            alone = wide.shape[1] == 1
            panel = wide.columns[0] if alone else f"mean of {wide.shape[1]} {role} tasks"
            part = means[role].rename("value").reset_index()
            parts.append(part.assign(**same, panel=panel, role=role, n=n if alone else math.nan))
        if len(means) == 2:
            gap = (means[TRANSFER] - means[OWN]).dropna().rename("value").reset_index()
            parts.append(gap.assign(**same, panel=GAP, role=GAP, n=math.nan))
    return pd.concat(parts, ignore_index=True) if parts else rows.iloc[:0]


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """`averages` of the two roles minus the same seed's value at its line's narrowest width; one panel for each role."""
    rows = averages(table)
    rows = rows[rows["role"] != GAP].assign(data="", classes=math.nan, chance=0.0)
    rows["panel"] = rows["task"] = rows["role"].map({OWN: "own task (in-distribution)", TRANSFER: "mean of transfer tasks"})
    keys = ["measure", "metric", "line", "role", "seed"]
    narrowest = rows.groupby(["measure", "metric", "line"])["width"].transform("min")
    base = rows[rows["width"] == narrowest].set_index(keys)["value"].rename("base")
    rows = rows.join(base, on=keys).dropna(subset=["base"])
    return rows.assign(value=rows["value"] - rows["base"])


def findings(table: pd.DataFrame) -> list[str]:
    """What happens from the narrowest to the widest representation, a sentence for each objective and task.

    Differences are paired by seed. "rises" and "falls" are said only where the 95 % t-interval of the mean difference
    excludes 0, so one seed is always undecided; its standard error sqrt(p(1-p)/n + q(1-q)/n) is of the test sets only.
    """
    return [str(finding) for finding in compare(table)]


def compare(table: pd.DataFrame) -> list[Finding]:
    """The findings; for each line the means over tasks and their gap come first (headline), then the single tasks."""
    rows = named(table).dropna(subset=["value"])
    means, several, made = averages(rows), len(_measures(rows)) > 1, []
    for _, mine in rows.groupby(["line", "measure", "metric"], sort=False):
        line, measure, metric = (str(mine[name].iloc[0]) for name in ("line", "measure", "metric"))
        about = f"{line}, {measure} {metric}" if several else line
        heads = means[(means["line"] == line) & (means["measure"] == measure) & (means["metric"] == metric)]
        rest = mine[~mine["panel"].isin(heads["panel"])]
        if mine["width"].nunique() == 1:
            text = f"only D={mine['width'].iloc[0]} measured, no widths to compare"
            made.append(Finding(line, about, text, "undecided", True))
            continue
        for part, headline in ((heads, True), (rest, False)):
            made += [Finding(line, about, *_sentence(task), headline) for _, task in part.groupby("panel", sort=False)]
    return made


def _sentence(rows: pd.DataFrame) -> tuple[str, str]:
    panel, scale = rows["panel"].iloc[0], _scale(rows["metric"].iloc[0])
    points = " points" if scale == 100 else ""
    unit = points if panel == GAP or not points else " %"
    seeds = rows.pivot_table(index="seed", columns="width", values="value")
    narrow, wide = seeds.columns[0], seeds.columns[-1]
    if narrow == wide:
        return f"{panel} measured at D={narrow} only", "undecided"
    pairs = seeds[[narrow, wide]].dropna()
    if pairs.empty:
        return f"{panel}: no seed was measured at both D={narrow} and D={wide}", "undecided"
    before, after, change = float(pairs[narrow].mean()), float(pairs[wide].mean()), pairs[wide] - pairs[narrow]
    gain, half, n = float(change.mean()), half_width(change), float(rows["n"].iloc[0])
    word = "rises" if gain - half > 0 else "falls" if gain + half < 0 else "undecided"  # NaN (one seed) compares false
    low, high = _number(gain - half, scale, "+"), _number(gain + half, scale, "+")
    evidence = f"{len(pairs)} seeds, 95 % interval {low}..{high}"
    if len(pairs) == 1:
        evidence = "one seed: no interval"
        if scale == 100 and n > 0:
            error = math.sqrt((before * (1 - before) + after * (1 - after)) / n)
            evidence += f"; standard error {_number(error, scale)} points, test-set error only"
    moved = f"{_number(before, scale)} -> {_number(after, scale)}{unit} from D={narrow} to D={wide}"
    return f"{panel} {moved} ({_number(gain, scale, '+')}{points}, {evidence})", word


def missing(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """A sentence for every planned run that lacks a number which another run of its line has."""
    rows = named(table)
    rows = rows.assign(label=rows["panel"])
    if len(_measures(rows)) > 1:
        rows["label"] = rows["measure"] + " " + rows["metric"] + " " + rows["panel"]
    line_of, status = dict(zip(rows["run"], rows["line"], strict=True)), dict(zip(runs["run"], runs["status"], strict=True))
    said = []
    for run in dict.fromkeys([*runs["run"], *rows["run"]]):
        wanted = dict.fromkeys(rows.loc[rows["line"] == line_of.get(run), "label"])
        found = set(rows.loc[(rows["run"] == run) & rows["value"].notna(), "label"])
        lacking = [label for label in wanted if label not in found]
        if lacking or not wanted:
            what = ", ".join(lacking) if found else "any task"
            said.append(f"{run} ({status.get(run, 'status unknown')}): no number for {what}")
    return said


def write(page: Page, folder: Path) -> Path:
    """Write `report.html` and its PNGs into `folder` and return the page's path; UserError if nothing was measured."""
    if page.table.empty or page.table["value"].isna().all():
        states = ", ".join(f"{count} {name}" for name, count in page.runs["status"].value_counts().items())
        raise UserError(
            f"No result was measured (runs: {states or 'none'}). Mend what stopped the runs and repeat:\n  {page.command}"
        )
    pictures = [(caption, _embed(path)) for caption, path in page.pictures.items()]
    folder.mkdir(parents=True, exist_ok=True)
    table = named(page.table)
    line_of = dict(zip(table["run"], table["line"], strict=True))
    runs = page.runs.assign(line=page.runs["run"].map(line_of).fillna(page.runs["objective"]))
    said, lines = compare(table), dict(zip(table["line"], table["objective"], strict=True))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = pages.get_template("report.html.j2").render(
        page=page,
        sections=[_section(rows, page.title, runs, folder) for rows in _measures(table)],
        keys=[(line, Markup(figures.key(style))) for line, style in figures.styles(lines).items()],
        findings={line: [each for each in said if each.line == line] for line in lines},
        missing=missing(table, runs),
        runs=_runs(runs.drop(columns="line")),
        settings=json.dumps(page.settings, indent=2, ensure_ascii=False, default=str),
        pictures=pictures,
        light=list(enumerate(figures.LIGHT)),
        dark=list(enumerate(figures.DARK)),
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _section(rows: pd.DataFrame, title: str, runs: pd.DataFrame, folder: Path) -> dict[str, Any]:
    name, metric = f"{rows['measure'].iloc[0]} {rows['metric'].iloc[0]}", rows["metric"].iloc[0]
    scale, cells, change = _scale(metric), summary(rows), changes(rows)
    cells["caption"] = [_caption(row, scale, cells["data"].nunique() > 1) for _, row in cells.iterrows()]
    unit = ", %" if scale == 100 else ""
    plots = [figures.Plot(cells, rows.dropna(subset=["value"]), metric + unit, scale)]
    if change["width"].nunique() > 1:
        moved = summary(change).assign(caption="against the narrowest width, same seed")
        plots.append(figures.Plot(moved, change, "change, points" if unit else "change", scale, share=True))
    fewest, most = cells["seeds"].min(), cells["seeds"].max()
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' if most > 1 else ''}"
    note = f"{seeds} a point" + ("; bars: 95 % t-interval of the mean" if most > 1 else ": no intervals")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    pngs = [f"{stem}.png", f"{stem}-change.png"][: len(plots)]
    for plot, file, what in zip(plots, pngs, (name, f"{name}, change"), strict=False):
        figures.png(plot, folder / file, title=f"{title} · {what}", note=note)
    svgs = [[Markup(svg) for svg in figures.svgs(plot)] for plot in plots]
    return {"name": name, "unit": unit, "seeds": seeds, "svgs": svgs, "pngs": pngs, "pivot": _pivot(plots[0], runs)}


def _pivot(plot: figures.Plot, runs: pd.DataFrame) -> dict[str, Any]:
    """Rows line x width (also those of runs that gave nothing), columns panels; the best width of a line is marked."""
    cells, panels, scale = plot.cells, plot.panels, plot.scale
    at = cells.set_index(["line", "width", "panel"])[["mean", "std", "seeds"]].to_dict("index")
    best = set(cells.set_index(["line", "width", "panel"]).groupby(["line", "panel"])["mean"].idxmax())
    rows = []
    for line in dict.fromkeys([*cells["line"], *runs["line"]]):
        widths = sorted({*cells.loc[cells["line"] == line, "width"], *runs.loc[runs["line"] == line, "width"]})
        for width in widths:
            found = [at.get((line, width, panel), {"mean": math.nan, "std": math.nan, "seeds": 0}) for panel in panels]
            seeds = max(cell["seeds"] for cell in found)
            texts = [
                _number(cell["mean"], scale)
                + (f" ± {_number(cell['std'], scale)}" if cell["seeds"] > 1 else "")
                + (f" (n = {cell['seeds']})" if 0 < cell["seeds"] < seeds else "")
                for cell in found
            ]
            bold = [scale == 100 and len(widths) > 1 and (line, width, panel) in best for panel in panels]
            sort = ["" if math.isnan(cell["mean"]) else cell["mean"] for cell in found]
            rows.append((line, width, seeds, list(zip(texts, sort, bold, strict=True))))
    chance = cells.drop_duplicates("panel").set_index("panel")["chance"]
    return {"panels": panels, "rows": rows, "chance": [_number(chance[panel], scale) for panel in panels]}


def _runs(runs: pd.DataFrame) -> dict[str, Any]:
    rows = [[(_plain(value), "" if pd.isna(value) else value) for value in row] for row in runs.astype(object).to_numpy()]
    return {"columns": list(runs), "rows": rows, "status": runs["status"].value_counts().to_dict()}


def _plain(value: Any) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _caption(row: pd.Series[Any], scale: float, several: bool) -> str:
    unsaid = several and str(row["data"]) not in str(row["panel"])  # the title may name it already
    facts = [OWN if row["role"] == OWN else "", row["data"] if unsaid else ""]
    facts += [f"{int(row[name])} {what}" for name, what in (("classes", "classes"), ("n", "images")) if row[name] > 0]
    facts += [f"chance {_number(row['chance'], scale)}{' %' if scale == 100 else ''}"] if row["chance"] >= 0 else []
    return " · ".join(filter(None, facts))


def _number(value: float, scale: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value * scale:{sign}.1f}" if scale == 100 else f"{value:{sign}.3g}"


def _scale(metric: str) -> float:
    return 100.0 if "accuracy" in metric else 1.0


def _measures(table: pd.DataFrame) -> list[pd.DataFrame]:
    found = table.dropna(subset=["value"])[["measure", "metric"]].drop_duplicates().to_numpy()
    return [table[(table["measure"] == measure) & (table["metric"] == metric)] for measure, metric in found]


def _embed(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"There is no picture at '{path}'. Give the path of a PNG, or leave the picture out.")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
