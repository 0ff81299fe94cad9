"""The answer to `wingspan advise`: made from a folder and what was asked, printed, and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table

from wingspan import tables
from wingspan.advice import Advice, Curve, advised, against_width
from wingspan.errors import UserError
from wingspan.prices import Price, price
from wingspan.progress import console
from wingspan.proxy import MEASURES, WIDEST, Found, proxies
from wingspan.results import name_of
from wingspan.runs import finite
from wingspan.verbs._folder import Folder

_FEW = 3  # seeds from which on a standard error is worth trusting


@dataclass(frozen=True)
class Asked:
    """What decides: numbers of one measure, metric and series on (data, task) pairs; without a pair there are no labels."""

    measure: str
    metric: str
    series: str
    tasks: tuple[tuple[str, str], ...]
    words: tuple[str, ...]  # as the user named the tasks

    @property
    def spoken(self) -> str:
        names = [data for data, _ in self.tasks]
        told = [f"{data}/{task}" if names.count(data) > 1 else data for data, task in self.tasks]
        mean = f"mean of {len(told)} tasks: " if len(told) > 1 else ""
        return f"{self.metric} by {self.measure}{f', {self.series}' if self.series else ''} ({mean}{', '.join(told)})"


@dataclass(frozen=True)
class Block:
    """The advice for one objective and one label of each further axis. `missing` says why labels give none."""

    objective: str
    axes: Mapping[str, str]
    advice: Advice | None
    missing: str
    prices: Mapping[int, Price]
    proxies: Sequence[Found]

    @property
    def title(self) -> str:
        return ", ".join([self.objective, *(f"{axis} {text}" for axis, text in self.axes.items())])


@dataclass(frozen=True)
class Answer:
    folder: Folder
    asked: Asked
    blocks: Sequence[Block]
    notes: Sequence[str]


def axes(table: pd.DataFrame) -> list[str]:
    """A study's further axes, as `label` tells them apart."""
    return [name for name in tables.axes(table) if table[name].map(label).nunique() > 1]


def label(value: object) -> str:
    """A label of an axis as it is told and written: none for a run without."""
    return "none" if value is None or value != value or value == "" else str(value)


def answer(folder: Folder, rows: pd.DataFrame, varying: Sequence[str], asked: Asked) -> Answer:
    """A block for every objective and combination of the axes that vary among `rows`.

    Raises UserError when nothing can be advised, neither by labels nor without.
    """
    blocks = []
    for objective in tables.arrange(set(rows["objective"])):
        own = rows[rows["objective"] == objective]
        combinations = [tuple(map(label, values)) for values in own[list(varying)].to_numpy()]
        for combination in dict.fromkeys(combinations):
            part = own[[each == combination for each in combinations]]
            blocks.append(_block(folder, part, objective, dict(zip(varying, combination, strict=True)), asked))
    if not any(block.advice or any(found.advice for found in block.proxies) for block in blocks):
        if asked.tasks:
            raise UserError(next(block.missing for block in blocks))
        where = f" on {' '.join(asked.words)}" if asked.words else ""
        raise UserError(f"no labels were measured{where}, and nothing to advise by without: {folder.unlabelled}")
    return Answer(folder, asked, blocks, _notes(folder, rows, asked, blocks))


def _block(folder: Folder, rows: pd.DataFrame, objective: str, labels: Mapping[str, str], asked: Asked) -> Block:
    prices = {}
    for width in sorted(set(rows["width"])):
        keys = rows.loc[rows["width"] == width, "fingerprint"].unique()
        prices[int(width)] = price(int(width), [folder.runs[key] for key in keys if key in folder.runs])
    advice: Advice | None = None
    curve: Curve | None = None
    missing = ""
    if asked.tasks:
        pairs = pd.Series(list(zip(rows["data"], rows["task"], strict=True)), index=rows.index)
        where = {"measure": asked.measure, "metric": asked.metric, "series": asked.series}
        try:
            curve = against_width(rows[pairs.isin(asked.tasks)], where)
            advice = advised(curve, {width: each.spoken for width, each in prices.items()})
        except UserError as error:
            missing = str(error)
    return Block(objective, labels, advice, missing, prices, proxies(rows, {}, curve))


