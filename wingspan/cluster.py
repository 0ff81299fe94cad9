"""What Slurm knows of jobs, asked by its own commands: squeue, sacct, scontrol. Its words are quoted where it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from wingspan.errors import UserError

_SECONDS = 60  # a busy controller may take that long to answer


@dataclass(frozen=True)
class Job:
    """A job that waits or runs."""

    id: str  # 123, or 123_4 in an array
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits: Resources, Priority, BeginTime, ...
    nodes: str
    comment: str


def check_here() -> None:
    """Raise UserError where jobs cannot be submitted from."""
    for name in ("sbatch", "srun", "squeue", "scontrol"):
        if shutil.which(name) is None:
            raise UserError(
                f"{name} was not found on PATH, so --where slurm can do nothing here: give the command on a login node of a "
                "Slurm cluster (on some, after 'module load slurm')."
            )


def queue(ids: Iterable[str]) -> dict[str, Job]:
    """Those of these jobs that wait or run, by their ids. Raises UserError when Slurm does not answer."""
    arrays = sorted({each.partition("_")[0] for each in ids if each})
    return _listed("--jobs", ",".join(arrays)) if arrays else {}


def named(name: str) -> dict[str, Job]:
    """The jobs of a name that wait or run, by their ids. Raises UserError when Slurm does not answer."""
    return _listed("--name", name)


def _listed(*which: str) -> dict[str, Job]:
    asked = _said("squeue", "--noheader", "--array", *which, "--format", "%i|%T|%r|%N|%k")
    if asked.returncode and "Invalid job id" in asked.stderr:  # so it says of a single job that ended a while ago
        return {}
    if asked.returncode:
        raise UserError(f"squeue could not tell which jobs wait or run, and nothing was done: {_words(asked)}")
    rows = (line.split("|", 4) for line in asked.stdout.splitlines() if line.count("|") >= 4)
    return {row[0]: Job(*(each.strip() for each in row)) for row in rows}


def end(job: str) -> str:
    """How a job that neither waits nor runs ended, as OUT_OF_MEMORY or 'CANCELLED by 1000'; '' where nobody keeps that."""
    kept = _tried("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", job, "--format", "State").splitlines()
    if kept:
        return kept[0].strip()
    shown = _tried("scontrol", "--oneliner", "show", "job", job).split()  # it forgets soon, but needs no accounting
    return next((each.partition("=")[2] for each in shown if each.startswith("JobState=")), "")


def _tried(*words: str) -> str:
    try:
        return _said(*words).stdout
    except UserError:
        return ""


# ------------------------------------------------------------------------------------------------------- from inside a job


def own() -> str:
    """The id of the job that this process belongs to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def goes_on(job: str) -> bool:
    """Whether Slurm means a job to run on: not where it is being cancelled, or queued again by Slurm itself."""
    for _ in range(3):  # what ends a job's processes by a signal may end the question, too
        asked = _said("squeue", "--noheader", "--array", "--jobs", job, "--format", "%i|%T")
        states = [line.partition("|")[2].strip() for line in asked.stdout.splitlines() if line.partition("|")[0] == job]
        if states:
            return states[0] == "RUNNING"
        time.sleep(1.0)
    return False


def requeue(job: str) -> str:
    """Queue a job again; gives why that was refused, or ''."""
    asked = _said("scontrol", "requeue", job)
    return _words(asked) if asked.returncode else ""


def _said(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except FileNotFoundError as error:
        raise UserError(f"{words[0]} was not found on PATH: is this a machine of a Slurm cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]} did not answer within {_SECONDS} s: is Slurm's controller up?") from error


def _words(asked: subprocess.CompletedProcess[str]) -> str:
    return " ".join((asked.stderr or asked.stdout).split()) or f"status {asked.returncode}"
