"""Where the runs of a study stand, here or on Slurm, from their folders and the queue; printed as a table. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from wingspan import cluster, jobs
from wingspan.cluster import Job
from wingspan.crew import last_line
from wingspan.errors import UserError
from wingspan.progress import clock, console
from wingspan.results import Pair, progress_file
from wingspan.study import Cell, Study, missing, pairs, plan

State = Literal["done", "running", "queued", "failed", "stopped", "not measured", "not run"]
_ORDER: tuple[State, ...] = ("done", "running", "queued", "failed", "stopped", "not measured", "not run")
_TAIL = 12  # lines of a failed run's log


@dataclass(frozen=True)
class Standing:
    """One run: how far it is, and who sees to it."""

    cell: Cell
    state: State
    note: str = ""
    progress: float = 0.0  # of training
    left: float | None = None  # seconds of training still to come, at the pace so far
    job: str = ""
    failures: int = 0
    retries: int = 0
    message: str = ""  # of the last failure
    log: Path | None = None
    todo: Sequence[Pair] = ()  # what is still to be measured on it alone


def standings(study: Study, out: Path, reachable: bool = True) -> list[Standing]:
    """Every run of a plan. reachable: whether Slurm is to be asked for jobs that have not said how they ended.

    Raises UserError when Slurm does not answer.
    """
    cells = plan(study, out)
    left = missing(study, cells)
    tickets = [jobs.ticket(cell.folder) for cell in cells]
    given = [each for each in tickets if each is not None]
    live = cluster.queue(each.job for each in given) if reachable else {}
    lost = [each for each in given if not each.job]  # the command was killed before it could note what sbatch answered
    unheard = [job for name in {each.name for each in lost} for job in cluster.named(name).values()] if reachable else []
    found = []
    for cell, ticket in zip(cells, tickets, strict=True):
        todo = [pair for pair in left[cell.folder.path.name] if not pair[1].together]
        job = _job(ticket, live, unheard)
        if cell.folder.done() and not todo and job is None:
            found.append(Standing(cell, "done", progress=1.0))
        elif ticket is not None:
            found.append(_on_slurm(cell, ticket, job, todo, reachable))
        else:
            found.append(_here(cell, todo))
    return found


def _job(ticket: jobs.Ticket | None, live: Mapping[str, Job], unheard: Sequence[Job]) -> Job | None:
    if ticket is None:
        return None
    if ticket.job:
        return live.get(ticket.job)
    return next((job for job in unheard if ticket.token == f"{job.comment}-{job.id.partition('_')[2] or 0}"), None)


def _on_slurm(cell: Cell, ticket: jobs.Ticket, job: Job | None, todo: Sequence[Pair], reachable: bool) -> Standing:
    left = jobs.outcome(cell.folder)
    left = left if left is not None and left.token == ticket.token else None
    id = ticket.job or (left.job if left else "")
    facts: dict[str, Any] = {
        "job": id, "failures": left.failures if left else ticket.failures, "retries": ticket.retries,
        "message": left.message if left else "", "log": Path(ticket.log.format(job=id)) if id else None, "todo": todo,
    }  # fmt: skip
    if job is not None and job.state == "PENDING":
        failed = f", failed {_times(facts['failures'])}" if facts["failures"] else ""
        again = failed or (", saved" if cell.folder.checkpoints() else "")
        return Standing(cell, "queued", f"{job.reason}{again}", **facts | _training(cell))
    if job is not None:
        return Standing(cell, "running", f"on {job.nodes}, {_doing(cell)}", **facts | _training(cell))
    if not reachable and (left is None or left.state in ("running", "saved")):
        return Standing(cell, "running" if left else "queued", "as last heard", **facts | _training(cell))
    return _ended(cell, left, facts)


def _ended(cell: Cell, left: jobs.Outcome | None, facts: dict[str, Any]) -> Standing:
    """Of a job that neither waits nor runs."""
    facts |= _training(cell)
    if left is None or left.state == "saved":
        told = cluster.end(facts["job"]) if facts["job"] else ""
        return Standing(cell, "stopped", " ".join(["its job ended", f"as {told}" if told else "before it began"]), **facts)
    if left.state == "failed":
        return Standing(cell, "failed", _times(facts["failures"]), **facts)
    if left.state == "done":
        return Standing(cell, "not measured" if facts["todo"] else "done", "", **facts)
    told = cluster.end(left.job)
    if told.startswith(("CANCELLED", "PREEMPTED")):
        return Standing(cell, "stopped", f"its job ended as {told}", **facts)
    facts["failures"] += 1
    facts["message"] = f"its job ended{f' as {told}' if told else ''} without a word."
    return Standing(cell, "failed", _times(facts["failures"]), **facts)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _here(cell: Cell, todo: Sequence[Pair]) -> Standing:
    facts: dict[str, Any] = {"todo": todo, **_training(cell)}
    if cell.folder.held():
        return Standing(cell, "running", f"here, {_doing(cell)}", **facts)
    if cell.folder.done():
        return Standing(cell, "not measured", **facts)
    if cell.folder.checkpoints():
        return Standing(cell, "stopped", "saved", **facts)
    return Standing(cell, "not run", **facts)


def _training(cell: Cell) -> dict[str, float | None]:
    if cell.folder.done():
        return {"progress": 1.0, "left": None}
    line = last_line(cell.folder.metrics) or {}
    return {"progress": float(line.get("progress", 0.0)), "left": line.get("seconds_left")}


def _doing(cell: Cell) -> str:
    if not cell.folder.done():
        return "training"
    return f"measuring {(last_line(progress_file(cell.folder)) or {}).get('note', '')}".rstrip()


# ----------------------------------------------------------------------------------------------------------------- printed


def show(study: Study, out: Path) -> list[Standing]:
    """Print where every run stands, and the failures with the ends of their logs."""
    try:
        found = standings(study, out)
    except UserError as error:
        console.print(f"note: {error} Jobs are told as they were last heard of.", highlight=False, soft_wrap=True, markup=False)
        found = standings(study, out, reachable=False)
    console.print(f"{study.name}: {study.question}", highlight=False, soft_wrap=True, markup=False)
    axes = list(study.axes)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", *axes, "state"):
        table.add_column(column, no_wrap=column == "run")
    for column in ("trained", "time left"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("job", "note"):
        table.add_column(column)
    for each in found:
        left = "" if each.left is None or each.state not in ("running", "queued", "stopped") else clock(each.left)
        table.add_row(
            each.cell.folder.path.name.rpartition("-")[2], *(escape(each.cell.place[axis]) for axis in axes), each.state,
            f"{each.progress:.0%}".replace("%", " %") if each.progress else "", left, each.job, escape(each.note),
        )  # fmt: skip
    console.print(table)
    for line in [*failures(found), summed(study, found)]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return found


def summed(study: Study, found: Sequence[Standing]) -> str:
    """How many runs stand where, in one line."""
    states = Counter(each.state for each in found)
    under_way = [each.left for each in found if each.state == "running" and each.left is not None]
    longest = f"; training has {clock(max(under_way))} left at most in those that run" if under_way else ""
    total = sum(len(pairs(study, each.cell)) for each in found)
    left = sum(len(each.todo) for each in found)
    counts = ", ".join(f"{states[state]} {state}" for state in _ORDER if states[state])
    return f"{len(found)} run{'' if len(found) == 1 else 's'}: {counts}; {total - left} of {total} measurements made{longest}"


def failures(found: Sequence[Standing]) -> Iterator[str]:
    """Of every failed run what went wrong, and the end of its log."""
    for each in found:
        if each.state != "failed":
            continue
        yield f"{each.cell.label} failed {each.note} (--slurm.retries {each.retries}): {each.message}"
        if each.log is not None and each.log.exists():
            yield f"  the end of {each.log}:"
            yield from (f"    {line}" for line in each.log.read_text(errors="replace").splitlines()[-_TAIL:])
