"""A study's runs to Slurm, by submitit: what neither waits nor runs is submitted, a job a run, all of them one array.

Nothing stays behind here: jobs save themselves, queue themselves again and leave word (`jobs`), and the next command reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wingspan import cluster, jobs, together
from wingspan.errors import UserError
from wingspan.forecast import forecast
from wingspan.jobs import Task, Ticket
from wingspan.pretrain import Sitting
from wingspan.progress import console
from wingspan.runs import RunFolder, explained, write_atomic
from wingspan.slurm import HOST_GIB, Slurm, minutes
from wingspan.standing import Standing, standings
from wingspan.study import Study, pairs, plan

_ARRAY = 1000  # jobs; clusters seldom allow more in one
_NAME = "wingspan-{}"


def launch(study: Study, out: Path, sitting: Sitting, ask: Slurm) -> list[Standing]:
    """Submit every run of a plan that has something missing and is not queued, running or failed for good; gives where all
    stand then.

    Raises UserError when Slurm refuses, or another such command is at work on the same runs.
    """
    _submitit()
    cluster.check_here()
    cells = plan(study, out)
    together.check(pair for cell in cells for pair in pairs(study, cell))
    with _alone(cells[0].folder.path.parent):
        found = standings(study, out)
        todo = [each for each in found if _wanted(each, ask)]
        for at in range(0, len(todo), _ARRAY):
            _submit(study, out, sitting, ask, todo[at : at + _ARRAY])
        return standings(study, out) if todo else found


def _wanted(each: Standing, ask: Slurm) -> bool:
    if each.state == "failed":
        return ask.again or each.failures <= ask.retries
    return each.state not in ("done", "running", "queued")


@contextlib.contextmanager
def _alone(runs: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(RunFolder(runs).lock())
        except UserError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            raise UserError(
                f"another command is submitting runs of {runs} at this moment: give yours again after it."
            ) from error
        yield


def _submit(study: Study, out: Path, sitting: Sitting, ask: Slurm, todo: Sequence[Standing]) -> None:
    """Submit one array. The runs' tickets are written before, so that a command killed in between leaves no unknown job."""
    token, folder, now = uuid.uuid4().hex[:12], (out / "slurm").absolute(), time.strftime("%Y-%m-%d %H:%M:%S %z")
    device = ("cuda" if ask.gpus else "cpu") if sitting.device == "auto" else sitting.device
    tasks, tickets = [], []
    for at, each in enumerate(todo):
        own = f"{token}-{at}"
        wanted = tuple(pair for pair in pairs(study, each.cell) if not pair[1].together)
        tasks.append(Task(each.cell, wanted, dataclasses.replace(sitting, device=device), own, ask.cpus, ask.lead))
        failures = 0 if ask.again else each.failures
        log = f"{folder}/{{job}}_0_log.out"
        tickets.append(Ticket(own, log, "", _NAME.format(study.name), now, failures, ask.retries))
    before = [_bytes(each.cell.folder.path / "job.json") for each in todo]
    try:
        for each, ticket in zip(todo, tickets, strict=True):
            jobs.give(each.cell.folder, ticket)
        with explained(folder):
            ids = _sbatch(tasks, folder, options(study, out, ask, token))
    except UserError:
        for each, kept in zip(todo, before, strict=True):
            _put_back(each.cell.folder.path / "job.json", kept)
        raise
    for each, ticket, id in zip(todo, tickets, ids, strict=True):
        jobs.give(each.cell.folder, dataclasses.replace(ticket, job=id))
    many = f"jobs: {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"job: {ids[0]}"
    console.print(f"Submitted {len(ids)} {many}. Logs: {folder}", highlight=False, soft_wrap=True)