def _notes(folder: Folder, rows: pd.DataFrame, asked: Asked, blocks: Sequence[Block]) -> list[str]:
    notes = list(folder.notes)
    if len(asked.tasks) > 1:
        notes.append("The mean over tasks is plain: a task of wide differences outweighs the others. --task says which matter.")
    fewest = min((block.advice.n for block in blocks if block.advice), default=_FEW)
    if fewest < _FEW:
        seeds = (
            "One seed: the error is of test images, and not of training"
            if fewest == 1
            else "Two seeds tell little of their spread"
        )
        notes.append(f"{seeds}, so one standard error is itself a guess: {_FEW} seeds or more settle what is close.")
    if any(each.step_seconds is not None for block in blocks for each in block.prices.values()):
        notes.append("Time a step is as it was in training, whatever else that machine did meanwhile.")
    lacking = [name for name in MEASURES if not rows["measure"].map(name_of).eq(name).any()]
    if lacking:
        notes.append(f"Advice without labels needs the measure{'s' * (len(lacking) > 1)} {' and '.join(lacking)}, which this "
                     f"table lacks: {folder.unlabelled}")  # fmt: skip
    if any(block.proxies for block in blocks):
        notes.append("RankMe (Garrido et al. 2023) and alpha (Agrawal et al. 2022, the nearer 1 the better) were proposed for "
                     "self-supervised runs; that sparser is better is an observation of the paper's section 4.1.")  # fmt: skip
    tracked = [found.tracking for block in blocks for found in block.proxies if found.tracking]
    if tracked:
        least = max(tracking.least_p for tracking in tracked)
        notes.append(
            "Without labels: tau-b (Kendall) is +1 where a rule orders the runs as the labels do. Runs of one width are one "
            "point of one trend, so p (one-sided) deals whole widths anew; with so few widths it cannot fall below "
            f"{least:.2g}. RankMe is at most D and grows with it: a rule that loses no less than '{WIDEST.name}' tells no more "
            "than 'take the widest' (whose tau-b its ties between seeds keep below 1). No rule was fitted to these labels."
        )
    elif not asked.tasks:
        where = f" on {' '.join(asked.words)}" if asked.words else ""
        notes.append(
            f"No labels were measured{where}: nothing here tells how well this advice tracks what the labels would say."
        )
    return notes


# ------------------------------------------------------------------------------------------------------------------- printing


def show(found: Answer) -> None:
    """Print it: a table and a sentence a block, then what a reader must know."""
    for block in found.blocks:
        console.print(_labelled(block, found.asked))
        said = block.advice.sentence if block.advice else block.missing
        if said:
            console.print(f"{block.title}: {said}", highlight=False, soft_wrap=True)
        if block.proxies:
            console.print(_unlabelled(block.proxies))
            for each in block.proxies:
                if each.missing:
                    console.print(f"{block.title}, {each.rule.name}: {each.missing}", highlight=False, soft_wrap=True)
        console.print()
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _labelled(block: Block, asked: Asked) -> Table:
    advice = block.advice
    table = Table(title=f"{block.title}: {asked.spoken}" if asked.tasks else f"{block.title}: no labels")
    precision = next((each.precision for each in block.prices.values() if each.precision), "")
    memory = f"training memory{f', {precision}' if precision else ''}"
    unit = f" ({advice.unit})" if advice and advice.unit else ""
    means = (f"mean ± error{unit}", "from best") if advice else ()
    for column in ("D", *means, "parameters", memory, "a step", "bytes a vector, fp16 / bits", "" if advice else None):
        if column is not None:
            table.add_column(column, justify="right")
    for width, cost in block.prices.items():
        cells = [f"{width}"]
        if advice:
            mean = advice.means.get(width)
            cells += ["-", "-"] if mean is None else [
                f"{_number(mean, advice.unit)} ± {_number(advice.errors[width], advice.unit)}",
                _number(mean - advice.means[advice.best], advice.unit),
            ]  # fmt: skip
        cells.append("-" if cost.parameters is None else f"{cost.parameters:,}")
        cells.append("-" if cost.training_bytes is None else f"{cost.training_bytes / 2**20:,.0f} MiB")
        cells.append("-" if cost.step_seconds is None else f"{cost.step_seconds * 1e3:,.0f} ms")
        cells.append(f"{cost.vector_bytes:,} / {cost.bit_bytes:,}")
        mark = ["advised" if width == advice.width else ""] if advice else []
        table.add_row(*cells, *mark, style="bold" if mark == ["advised"] else None)
    return table


