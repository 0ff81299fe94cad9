"""What a study costs before anyone pays: its runs, hours and memory, and what of it exists already. Printed in `bill.py`."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wingspan import crew, rate
from wingspan import study as studies
from wingspan.data._lengths import Length, length
from wingspan.data.base import Data
from wingspan.forecast import Forecast, forecast
from wingspan.pretrain import Pretrain, Sitting
from wingspan.rate import Rate, Sample, training_flops
from wingspan.results import Pair, label_of, result_file
from wingspan.runs import read_json
from wingspan.sampling import Sampling, long_tail, steps_per_epoch
from wingspan.study import Cell, Part, Study


@dataclass(frozen=True)
class Line:
    """One run: what it costs, and how far it is."""

    cell: Cell
    cost: Forecast
    status: str
    spent: float  # seconds of training so far
    left: float | None  # seconds of training still to come; None: not known

    @property
    def memory(self) -> int:
        return self.cost.weight_bytes + self.cost.activation_bytes

    @property
    def total(self) -> float | None:
        return None if self.left is None else self.spent + self.left


@dataclass(frozen=True)
class Measuring:
    """What is still to be measured on the runs of a plan."""

    pairs: int  # of a run's data sets and the measures
    seconds: float  # by those of their measures that were timed before
    timed: int  # pairs that `seconds` is of


@dataclass(frozen=True)
class Bill:
    """The runs of a plan with their costs, and what these rest on."""

    study: Study
    lines: Sequence[Line]
    rate: Rate | None
    jobs: int  # runs at a time
    measuring: Measuring
    images: Mapping[str, str]  # data set -> images of an epoch, in words
    counted: bool  # whether all these are known
    free: int | None  # bytes of memory here; None: not known, or the runs are meant for elsewhere
    cpu: bool  # whether the rate is that of a CPU, and so tells nothing of a cluster

    @property
    def left(self) -> float | None:
        """Device-seconds of training still to come."""
        return total(line.left for line in self.lines)

    @property
    def wall(self) -> float | None:
        """Seconds until the last run ends when `jobs` are under way at a time, in order."""
        ends = [0.0] * self.jobs
        for line in self.lines:
            if line.left is None:
                return None
            first = ends.index(min(ends))
            ends[first] += line.left
        return max(ends)

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of the largest run, and of the largest that can be under way together; of those to train, if there are any."""
        sizes = sorted((line.memory for line in to_train(self.lines) or self.lines), reverse=True)
        return sizes[0], sum(sizes[: self.jobs])


def draw_up(
    study: Study, out: Path, sitting: Sitting, jobs: int, tflops: float | None = None, part: Part | None = None
) -> Bill:
    """What the plan of a study, or a part of it, costs. Reads what is there, makes no folder and decodes no image.

    tflops: the speed that one device sustains; left out, finished runs of the plan tell the rate, or steps made now.
    """
    given = None if tflops is None else rate.told(tflops)
    cells = studies.plan(study, out)
    costs = _forecasts(cells, tflops)
    counts = {(cell.run.data, cell.run.sampling): _epoch(cell.run.data, cell.run.sampling) for cell in cells}
    steps = [_steps(cell.run, counts[cell.run.data, cell.run.sampling][0]) for cell in cells]
    waiting = sum(not cell.folder.done() for cell in (part.of(cells) if part else cells))
    jobs = crew.size(jobs or (1 if tflops is not None else 0), max(1, waiting), sitting.device)
    finished = _finished(cells, costs)
    able = [(cell.run, cost) for cell, cost, n in zip(cells, costs, steps, strict=True) if n and not cell.folder.done()]
    pace = given or _rate(finished, able, sitting.device, jobs)
    own = _own(finished) if tflops is None else {}
    left = studies.missing(study, cells)
    lines = [_line(*each, left, pace, own) for each in zip(cells, costs, steps, strict=True)]
    lines = part.of(lines) if part else lines
    cpu = tflops is None and (sitting.device == "cpu" or not torch.cuda.is_available())
    return Bill(
        study=study,
        lines=lines,
        rate=pace,
        jobs=jobs,
        measuring=_measuring(study, [line.cell for line in lines], left),
        images={data.label_name: told for (data, _), (_, told) in counts.items()},
        counted=all(n is not None for n in steps),
        free=rate.free_bytes(sitting.device) if tflops is None else None,
        cpu=cpu,
    )


def _alike(run: Pretrain) -> Pretrain:
    """The run without what changes nothing about the cost of a view."""
    plain = Pretrain()
    return dataclasses.replace(run, seed=0, epochs=1, data=plain.data, sampling=plain.sampling)


