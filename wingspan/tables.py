"""The table of numbers, made ready to be shown: names for lines and panels, means over seeds, means over tasks, changes."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from wingspan.evidence import quantile

OWN, TRANSFER, GAP = "in-distribution", "transfer", "transfer minus in-distribution"
ORDER = ("supervised", "simclr", "vicreg", "byol", "barlow")
KEYS = ["measure", "metric", "series", "line", "objective", "role", "data", "task", "panel", "width"]

# What a row is about; any other column that varies is an axis of the study and splits an objective into several lines.
ROW = ["run", "objective", "width", "seed", "measure", "metric", "data", "task", "series", "role"]
ROW += ["classes", "n", "chance", "error", "value"]
RUN = ["fingerprint", "steps", "seconds", "views_per_second", "final_loss", "backbone_parameters", "status"]
CURVE = ["name", "expected", "x", "y", "x_label", "y_label", "x_scale", "y_scale"]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the fixed order, with `line` (objective and varying axes) and `panel` (task, and data where needed).

    Columns that tables of earlier versions lack are filled: series with "", error with NaN.
    """
    if "line" in table:
        return table
    texts = {name: table[name].fillna("").astype(str) if name in table else "" for name in ("task", "data", "series")}
    numbers = {
        name: pd.to_numeric(table[name]).astype(float) if name in table else math.nan
        for name in ("classes", "n", "chance", "error", "value")
    }
    made = table.reindex(columns=ROW).iloc[:0] if table.empty else table
    made = made.assign(**texts, **numbers)
    made["line"] = made["objective"].astype(str)
    for axis in axes(table):
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


def axes(table: pd.DataFrame) -> list[str]:
    """The columns that vary and tell of the run, beside objective, width and seed: a study's further axes."""
    return [str(name) for name in table if name not in ROW + RUN + CURVE and table[name].nunique(dropna=False) > 1]


def arrange(objectives: set[str]) -> list[str]:
    """The fixed order of the known objectives, then the others alphabetically."""
    return [name for name in ORDER if name in objectives] + sorted(objectives.difference(ORDER))


