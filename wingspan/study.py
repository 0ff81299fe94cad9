"""A study: a base run x axes x measures. It does what is missing, resumes what was cut, skips what is done."""

from __future__ import annotations

import functools
import itertools
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd

from wingspan import crew, spec, together
from wingspan.claims import Claim
from wingspan.data.base import Data
from wingspan.errors import UserError, nearest
from wingspan.loop import pretrain
from wingspan.measures.base import Measure
from wingspan.pretrain import Pretrain, Sitting
from wingspan.progress import console
from wingspan.results import Entry, Pair, Tables, identity, known, measure_run, result_file, tables
from wingspan.runs import RunFolder, explained, read_json, write_atomic
from wingspan.stopping import Interrupted, Stop, stop_on_signals

T = TypeVar("T")
Axis = Mapping[str, Mapping[str, object]]
"""Label -> overrides of the base run by dotted path."""


def widths(*values: int) -> Axis:
    """The axis every study has: D, the width of the backbone's last block."""
    return {str(D): {"backbone.width": D} for D in values}


def seeds(*values: int) -> Axis:
    """Repetitions: initial weights, order and augmentation drawn anew."""
    return {str(seed): {"seed": seed} for seed in values}


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it and what is measured on them."""

    name: str
    question: str
    base: Pretrain
    axes: Mapping[str, Axis]  # in plan order: the first varies slowest
    measures: tuple[Measure, ...]
    transfers: tuple[Data, ...] = ()  # data sets probed beside the one pretrained on
    notes: tuple[str, ...] = ()
    source: str = ""  # the paper's figure or table that it repeats
    claims: tuple[Claim, ...] = ()  # what the paper says; judged on the study's own numbers
    runs: Path | None = None  # where runs are kept; studies that share the folder share runs of equal settings

    def with_axis(self, name: str, labels: tuple[str, ...]) -> Study:
        """The study with an axis cut down to some labels. `width` and `seed` take any integer.

        Raises UserError for an axis or label the study does not have.
        """
        if name not in self.axes:
            raise UserError(f"study '{self.name}' has no axis '{name}'.{nearest(name, self.axes)}")
        if name in ("width", "seed"):
            make = widths if name == "width" else seeds
            chosen = make(*(int(label) for label in labels))
        else:
            for label in labels:
                if label not in self.axes[name]:
                    raise UserError(f"'{label}' is not on axis '{name}' of '{self.name}'.{nearest(label, self.axes[name])}")
            chosen = {label: self.axes[name][label] for label in labels}
        return Study(**{**self.__dict__, "axes": {**self.axes, name: chosen}})


@dataclass(frozen=True)
class Cell:
    """One run of a plan and where it stands on the axes."""

    place: Mapping[str, str]
    run: Pretrain
    folder: RunFolder

    @property
    def label(self) -> str:
        return ", ".join(f"{axis} {label}" for axis, label in self.place.items())


def plan(study: Study, out: Path) -> list[Cell]:
    """Every run of a study, in order. Raises UserError when a setting of an axis does not fit the base run."""
    cells = []
    for labels in itertools.product(*study.axes.values()):
        place = dict(zip(study.axes, labels, strict=True))
        changes: dict[str, object] = {}
        for axis, label in place.items():
            changes |= study.axes[axis][label]
        run = spec.override(study.base, changes)
        banks(study, run)
        cells.append(Cell(place, run, RunFolder((study.runs or out / "runs") / run.name)))
    return cells


@dataclass(frozen=True)
class Part:
    """Every `parts`-th run of a plan from the `number`-th on: the same ones whoever asks, so that no two parts share one."""

    number: int  # from 1
    parts: int  # in all

    @staticmethod
    def read(text: str) -> Part:
        """`3/8` -> the third of eight. Raises UserError quoting what is no such thing."""
        number, _, parts = text.partition("/")
        if not all(each.isascii() and each.isdigit() for each in (number, parts)) or not 1 <= int(number) <= int(parts):
            raise UserError(f"--part '{text}' is no part: write 3/8 for the third of eight, from 1/8 to 8/8.")
        return Part(int(number), int(parts))

    def of(self, things: Sequence[T]) -> list[T]:
        """Those of a plan that belong to this part."""
        return list(things[self.number - 1 :: self.parts])


def banks(study: Study, run: Pretrain) -> tuple[Data, ...]:
    """The data sets a run is measured on; its own comes first. Raises UserError when two would share a name in tables."""
    found = (run.data, *study.transfers)
    names = [data.label_name for data in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two data sets of study '{study.name}' are called '{name}': give one of the folders another name.")
    return found


def pairs(study: Study, cell: Cell) -> list[Pair]:
    """What is measured on a run."""
    return list(itertools.product(banks(study, cell.run), study.measures))


def parties(study: Study, cells: Sequence[Cell]) -> list[together.Party]:
    """The companies that the finished runs of a plan are drawn in; none where no measure asks for it."""
    if not any(measure.together for measure in study.measures):
        return []
    return together.parties((cell.folder, pairs(study, cell)) for cell in cells if cell.folder.done())


def missing(study: Study, cells: Sequence[Cell]) -> dict[str, list[Pair]]:
    """What is still to be measured on the runs of a whole plan, by their folders' names.

    A result of a measure that takes runs together is missing, too, where it came from other runs than those finished now.
    """
    drawn = {
        (folder.path, party.measure, party.data)
        for party in parties(study, cells)
        for folder in party.folders
        if party.holds(folder)
    }

    def there(cell: Cell, data: Data, measure: Measure) -> bool:
        return (cell.folder.path, measure, data) in drawn if measure.together else known(cell.folder, data, measure)

    return {cell.folder.path.name: [pair for pair in pairs(study, cell) if not there(cell, *pair)] for cell in cells}


def carry_out(study: Study, out: Path, sitting: Sitting, jobs: int = 0, part: Part | None = None) -> dict[str, str]:
    """Train and measure whatever is missing of a plan, or of a part of it, `jobs` runs at a time. A run that fails is told and
    does not stop the others. Measures that take runs together are left to `together.carry_out`.

    Gives run folder name -> message for the runs that failed.
    """
    cells = plan(study, out)
    together.check(pair for cell in cells for pair in pairs(study, cell))
    left = missing(study, cells)
    chosen = cells if part is None else part.of(cells)
    alone = [[pair for pair in left[cell.folder.path.name] if not pair[1].together] for cell in chosen]
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    tasks = {
        cell.label: (functools.partial(complete, cell, todo, sitting), cell.folder.metrics)
        for cell, todo in zip(chosen, alone, strict=True)
        if todo or not cell.folder.done()
    }
    if not tasks:
        return {}
    jobs = crew.size(jobs, len(tasks), sitting.device)
    failed = crew.work(tasks, jobs) if jobs > 1 else _in_turn(tasks)
    return {cell.folder.path.name: failed[cell.label] for cell in chosen if cell.label in failed}


def _in_turn(tasks: Mapping[str, tuple[Callable[[], str | None], Path]]) -> dict[str, str]:
    failed = {}
    for number, (label, (call, _)) in enumerate(tasks.items(), 1):
        console.print(f"[bold]{number}/{len(tasks)}[/] {label}", highlight=False)
        message = call()
        if message:
            failed[label] = message
            console.print(f"[red]failed:[/] {message}", highlight=False)
    return failed


def complete(cell: Cell, todo: list[tuple[Data, Measure]], sitting: Sitting) -> str | None:
    """Train a run as far as it is missing, then measure what is to do; gives what went wrong, if the user can mend it."""
    with stop_on_signals() as stop:
        try:
            pretrain(cell.run, cell.folder.path, sitting, resume=True)
            return measure(cell.folder, todo, sitting.device, stop)
        except UserError as error:
            return str(error)
        except Interrupted:
            raise
        except Exception as error:  # memory ran out, or a fault of ours: the other runs go on, and the whole story is kept
            write_atomic(cell.folder.path / "error.txt", traceback.format_exc())
            return f"{type(error).__name__}: {error} (see {cell.folder.path / 'error.txt'})"


def measure(folder: RunFolder, todo: Sequence[Pair], device: str, stop: Stop) -> str | None:
    """Measure what is to do on a run; gives what went wrong. Raises Interrupted after a signal; what was measured is kept."""

    def heed() -> None:
        if stop.signum:
            raise Interrupted("Stopped, saved. To go on, give the same command again.", stop.signum)

    heed()
    return "; ".join(measure_run(folder, todo, device, heed)[1]) or None if todo else None


def results(study: Study, out: Path) -> Tables:
    """Everything measured on the runs of the plan; of a measure that takes runs together, by the present company."""
    cells = plan(study, out)
    left = missing(study, cells)
    return tables(_entry(study, cell, left[cell.folder.path.name]) for cell in cells)


def _entry(study: Study, cell: Cell, left: Sequence[Pair] = ()) -> Entry:
    stale = [pair for pair in left if pair[1].together]
    found = [pair for pair in pairs(study, cell) if pair not in stale]
    return Entry(cell.folder, cell.run, cell.place, [result_file(cell.folder, data, measure) for data, measure in found])


def run_table(study: Study, out: Path, failed: Mapping[str, str]) -> pd.DataFrame:
    """One row a run of the plan: how far it is, how long it took, how fast it went."""
    rows, cells = [], plan(study, out)
    left = missing(study, cells)
    for cell in cells:
        status = "done" if cell.folder.done() and not left[cell.folder.path.name] else "not run"
        if cell.folder.path.name in failed:
            status = f"failed: {failed[cell.folder.path.name]}"
        elif status != "done" and cell.folder.started():
            status = "not measured" if cell.folder.done() else "cut short"
        facts = read_json(cell.folder.finished) if cell.folder.done() else {}
        rows.append({**identity(_entry(study, cell)), **facts, "status": status})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Outcome:
    """What a study left: its table, its page, and the runs that failed."""

    table: pd.DataFrame
    page: Path
    failed: Mapping[str, str] = field(default_factory=dict)
