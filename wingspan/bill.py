"""Print what a study costs: every run of its plan, what they come to, and the form for a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from wingspan import slurm
from wingspan.costs import Bill, Line, Measuring, to_train, total
from wingspan.progress import console
from wingspan.study import Part

_ROWS = 40  # of more, those that differ only in seed share one
_TASKS = 1000  # of a job array; clusters seldom allow more


def show(bill: Bill) -> None:
    """Print every run with its costs, then what they come to."""
    axes = list(bill.study.axes)
    console.print(f"{bill.study.name}: {bill.study.question}", highlight=False, soft_wrap=True, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    unit, flop = (1e9, "GFLOP") if bill.lines[0].cost.forward_flops > 1e8 else (1e6, "MFLOP")
    for axis in ("run", *axes):
        table.add_column(axis, no_wrap=axis == "run")
    for column in ("parameters", flop, "memory", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("status")
    for rows in _grouped(bill.lines):
        first = rows[0]
        place = dict(first.cell.place)
        if len(rows) > 1:
            place["seed"] = f"x{len(rows)} seeds"
        table.add_row(
            first.cell.folder.path.name.rpartition("-")[2] if len(rows) == 1 else f"{len(rows)} runs",
            *(escape(place[axis]) for axis in axes),
            f"{first.cost.backbone_parameters / 1e6:.1f} M",
            f"{first.cost.forward_flops / unit:.1f}",
            size(first.memory),
            spoken(total(row.total for row in rows)),
            ", ".join(f"{n} {status}" if len(rows) > 1 else status for status, n in Counter(r.status for r in rows).items()),
        )
    console.print(table)
    for line in _totals(bill):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """Rows of the table: a run each, or where there are many, those that differ only in seed together."""
    if len(lines) <= _ROWS:
        return [[line] for line in lines]
    groups: dict[tuple[tuple[str, str], ...], list[Line]] = {}
    for line in lines:
        key = tuple((axis, label) for axis, label in line.cell.place.items() if axis != "seed")
        groups.setdefault(key, []).append(line)
    return list(groups.values())


def _totals(bill: Bill) -> Iterator[str]:
    states = Counter(line.status.partition(" at ")[0] for line in bill.lines)
    yield f"runs       {len(bill.lines)}: {', '.join(f'{n} {_STATES[state]}' for state, n in states.items())}"
    if states.keys() == {"done"}:
        yield "           nothing is left to do: without --dry-run the tables and the page are made anew"
    for name, images in bill.images.items():
        yield f"images     {name}: {images}"
    if bill.left is None:
        yield f"training   unknown: {'no run of it is small enough to be timed here' if bill.counted else 'see images'}"
    elif to_train(bill.lines):
        longest = max(line.left or 0.0 for line in bill.lines)
        after = f", {spoken(bill.wall)} with {bill.jobs} at a time" if bill.jobs > 1 else ""
        spent = sum(line.spent for line in bill.lines)
        before = f"; {spoken(spent)} are spent already" if spent else ""
        yield f"training   {spoken(bill.left)} summed over the runs{after}, {spoken(longest)} the longest{before}"
    if bill.rate and to_train(bill.lines):
        yield f"rate       {bill.rate.basis}; waiting for images is not in it"
    if to_train(bill.lines):
        yield from _memory(bill)
    if bill.measuring.pairs:
        yield _measuring(bill.measuring)


_STATES = {"done": "finished", "not measured": "to measure", "cut short": "cut short", "not run": "to train"}


def _memory(bill: Bill) -> Iterator[str]:
    largest, together = bill.memory
    several = f", {size(together)} with {bill.jobs} at a time" if bill.jobs > 1 else ""
    yield f"memory     {size(largest)} the largest run{several}: weights, optimiser and what the backward pass needs"
    if bill.free is not None and together > bill.free:
        yield (
            f"           more than the {size(bill.free)} free here: --accumulate 2, 4, 8 divides the part that grows with the "
            f"batch{', --jobs 1 has one run at a time' if bill.jobs > 1 else ''}"
        )


def _measuring(left: Measuring) -> str:
    """What measuring adds, as far as results that are there tell it."""
    if not left.timed:
        return f"measuring  {left.pairs} times a measure on a data set, not counted above"
    rest = "" if left.timed == left.pairs else f" for {left.timed} of them, the others never timed here"
    return f"measuring  {left.pairs} times a measure on a data set: about {spoken(left.seconds)}{rest}, and extracting features"


def size(count: int) -> str:
    """Bytes as a person says them."""
    return f"{count / 2**30:.1f} GiB" if count >= 0.95 * 2**30 else f"{count / 2**20:.0f} MiB"


def spoken(seconds: float | None) -> str:
    """A time of any length: 42 s, 1.5 min, 12 min, 3.4 h, 1,204 h (50 days)."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.{0 if seconds >= 600 else 1}f} min"
    if seconds < 96 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 3600:,.0f} h ({seconds / 86400:,.0f} days)"


def slurm_script(bill: Bill, words: Sequence[str]) -> str:
    """The batch script that does the plan on a cluster, a run a task. words: those of the command, without --dry-run."""
    tasks = min(len(bill.lines), _TASKS)
    parts = [total(line.left for line in Part(at + 1, tasks).of(bill.lines)) for at in range(tasks)]
    known = [] if bill.cpu else [part for part in parts if part is not None]
    largest = max(bill.lines, key=lambda line: line.memory)
    needs = slurm.Needs(
        tasks=tasks,
        seconds=max(known) if len(known) == tasks else None,
        device_bytes=largest.memory,
        weight_bytes=max(line.cost.weight_bytes for line in bill.lines),
    )
    return slurm.script(bill.study.name, words, needs)
