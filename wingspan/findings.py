"""Numbers -> sentences that claim no more than the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from wingspan.tables import GAP, averages, half_width, metrics, number, scale_of, scored, spoken, summary, tidy, unit_of

KEYS = ["line", "measure", "metric", "series"]


@dataclass(frozen=True)
class Finding:
    """One sentence: of which objective and axes (line), of what where there are several, what changed, and the verdict."""

    line: str
    what: str  # measure, metric and series, as far as the table holds several; may be ""
    text: str
    word: str  # rises | falls | undecided
    headline: bool  # of means over tasks or of whole data sets, not of a single task

    def __str__(self) -> str:
        about = f"{self.line}, {self.what}" if self.what else self.line
        return f"{about}: {self.text}: {self.word}"


def findings(table: pd.DataFrame) -> list[str]:
    """What happens from the narrowest to the widest representation, a sentence for each objective and task.

    Differences are paired by seed. "rises" and "falls" are said only where the 95 % t-interval of the mean difference
    excludes 0, so one seed is always undecided; it gets the two measurements' own standard error, and where the measure
    gives none, sqrt(p(1-p)/n + q(1-q)/n) of the test sets.
    """
    return [str(finding) for finding in compare(table)]


def compare(table: pd.DataFrame) -> list[Finding]:
    """The findings; for each line the means over tasks and their gap come first (headline), then the single tasks."""
    rows = tidy(table).dropna(subset=["value"])
    means, made = averages(rows), []
    for key, mine in rows.groupby(KEYS, sort=False):
        line, measure, metric, series = (str(part) for part in key)
        measures, kinds = rows["measure"].nunique(), len(metrics(rows))
        parts = [measure if measures > 1 else "", metric if kinds > 1 else "", series]
        what = " ".join(part for part in parts if part)
        heads = means[(means[KEYS] == list(key)).all(axis=1)]
        rest = mine[~mine["panel"].isin(heads["panel"])]
        if mine["width"].nunique() == 1:
            text = f"only D={mine['width'].iloc[0]} measured, no widths to compare"
            made.append(Finding(line, what, text, "undecided", True))
            continue
        for _, panel in heads.groupby("panel", sort=False):
            made.append(Finding(line, what, *_sentence(panel), True))
        for _, panel in rest.groupby("panel", sort=False):
            made.append(Finding(line, what, *_sentence(panel), bool((panel["task"] == "").all())))
    return made


def headlines(table: pd.DataFrame) -> list[Finding]:
    """What the front page says first: the headline findings of the leading measure; none where no accuracy was measured."""
    rows, lead = tidy(table), leading(table)
    return [finding for finding in compare(rows[rows["measure"] == lead]) if finding.headline]


def leading(table: pd.DataFrame) -> str:
    """The first measure that gives accuracies on labelled tasks, linear probes before others; "" if there is none."""
    rows = tidy(table).dropna(subset=["value"])
    rows = rows[scored(rows)].sort_index()  # in the order they were measured
    found = list(dict.fromkeys(rows["measure"].astype(str)))
    return next((name for name in found if name.startswith("linear")), found[0] if found else "")


def result(table: pd.DataFrame) -> str:
    """One measure's numbers in a line: its first metric on its first task or data set, at its ends; "" without a number."""
    rows = tidy(table)
    cells = summary(rows)
    if cells.empty:
        return ""
    first = cells.sort_values("role", kind="stable").iloc[0]
    metric, scale, panel = str(first["metric"]), scale_of(str(first["metric"])), str(first["panel"])
    cells = cells[(cells["metric"] == metric) & (cells["panel"] == panel)]
    unit = f" {unit_of(metric)}".rstrip()
    several = {name: cells[name].nunique() > 1 for name in ("line", "series")}
    said, ends = [], set()
    for key, mine in cells.groupby(["line", "series"], sort=False):
        ends.add((mine["width"].min(), mine["width"].max()))
        values = [number(mean, scale) for mean in mine.set_index("width")["mean"].sort_index().iloc[[0, -1][: len(mine)]]]
        who = " ".join(str(name) for name, kind in zip(key, several, strict=True) if several[kind] and name)
        said.append(f"{who} {' → '.join(values)}{unit}".strip())
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    more = f", and {len(said) - 4} more" if len(said) > 4 else ""
    at = f"at D={low}" if low == high else f"from D={low} to D={high}"
    return f"{spoken(metric)} on {panel} {at}: {', '.join(said[:4])}{more}"