def _forecasts(cells: Sequence[Cell], tflops: float | None) -> list[Forecast]:
    """Each run's forecast, made once for runs that cost the same. A device of a cluster is taken to multiply bf16."""

    @functools.cache
    def count(run: Pretrain, side: int) -> Forecast:
        return forecast(run, side, "bf16" if tflops is not None and run.precision == "auto" else None)

    return [count(_alike(cell.run), cell.run.views.size) for cell in cells]


def _epoch(data: Data, sampling: Sampling) -> tuple[int | None, str]:
    """Images of an epoch, and how they are told."""
    found = length(data)
    if found is None:
        return None, "unknown, they are not here and their number is not a published one"
    if sampling.imbalance <= 1:
        return found.images, f"{found.images:,} an epoch, {found.source}"
    kept = _tail(found, sampling.imbalance)
    if kept is None:
        return None, f"unknown, how many of {found.images:,} a long tail leaves goes by their classes"
    return kept, f"{kept:,} an epoch, the long tail of {found.images:,}, {found.source}"


def _tail(found: Length, imbalance: float) -> int | None:
    if found.labels is not None:
        return len(long_tail(found.labels, found.names, imbalance))
    if not found.classes:
        return None
    even = torch.arange(found.images) % found.classes  # published sets that a tail is cut from are balanced, or nearly
    return len(long_tail(even, tuple(map(str, range(found.classes))), imbalance))


def _steps(run: Pretrain, images: int | None) -> int | None:
    return None if images is None else run.epochs * steps_per_epoch(images, run.batch)


def _finished(cells: Sequence[Cell], costs: Sequence[Forecast]) -> list[tuple[Pretrain, Sample]]:
    """Of every finished run FLOPs and seconds of a view."""
    found = []
    for cell, cost in zip(cells, costs, strict=True):
        if cell.folder.done() and (facts := read_json(cell.folder.finished)).get("seconds"):
            views = facts["steps"] * cell.run.batch * cell.run.objective.views
            found.append((_alike(cell.run), (training_flops(cell.run, cost), facts["seconds"] / views)))
    return found


def _own(finished: Sequence[tuple[Pretrain, Sample]]) -> dict[Pretrain, float]:
    """Seconds of a view in runs alike, as where only the seed differs."""
    runs = {run for run, _ in finished}
    return {run: statistics.mean(seconds for other, (_, seconds) in finished if other == run) for run in runs}


def _rate(
    finished: Sequence[tuple[Pretrain, Sample]],
    able: Sequence[tuple[Pretrain, Forecast]],
    device: str,
    jobs: int,
) -> Rate | None:
    if finished:
        many = f"{len(finished)} finished run{'s' if len(finished) > 1 else ''}"
        return rate.fit([sample for _, sample in finished], f"from {many} of this plan")
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else torch.get_num_threads()
    return rate.measured(able, device, threads) if able else None


def _line(
    cell: Cell,
    cost: Forecast,
    steps: int | None,
    missing: Mapping[str, Sequence[Pair]],
    pace: Rate | None,
    own: Mapping[Pretrain, float],
) -> Line:
    folder = cell.folder
    if folder.done():
        status = "not measured" if missing[folder.path.name] else "done"
        return Line(cell, cost, status, float(read_json(folder.finished).get("seconds", 0.0)), 0.0)
    saved = folder.checkpoints()
    facts = read_json(saved[-1] / "state.json") if saved else {"step": 0, "seconds": 0.0}
    status = "cut short" if folder.started() else "not run"
    if saved and steps:
        status = f"cut short at {facts['step'] / steps:.0%}".replace("%", " %")
    left = None
    if steps is not None and pace is not None:
        views = max(0, steps - facts["step"]) * cell.run.batch * cell.run.objective.views
        left = views * own.get(_alike(cell.run), pace.seconds(training_flops(cell.run, cost)))
    return Line(cell, cost, status, float(facts["seconds"]), left)


def _measuring(study: Study, cells: Sequence[Cell], missing: Mapping[str, Sequence[Pair]]) -> Measuring:
    """A measure is taken to last as long as it did, on the mean of the results that there are, of any run and data set."""
    took: dict[str, list[float]] = {}
    for cell in cells:
        for data, measure in studies.pairs(study, cell):
            file = result_file(cell.folder, data, measure)
            if file.exists() and "seconds" in (found := read_json(file)):
                took.setdefault(label_of(measure), []).append(float(found["seconds"]))
    todo = [label_of(measure) for cell in cells for _, measure in missing[cell.folder.path.name]]
    known = [sum(took[label]) / len(took[label]) for label in todo if label in took]
    return Measuring(len(todo), sum(known), len(known))


def total(values: Iterable[float | None]) -> float | None:
    """The sum; None when one of them is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def to_train(lines: Sequence[Line]) -> list[Line]:
    """Those whose training has not ended."""
    return [line for line in lines if not line.cell.folder.done()]