def metrics(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The tidy table cut by measure and metric, as far as there are numbers."""
    found = table.dropna(subset=["value"])[["measure", "metric"]].drop_duplicates().to_numpy()
    return [table[(table["measure"] == measure) & (table["metric"] == metric)] for measure, metric in found]


def t95(degrees: int) -> float:
    """Student's t with P(|T| <= t) = 0.95."""
    return quantile(0.95, degrees)


def half_width(values: pd.Series[float]) -> float:
    """Half the 95 % t-interval of the mean; NaN for fewer than two values."""
    count = len(values)
    return t95(count - 1) * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per measure, metric, series, objective, task and width with mean, std and half (95 %) over seeds, and seeds.

    A fraction stays a fraction. With one seed std and half are NaN and `error` is the standard error of its value, where
    the measure gave one; with several it is NaN. Rows without a number are left out.
    """
    rows = tidy(table).dropna(subset=["value"])
    facts: dict[str, Any] = {name: (name, "first") for name in ("classes", "n", "chance", "error")}
    seeds = rows.groupby([*KEYS, "seed"], sort=False, as_index=False).agg(value=("value", "mean"), **facts)
    over: dict[str, Any] = {"mean": "mean", "std": "std", "half": half_width, "seeds": "size"}
    made: dict[str, Any] = {name: ("value", how) for name, how in over.items()}
    cells: pd.DataFrame = seeds.groupby(KEYS, sort=False, as_index=False).agg(**made, **facts)
    cells["error"] = cells["error"].where(cells["seeds"] == 1)
    return cells


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Each run's mean accuracy over its in-distribution and over its transfer tasks, and their gap, as rows like the table's.

    Only for accuracies on labelled tasks: r2 or a rank has no such mean. A run that lacks one of its line's tasks gives no
    mean: means over different tasks cannot be compared.
    """
    rows, parts = tidy(table), []
    rows = rows[scored(rows)]
    for _, mine in rows.groupby(["measure", "metric", "series", "line"], sort=False):
        same = {name: mine[name].iloc[0] for name in ("measure", "metric", "series", "line", "objective")}
        means: dict[str, pd.Series[float]] = {}
        for role in (OWN, TRANSFER):
            theirs = mine[mine["role"] == role]
            wide = theirs.pivot_table(index=["width", "seed"], columns="panel", values="value")
            if wide.empty:
                continue
            means[role] = wide.mean(axis=1, skipna=False).dropna()
            part = means[role].rename("value").reset_index().assign(**same, role=role, n=math.nan, error=math.nan)
            part["panel"] = f"mean of {wide.shape[1]} {role} tasks"
            if wide.shape[1] == 1:
                one = theirs.drop_duplicates(["width", "seed"]).set_index(["width", "seed"]).reindex(means[role].index)
                part = part.assign(panel=wide.columns[0], n=one["n"].to_numpy(), error=one["error"].to_numpy())
            parts.append(part)
        if len(means) == 2:
            gap = (means[TRANSFER] - means[OWN]).dropna().rename("value").reset_index()
            parts.append(gap.assign(**same, panel=GAP, role=GAP, n=math.nan, error=math.nan))
    return pd.concat(parts, ignore_index=True) if parts else rows.iloc[:0]


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """`averages` of the two roles minus the same seed's value at its line's narrowest width; one panel for each role.

    Empty where no task is the run's own.
    """
    if not (tidy(table)["role"] == OWN).any():  # variants of one task (backgrounds), whose mean says nothing
        return table.iloc[:0]
    rows = averages(table)
    rows = rows[rows["role"] != GAP].assign(data="", classes=math.nan, chance=0.0, error=math.nan)
    rows["panel"] = rows["task"] = rows["role"].map({OWN: "own task", TRANSFER: "transfer tasks, mean"})
    keys = ["measure", "metric", "series", "line", "role", "seed"]
    narrowest = rows.groupby(["measure", "metric", "series", "line"])["width"].transform("min")
    base = rows[rows["width"] == narrowest].set_index(keys)["value"].rename("base")
    rows = rows.join(base, on=keys).dropna(subset=["base"])
    return rows.assign(value=rows["value"] - rows["base"])


def spoken(metric: str) -> str:
    """A metric's name as words."""
    return "R²" if metric == "r2" else metric.replace("_", " ")


def difference(metric: str) -> bool:
    """Whether a metric is the difference of two accuracies or r2, by its name: "accuracy gap"."""
    return not {"gap", "gain", "lost", "loss", "difference", "minus"}.isdisjoint(metric.replace("_", " ").split())


def unit_of(metric: str) -> str:
    """What a metric's values are shown in: "%", "points" for a difference of accuracies, or "" for a plain number."""
    return "" if scale_of(metric) != 100 else "points" if difference(metric) else "%"


def scored(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are an accuracy on a labelled task: of these alone do means over tasks and best widths make sense."""
    metric = table["metric"].astype(str)
    return metric.str.contains("accuracy") & ~metric.map(difference).astype(bool) & (table["task"] != "")


def scale_of(metric: str) -> float:
    """100 for what is a fraction to be shown in per cent: a metric whose name holds "accuracy"."""
    return 100.0 if "accuracy" in metric else 1.0


def number(value: float, scale: float = 1.0, sign: str = "") -> str:
    """A value as read in a table: per cent to a tenth; anything else to three digits, whole from 100 on."""
    if not math.isfinite(value):
        return "–"
    if scale == 100:
        return f"{value * 100:{sign}.1f}"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:{sign}.2e}"
    return f"{value:{sign},.{_decimals(value)}f}"


def spread(deviation: float, value: float, scale: float = 1.0) -> str:
    """What stands behind a `number` and its ±: to as many places as the value."""
    if scale == 100 or not 1e-4 <= abs(value) < 1e7:
        return number(deviation, scale)
    return f"{deviation:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """How many places after the point show three digits of a value; none from 100 on, two for 0."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
