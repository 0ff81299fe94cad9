"""A run as a job on Slurm: the job trains it, measures it, and leaves word in the run's folder of how it went.

RUN/job.json       by whoever submitted it: which job, and with what. Whoever reads it submits no second one
RUN/outcome.json   by the job: whether it runs, saved itself, failed, is done

Every job has a token, which the two files name as well. A job that finds another's token in job.json ends at once, so that
even where two were submitted one alone does the work; and training holds the folder's lock as it does anywhere (`runs`).

`python -m wingspan.jobs FOLDER STATUS` is the last line of the batch script: it speaks for a process that could not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch

from wingspan import cluster, processes
from wingspan.errors import AgreedError, UserError
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting
from wingspan.results import Pair, known
from wingspan.runs import RunFolder, read_json, write_json
from wingspan.stopping import Interrupted, stop_on_signals
from wingspan.study import Cell, complete

_PRESSED = 2.0  # seconds between reminders that the time is nearly up


class JobError(Exception):
    """What went wrong in a job; Slurm sees it as the job's status, the batch script's last line acts on it."""


@dataclass(frozen=True)
class Ticket:
    """job.json: the job that a run was submitted as."""

    token: str
    log: str  # of its first process, with {job} for its id
    job: str = ""  # known once sbatch has answered
    name: str = ""  # what squeue calls it
    submitted: str = ""
    failures: int = 0  # of jobs before it
    retries: int = 0


@dataclass(frozen=True)
class Outcome:
    """outcome.json: what has become of it so far."""

    token: str
    job: str
    state: Literal["running", "saved", "failed", "done"]
    node: str = ""
    failures: int = 0
    message: str = ""  # of the last failure


def ticket(folder: RunFolder) -> Ticket | None:
    file = folder.path / "job.json"
    return Ticket(**read_json(file)) if file.exists() else None


def outcome(folder: RunFolder) -> Outcome | None:
    file = folder.path / "outcome.json"
    return Outcome(**read_json(file)) if file.exists() else None


def give(folder: RunFolder, given: Ticket) -> None:
    write_json(folder.path / "job.json", dataclasses.asdict(given))


@dataclass(frozen=True)
class Task:
    """One run of a study as a job carries it out; it goes there as a pickle."""

    cell: Cell
    pairs: tuple[Pair, ...]  # what is to be measured on it
    sitting: Sitting
    token: str
    cores: int  # of a process
    lead: int  # seconds before the end that Slurm tells of it

    @property
    def folder(self) -> RunFolder:
        return self.cell.folder

    def __call__(self) -> str:
        """Do what is missing of the run, from its last checkpoint on; gives a word for the log.

        Raises JobError when the run failed. Before the job's end, and when Slurm takes its nodes away, the run is saved and
        the job queued again.
        """
        given, before, first = ticket(self.folder), outcome(self.folder), processes.place().rank == 0
        if given is None or given.token != self.token:
            return f"{self.folder.path} belongs to job {given.job if given else 'none'}: nothing done."
        torch.set_num_threads(self.cores)
        failures = before.failures if before and before.token == self.token else given.failures
        if first:
            self._leave("running", failures)
        began = self._mark()
        try:
            with _told_in_time(self.lead / 2, lambda: self._late(began, failures)) as late:
                message = self._work(failures)
        except Interrupted:
            return self._saved(late.is_set(), began, failures) if first else "saved"
        if message is not None:
            raise self._failed(message, failures)
        if first:
            self._leave("done", failures)
        return "done"

    def _work(self, failures: int) -> str | None:
        if not processes.place().rank:
            return complete(self.cell, [pair for pair in self.pairs if not known(self.folder, *pair)], self.sitting)
        try:  # the others help with training, and the first one measures
            pretrain(self.cell.run, self.folder.path, self.sitting, resume=True)
        except AgreedError:
            return "the first process could not begin."
        except UserError as error:
            return str(error)
        except Interrupted:
            raise
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}", failures)
            raise  # its traceback belongs into the log
        return None

    def _mark(self) -> tuple[str, int]:
        """What a sitting moves on: the last checkpoint, and the number of results."""
        saved = self.folder.checkpoints()
        return saved[-1].name if saved else "", len(list(self.folder.results.glob("*.json")))

    def _leave(self, state: Literal["running", "saved", "failed", "done"], failures: int, message: str = "") -> None:
        node = os.environ.get("SLURMD_NODENAME", "")
        left = Outcome(self.token, cluster.own(), state, node, failures, message)
        write_json(self.folder.path / "outcome.json", dataclasses.asdict(left))

    def _failed(self, message: str, failures: int) -> JobError:
        now = outcome(self.folder)
        if now is None or now.state == "running":  # the process that fails first tells why; what follows from it does not
            self._leave("failed", failures + 1, message)
        return JobError(message)

    def _saved(self, late: bool, began: tuple[str, int], failures: int) -> str:
        """Queue the job again, unless Slurm does so itself or someone cancelled it. late: its time was nearly up."""
        if late and self._mark() == began:
            raise self._failed(
                "the whole time of a job brought no checkpoint and no result: raise --slurm.time, or lower --save-seconds.",
                failures,
            )
        self._leave("saved", failures)
        if not late and not cluster.goes_on(cluster.own()):
            return "saved; whether it goes on is Slurm's to say."
        refused = cluster.requeue(cluster.own())
        return f"saved, but not queued again: {refused}" if refused else "saved, and queued again."

    def _late(self, began: tuple[str, int], failures: int) -> None:
        """The time is nearly up and the work has not come to a point where it heeds that: give up what is not saved."""
        try:
            print(self._saved(True, began, failures), flush=True)
        except JobError as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)


@contextlib.contextmanager
def _told_in_time(patience: float, late: Callable[[], None]) -> Iterator[threading.Event]:
    """Make SIGUSR1 (or SIGUSR2, submitit's own), which comes a while before the end of a job, stop work as SIGTERM does.

    It is repeated, because what heeds it may only begin, after images were loaded; and when nothing has for `patience`
    seconds, `late` is called. The event tells that it came.
    """
    told, over = threading.Event(), threading.Event()

    def press() -> None:
        end = time.monotonic() + patience
        while not over.wait(_PRESSED):
            if time.monotonic() > end:
                late()
            os.kill(os.getpid(), signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if not told.is_set():
            told.set()
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Thread(target=press, daemon=True).start()

    with stop_on_signals():  # also where nobody else listens: between two pieces of work SIGTERM must not end the process
        before = {number: signal.signal(number, note) for number in (signal.SIGUSR1, signal.SIGUSR2)}
        try:
            yield told
        finally:
            over.set()
            for number, handler in before.items():
                signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------------ batch script


def afterwards(task: Task, status: int) -> str:
    """When a job's processes have ended with a status other than 0: note it where they could not, and queue the job again if
    retries are left; gives a sentence for the log."""
    given, left, job = ticket(task.folder), outcome(task.folder), cluster.own()
    if given is None or given.token != task.token or not cluster.goes_on(job):
        return "Not queued again: it was cancelled, or is queued already."
    if left is None or left.token != task.token:
        left = Outcome(task.token, job, "running", failures=given.failures)  # it could not even begin
    if left.state == "running":
        left = dataclasses.replace(left, job=job, state="failed", failures=left.failures + 1, message=_told(status))
        write_json(task.folder.path / "outcome.json", dataclasses.asdict(left))
    if left.state != "failed":
        return "Nothing to do."
    if left.failures > given.retries:
        return f"Failure {left.failures}, --slurm.retries {given.retries}: not queued again."
    return cluster.requeue(job) or f"Failure {left.failures}, --slurm.retries {given.retries}: queued again."


def _told(status: int) -> str:
    ended = status - 128
    if ended not in [number.value for number in signal.Signals]:
        return f"its process ended with status {status} and no message."
    why = ", most often for want of memory (--slurm.mem)" if ended == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(ended).name}{why}."


def main(folder: str, status: str) -> None:
    """For the batch script, in the folder that submitit keeps its files in."""
    from submitit import JobEnvironment
    from submitit.core.utils import DelayedSubmission

    os.environ["SUBMITIT_FOLDER"] = folder
    task: Any = DelayedSubmission.load(JobEnvironment().paths.submitted_pickle).function
    print(afterwards(task, int(status)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
