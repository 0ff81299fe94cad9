"""What was measured, in the terminal: every number while they are few, else one of each measure and image set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from wingspan import spec
from wingspan.data.base import Data
from wingspan.measures.base import Measure
from wingspan.pretrain import Pretrain
from wingspan.progress import console
from wingspan.results import label_of, result_file
from wingspan.runs import RunFolder, read_json

_MANY = 40  # rows that nobody reads in a terminal


def show(runs: Mapping[RunFolder, Pretrain], sets: Mapping[RunFolder, Sequence[Data]], measures: Sequence[Measure]) -> None:
    """Print what was asked for: a table an image set, a row a number, a column a run."""
    names = [data.label_name for data in next(iter(sets.values()))]
    found = {
        (index, measure): [_read(folder, sets[folder][index], measure) for folder in runs]
        for index in range(len(names))
        for measure in measures
    }
    rows = {
        (index, measure, key): [numbers.get(key) for numbers in each]
        for (index, measure), results in found.items()
        for each in [[_by_key(result) for result in results]]
        for key in dict.fromkeys(key for numbers in each for key in numbers)
    }
    whole = len(rows) <= _MANY
    firsts = {(index, measure): key for index, measure, key in reversed(rows)}
    for index, name in enumerate(names):
        table = Table(title=name)
        for column in ("measure", "task", "metric"):
            table.add_column(column, overflow="fold")
        for column in (*_titles(runs), *(("chance", "n") if whole else ())):
            table.add_column(column, justify="right", overflow="fold")
        last = None
        for (at, measure, key), each in rows.items():
            if at == index and (whole or firsts[at, measure] == key):
                metric, task, series = key
                one = next(number for number in each if number)
                error = "error" if whole else ""  # in the overview there is no room for it
                values = [_value(number, "value", metric, error) if number else "–" for number in each]
                values += [_value(one, "chance", metric), f"{one['n']:,}"] if whole else []
                label = label_of(measure) if measure != last else ""
                described = f"{metric}, {series}" if series else metric
                table.add_row(label, task, described, *values)
                last = measure
        if table.row_count:
            console.print(table)
    for measure in measures:
        skipped = {names[at]: each[0]["skipped"] for (at, m), each in found.items() if m == measure and "skipped" in each[0]}
        if skipped:
            text = f"note: {label_of(measure)} measures nothing on {', '.join(skipped)}: {next(iter(skipped.values()))}"
            console.print(text, highlight=False, soft_wrap=True)
    if not whole:
        console.print(f"Shown is one number of each measure and image set, of {len(rows):,}; all are in the report.")


def _read(folder: RunFolder, data: Data, measure: Measure) -> dict[str, Any]:
    file = result_file(folder, data, measure)
    return dict(read_json(file)) if file.exists() else {}


def _by_key(result: Mapping[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(n["metric"], n["task"], n.get("series", "")): n for n in result.get("numbers", [])}


def _titles(runs: Mapping[RunFolder, Pretrain]) -> list[str]:
    """A heading a run; with its folder's name where two would read alike."""
    titles = [_title(run) for run in runs.values()]
    return [
        f"{title}\n{folder.path.name}" if titles.count(title) > 1 else title for title, folder in zip(titles, runs, strict=True)
    ]


def _title(run: Pretrain) -> str:
    return f"{spec.kind_of(run.objective)}\nD={run.backbone.D}" + (f" seed {run.seed}" if run.seed else "")


def _value(number: Mapping[str, float | None], name: str, metric: str, error: str = "") -> str:
    value, spread = number.get(name), number.get(error) if error else None
    if value is None or value != value:
        return ""
    if "accuracy" in metric:
        return f"{value:.2%}" + (f" ± {spread * 100:.2f}" if spread else "")
    return f"{value:.4g}" + (f" ± {spread:.2g}" if spread else "")