def _sentence(rows: pd.DataFrame) -> tuple[str, str]:
    panel, scale = rows["panel"].iloc[0], scale_of(rows["metric"].iloc[0])
    points = " points" if scale == 100 else ""
    unit = points if panel == GAP else f" {unit_of(rows['metric'].iloc[0])}".rstrip()
    seeds = rows.pivot_table(index="seed", columns="width", values="value")
    narrow, wide = seeds.columns[0], seeds.columns[-1]
    if narrow == wide:
        return f"{panel} measured at D={narrow} only", "undecided"
    pairs = seeds[[narrow, wide]].dropna()
    if pairs.empty:
        return f"{panel}: no seed was measured at both D={narrow} and D={wide}", "undecided"
    before, after, change = float(pairs[narrow].mean()), float(pairs[wide].mean()), pairs[wide] - pairs[narrow]
    gain, half = float(change.mean()), half_width(change)
    word = "rises" if gain - half > 0 else "falls" if gain + half < 0 else "undecided"  # NaN (one seed) compares false
    low, high = number(gain - half, scale, "+"), number(gain + half, scale, "+")
    evidence = f"{len(pairs)} seeds, 95 % interval {low}..{high}"
    if len(pairs) == 1:
        both = rows[(rows["seed"] == pairs.index[0]) & rows["width"].isin([narrow, wide])]
        evidence = "one seed: no interval" + _own_error(both, scale, points)
    moved = f"{number(before, scale)} -> {number(after, scale)}{unit} from D={narrow} to D={wide}"
    return f"{panel} {moved} ({number(gain, scale, '+')}{points}, {evidence})", word


def _own_error(both: pd.DataFrame, scale: float, points: str) -> str:
    """The standard error of one seed's difference, as far as it can be had: the measure's, else the test sets'."""
    if both["error"].notna().all():
        error, of = math.sqrt(float(both["error"].pow(2).sum())), "of the two measurements only"
    elif scale == 100 and (both["n"] > 0).all():
        error = math.sqrt(float((both["value"] * (1 - both["value"]) / both["n"]).sum()))
        of = "test-set error only"
    else:
        return ""
    return f"; standard error {number(error, scale)}{points}, {of}"


def missing(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """A sentence for every planned run that lacks a number which another run of its line has.

    runs: `run` and `status`, and `line` where it is known also for runs that gave nothing.
    """
    rows = tidy(table)
    several = len(metrics(rows)) > 1
    prefix = rows["measure"] + " " + rows["metric"] + " " if several else ""
    rows = rows.assign(label=prefix + rows["panel"] + (" " + rows["series"]).str.rstrip())
    status = dict(zip(runs["run"], runs["status"], strict=True))
    line_of = dict(zip(runs["run"], runs["line"], strict=True)) if "line" in runs else {}
    line_of |= dict(zip(rows["run"], rows["line"], strict=True))
    said = []
    for run in dict.fromkeys([*runs["run"], *rows["run"]]):
        wanted = rows[rows["line"] == line_of.get(run)].drop_duplicates("label")
        found = rows[(rows["run"] == run) & rows["value"].notna()]
        lost = wanted[~wanted["label"].isin(found["label"])]
        if lost.empty and not wanted.empty:
            continue
        whole = ~lost["measure"].isin(found["measure"])  # a measure that is lacking altogether is named once
        lacking = dict.fromkeys(lost["measure"].where(whole, lost["label"]))
        what = ", ".join(map(str, lacking)) if len(found) else "any task" if not several else "any measure"
        said.append(f"{run} ({status.get(run, 'status unknown')}): no number for {what}")
    return said
