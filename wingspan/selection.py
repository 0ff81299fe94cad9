"""The rows of a table of numbers that a claim is about -> a value for each seed and setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wingspan.errors import UserError
from wingspan.evidence import Floats

Where = Mapping[str, object]
"""Column -> the value, or a tuple of values, that rows must have. Compared as text; "" is what a run without the axis has."""

ABOUT = ["run", "fingerprint", "seed", "role", "classes", "n", "chance", "error", "value"]  # tell of a number, not which it is
PINNED = ["objective", "measure", "metric", "series"]  # no mean is taken over several of these unless a claim asks for it


class MissingError(Exception):
    """What a claim needs and the table lacks."""


@dataclass(frozen=True)
class Grid:
    """values: (seeds, settings) in the unit told, NaN where a seed lacks something of the mean that a value is."""

    values: Floats
    seeds: Sequence[object]
    unit: str
    over: str  # what each value is the mean over; may be ""

    def minus(self, first: int, second: int) -> Floats:
        """(seeds,): paired differences of two settings."""
        return self.values[:, first] - self.values[:, second]

    @property
    def size(self) -> float:
        """The largest value, against which rounding is told from a difference."""
        return float(np.nanmax(np.abs(self.values), initial=0.0))


def _text(value: object) -> str:
    if value is None or value != value:  # NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _wanted(value: object) -> list[str]:
    return [_text(item) for item in (value if isinstance(value, tuple | list) else (value,))]


def spoken(setting: Where) -> str:
    """A selection as words: 'projector none, width 32 or 64'."""
    return ", ".join(f"{column} {' or '.join(item or 'none' for item in _wanted(value))}" for column, value in setting.items())


def pick(table: pd.DataFrame, where: Where) -> pd.DataFrame:
    """The rows with a finite value that a claim is about; all but what describes the number made texts."""
    rows = table[np.isfinite(pd.to_numeric(table["value"]).astype(float))] if "value" in table else table.assign(value=[])
    if rows.empty:
        raise MissingError("the table holds no number")
    rows = rows.assign(**{name: rows[name].map(_text) for name in rows if name not in ABOUT or name == "role"})
    return _narrow(rows, where)


def _narrow(rows: pd.DataFrame, where: Where, among: Where | None = None) -> pd.DataFrame:
    """The rows that a selection is about; every value that it names must be there."""
    begun: dict[str, object] = {}
    for column, value in where.items():
        begun[column] = value
        rows = rows if column in rows else rows.assign(**{column: ""})
        rows = rows[rows[column].isin(_wanted(value))]
        if rows.empty:
            raise MissingError(f"no number with {spoken(begun)}" + (f" among those with {spoken(among)}" if among else ""))
    lacking = {name: tuple(set(_wanted(value)) - set(rows[name])) for name, value in where.items()}
    if any(lacking.values()):
        absent = {name: tuple(sorted(items)) for name, items in lacking.items() if items}
        raise MissingError(f"no number with {spoken(absent)} among those with {spoken({**(among or {}), **where})}")
    return rows


def grid_of(where: Where, table: pd.DataFrame, settings: Sequence[Where]) -> Grid:
    """Every seed's value at each setting, the mean over whatever else varies among the rows.

    Raises MissingError naming a part of that mean that one setting has and another lacks, and UserError where the mean would
    mix several objectives, measures, metrics or series that `where` does not name, or where a number is there twice.
    """
    picked = pick(table, where)
    parts = [_narrow(picked, setting, where) for setting in settings]
    named = set().union(*settings)
    named |= {"width"} if "architecture" in named else set()  # an architecture has its own D
    rows = pd.concat(parts)
    varying = [name for name in rows if name not in [*ABOUT, *named, "line", "panel"] and rows[name].nunique() > 1]
    for name in varying:
        if name in PINNED and name not in where:
            several = ", ".join(sorted(set(rows[name])))
            raise UserError(f"a claim on {spoken(where)} mixes several values of {name} ({several}): name those it is about.")
    tables = []
    for own, setting in zip(parts, settings, strict=True):
        cells = [spoken(dict(zip(varying, key, strict=True))) for key in own[["seed", *varying]].to_numpy()[:, 1:]]
        part = own[["seed", "value"]].assign(cell=cells)
        if part.duplicated(["seed", "cell"]).any():
            raise UserError(f"the table holds a number twice at {spoken({**where, **setting})}: leave one of them out.")
        tables.append(part.pivot(index="seed", columns="cell", values="value"))
    for made, setting in zip(tables, settings, strict=True):
        peers = [other for other, its in zip(tables, settings, strict=True) if its.get("role") == setting.get("role")]
        absent = sorted(set().union(*(other.columns for other in peers)) - set(made.columns))  # other roles have other tasks
        if absent:
            raise MissingError(f"no number for {'; '.join(absent[:3])} at {spoken(setting)}")
    accuracies = bool(rows["metric"].str.contains("accuracy").all()) if "metric" in rows else False
    wide = pd.concat([made.mean(axis=1, skipna=False) for made in tables], axis=1).sort_index()
    values = wide.to_numpy(dtype=float) * (100 if accuracies else 1)
    return Grid(values, list(wide.index), "points" if accuracies else "", _over(rows, varying))


def _over(rows: pd.DataFrame, varying: Sequence[str]) -> str:
    tasks = [name for name in ("data", "task") if name in varying]
    counts = [f"{len(rows[tasks].drop_duplicates())} tasks"] if tasks else []
    return " and ".join(counts + [f"{rows[name].nunique()} values of {name}" for name in varying if name not in tasks])