def options(study: Study, out: Path, ask: Slurm, token: str = "") -> dict[str, Any]:
    """What submitit is told of the jobs, by its own names."""
    folder = shlex.quote(str((out / "slurm").absolute()))
    after = f"{shlex.quote(sys.executable)} -m wingspan.jobs {folder} $status"
    return {
        "job_name": _NAME.format(study.name),
        "partition": ask.partition or None,
        "account": ask.account or None,
        "qos": ask.qos or None,
        "constraint": ask.constraint or None,
        "nodes": ask.nodes,
        "ntasks_per_node": ask.processes,
        "gpus_per_node": ask.gpus or None,
        "cpus_per_task": ask.cpus,
        "mem": ask.mem or f"{_memory(study, out, ask)}G",
        "time": minutes(ask.time),
        "comment": token,
        "wckey": None,  # submitit's own default is refused where such keys are checked
        "array_parallelism": ask.array_parallelism or _ARRAY,
        "stderr_to_stdout": True,
        # srun takes none of these three over from sbatch, of the first from Slurm 22.05 on
        "srun_args": [f"--cpus-per-task={ask.cpus}", "--open-mode=append", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, "signal": f"USR1@{ask.lead}"},
        "setup": sorted(ask.lines, key=lambda line: not line.startswith("#SBATCH")),  # sbatch reads these up to a command
        "teardown": ["status=$?", f'[ "$status" -eq 0 ] || {after}', 'exit "$status"'],
    }


def _memory(study: Study, out: Path, ask: Slurm) -> int:
    """GiB a node, by the widest runs. A CPU holds what a GPU would, besides."""
    runs = {dataclasses.replace(cell.run, seed=0) for cell in plan(study, out)}
    widest = max(run.backbone.D for run in runs)
    costs = [forecast(run, run.views.size) for run in runs if widest == run.backbone.D]
    most = max(cost.weight_bytes + (0 if ask.gpus else cost.activation_bytes) for cost in costs)
    return ask.processes * (HOST_GIB + math.ceil(most / 2**30))


def told(study: Study, out: Path, ask: Slurm) -> str:
    """What a job asks for, in a line, for who plans."""
    given = options(study, out, ask)
    kept = {"partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint"}
    named = [f"{word} {given[name]}" for name, word in kept.items() if given[name]]
    size = f"{ask.nodes} x {ask.gpus} GPUs" if ask.gpus else f"{ask.nodes} without GPU"
    each = [f"nodes {size}", f"{ask.cpus} cores a process", f"{given['mem']} a node", f"{ask.time} at a time", *named]
    return f"on Slurm   a job a run, in one array; each asks for {', '.join(each)}"


def _sbatch(tasks: Sequence[Task], folder: Path, asked: dict[str, Any]) -> list[str]:
    """Submit tasks as one array; gives their jobs' ids. Raises UserError with sbatch's own words."""
    submitit = _submitit()
    folder.mkdir(parents=True, exist_ok=True)
    there = set(folder.iterdir())
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**asked)
    try:
        with _outside_jobs():
            return [job.job_id for job in executor.submit_array(tasks)]
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedSubmissionError) as error:
        for left in set(folder.iterdir()) - there:
            left.unlink()
        raise UserError(
            f"sbatch refused the jobs: {' '.join(str(error).split())}. Nothing was submitted. What is asked for is set by "
            "--slurm.* (wingspan study NAME --help); sinfo lists partitions, their time limits and nodes."
        ) from error


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"submitit cannot be imported ({error}): pip install 'wingspan[slurm]'.") from error
    return submitit


@contextlib.contextmanager
def _outside_jobs() -> Iterator[None]:
    """Without what a job's environment says of it, where the command itself is given inside one (salloc): srun in the new jobs
    would take it for their own."""
    inside = {name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"}
    hidden = {name: os.environ.pop(name) for name in inside if "SLURM_JOB_ID" in inside}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _put_back(file: Path, kept: bytes | None) -> None:
    if kept is None:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that was made for it alone
            file.parent.rmdir()
    else:
        write_atomic(file, kept)