def _number(value: float, unit: str) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}" if unit else f"{value:.3g}"


def _unlabelled(found: Sequence[Found]) -> Table:
    table = Table(title="without labels, by the runs' own images")
    tracked = any(each.tracking for each in found)
    more = ("labels agree", "lost to best", "tau-b", "p", "D x seeds") if tracked else ()
    for column in ("rule", "score at each D", "advises", *more):
        table.add_column(column, justify="left" if column in ("rule", "score at each D") else "right")
    for each in found:
        scores = each.advice.means.items() if each.advice and each.rule is not WIDEST else ()
        told = ", ".join(f"{width}: {score:.3g}" for width, score in scores)
        cells = [f"{each.rule.name}, {each.rule.direction}", told, f"D={each.advice.width}" if each.advice else "-"]
        tracking = each.tracking
        if tracking:
            cells += [
                "yes" if tracking.same else "no",
                _number(tracking.regret, "points"),
                "-" if math.isnan(tracking.tau) else f"{tracking.tau:+.2f}",
                "-" if math.isnan(tracking.p) else f"{tracking.p:.2g}",
                f"{tracking.widths} x {tracking.seeds}",
            ]
        table.add_row(*cells)
    return table


# ----------------------------------------------------------------------------------------------------------------------- JSON


def as_json(found: Answer) -> dict[str, Any]:
    """Everything, with null for what is not known; values of accuracies in points."""
    asked = found.asked
    whole = {
        "folder": str(found.folder.path),
        "measure": asked.measure,
        "metric": asked.metric,
        "series": asked.series,
        "tasks": [f"{data}/{task}" if task else data for data, task in asked.tasks],
        "blocks": [_block_json(block) for block in found.blocks],
        "notes": list(found.notes),
    }
    return dict(finite(whole))


def _block_json(block: Block) -> dict[str, Any]:
    advice = block.advice
    widths = [
        {
            **dataclasses.asdict(cost),
            "vector_bytes": cost.vector_bytes,
            "bit_bytes": cost.bit_bytes,
            "mean": advice.means.get(width) if advice else None,
            "error": advice.errors.get(width) if advice else None,
            "from_best": advice.means[width] - advice.means[advice.best] if advice and width in advice.means else None,
        }
        for width, cost in block.prices.items()
    ]
    return {
        "objective": block.objective,
        "axes": dict(block.axes),
        "advised": advice.width if advice else None,
        "best": advice.best if advice else None,
        "seeds": advice.n if advice else None,
        "unit": advice.unit if advice else None,
        "sentence": advice.sentence if advice else block.missing,
        "widths": widths,
        "proxies": [_proxy_json(each) for each in block.proxies],
    }


def _proxy_json(found: Found) -> dict[str, Any]:
    rule, advice, tracking = found.rule, found.advice, found.tracking
    return {
        "rule": rule.name,
        "direction": rule.direction,
        "source": rule.source,
        "advised": advice.width if advice else None,
        "scores": [{"width": width, "mean": mean, "error": advice.errors[width]} for width, mean in advice.means.items()]
        if advice
        else [],
        "tracking": {**dataclasses.asdict(tracking), "runs": tracking.runs, "least_p": tracking.least_p} if tracking else None,
        "missing": found.missing,
    }
