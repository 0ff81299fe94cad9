"""Advise a width from a study: the narrowest that is as good as the best on the tasks that matter, and what it costs.

wingspan advise tab4                                       the study of that name, all its tasks
wingspan advise studies/tab4-small --task transfer         what matters are the other data sets
wingspan advise tab4 --task cifar10 --measure few --series "1 %"
wingspan advise measured --where backbone.arch=small --json

The rule: the narrowest D whose mean lies within one standard error (over seeds) of the best mean. Narrow is a valid answer.

Where the study measured spectrum and sparsity, it says too what these would advise without labels, and how well that went with
the labels of this very study.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import tyro

from wingspan.errors import UserError, nearest
from wingspan.verbs import _advice as answers
from wingspan.verbs import _arguments as arguments
from wingspan.verbs import _folder as folders


@dataclass(frozen=True)
class _Options:
    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """A study's folder (what holds results.parquet), or its name: then studies/NAME-SCALE."""
    scale: str | None = None
    """With a study's name: which of its scales. Left out: small."""
    task: tuple[str, ...] = ()
    """What the representation is wanted for: data sets as the tables call them, DATA/TASK where a set poses several tasks, own
    (what it was trained on) or transfer (all others). Left out: everything. Change it whenever not all of it matters: own and
    transfer may well ask for different widths. The mean over several is plain, so a task of wide differences outweighs the
    others."""
    objective: tuple[str, ...] = ()
    """Advise on these only. Left out: each objective of the study."""
    where: tuple[str, ...] = ()
    """AXIS=LABEL: of a study with further axes (projector, sampling, ...), this label only. Left out: every combination on its
    own."""
    measure: str | None = None
    """The measure that decides, as the tables call it. Left out: the linear probe. `few` when there will be few labels, `knn`
    for retrieval."""
    metric: str = "accuracy"
    """Which of the measure's metrics, one of which more is better. r2 for quantities."""
    series: str | None = None
    """Which of the measure's series, such as '1 %' of few: needed where it has several."""
    json: bool = False
    """Print one JSON object, for programs."""


def main(words: list[str]) -> int:
    options = arguments.parse(_Options, _Options(tyro.MISSING), words, "advise", __doc__ or "")
    folder = folders.read(folders.find(options.study, options.scale))
    rows, axes = _narrowed(folder.table, options)
    asked = _asked(rows, options)
    found = answers.answer(folder, rows, axes, asked)
    if options.json:
        print(json.dumps(answers.as_json(found), allow_nan=False))
    else:
        answers.show(found)
    return 0


def _narrowed(table: pd.DataFrame, options: _Options) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the objectives and labels asked for, and the axes that still vary among them."""
    rows = table
    for name in options.objective:
        if name not in set(table["objective"]):
            raise UserError(f"the study has no objective '{name}'.{nearest(name, set(table['objective']))}")
    if options.objective:
        rows = rows[rows["objective"].isin(options.objective)]
    axes = answers.axes(table)
    for text in options.where:
        axis, equals, label = text.partition("=")
        if not equals:
            raise UserError(f"--where {text}: write AXIS=LABEL, such as sampling=uniform.")
        if axis not in axes:
            known = nearest(axis, axes) if axes else " It varies objective, width and seed only."
            raise UserError(f"--where {text}: the study has no axis '{axis}'.{known}")
        labels = rows[axis].map(answers.label)
        if label not in set(labels):
            raise UserError(f"--where {text}: axis '{axis}' has no label '{label}'.{nearest(label, set(labels))}")
        rows = rows[labels == label]
    return rows, [axis for axis in axes if rows[axis].map(answers.label).nunique() > 1]


def _asked(rows: pd.DataFrame, options: _Options) -> answers.Asked:
    """What decides: measure, metric, series and tasks. Raises UserError for a name that the table does not have."""
    scored = rows[(rows["metric"] == options.metric) & rows["value"].notna()]
    measures = list(dict.fromkeys(scored["measure"]))
    if options.metric != "accuracy" and not measures:
        raise UserError(f"the table has no metric '{options.metric}'.{nearest(options.metric, set(rows['metric']))}")
    if options.measure and options.measure not in measures:
        known = nearest(options.measure, measures) if measures else " No measure has it."
        raise UserError(f"the table has no {options.metric} by measure '{options.measure}'.{known}")
    linear = [name for name in measures if name.startswith("linear")]
    measure = options.measure or next(iter([*linear, *measures]), "")
    scored = scored[scored["measure"] == measure]
    series = sorted(set(scored["series"]))
    if options.series is not None and options.series not in series:
        raise UserError(f"measure '{measure}' has no series '{options.series}'.{nearest(options.series, series)}")
    if options.series is None and len(series) > 1:
        raise UserError(f"measure '{measure}' has several series: choose one by --series. Known: {', '.join(series)}.")
    one = options.series if options.series is not None else next(iter(series), "")
    scored = scored[scored["series"] == one]
    return answers.Asked(measure, options.metric, one, _tasks(rows, scored, options.task), options.task)


def _tasks(rows: pd.DataFrame, scored: pd.DataFrame, words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The (data, task) that words name, all without a word; () where nothing of it has labels here."""
    pairs = {"own": _pairs(scored[scored["role"] == "in-distribution"])}
    if "transfer" in set(rows["role"]):
        pairs["transfer"] = _pairs(scored[scored["role"] == "transfer"])
    pairs |= {name: _pairs(scored[scored["data"] == name]) for name in dict.fromkeys(rows["data"])}
    pairs |= {f"{data}/{task}": [(data, task)] for data, task in _pairs(scored)}
    for word in words:
        if word not in pairs:
            known = nearest(word, pairs)
            listed = "" if known.startswith(" Known") else f" Known: {', '.join(pairs)}."
            raise UserError(f"--task {word}: the study measured no such task.{known}{listed}")
    chosen = [pairs[word] for word in words] or [_pairs(scored)]
    if any(chosen) and not all(chosen):
        empty = [word for word, each in zip(words, chosen, strict=True) if not each]
        raise UserError(f"--task {' '.join(empty)}: no labels were measured there, as they were on the others: ask one by one.")
    return tuple(dict.fromkeys(pair for each in chosen for pair in each))


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return [(str(data), str(task)) for data, task in rows[["data", "task"]].drop_duplicates().to_numpy()]
