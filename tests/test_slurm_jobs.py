"""A run as a job: what it does of itself, before its time is up, when its node is taken, when it fails."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path

import pytest
from fake_slurm import Cluster
from tiny_runs import assert_equal_runs, signal_at, tiny

from wingspan import jobs, loop
from wingspan.errors import UserError
from wingspan.jobs import JobError, Outcome, Task, Ticket, afterwards
from wingspan.measures.sparsity import Sparsity
from wingspan.pretrain import Sitting
from wingspan.results import known
from wingspan.runs import RunFolder, write_json
from wingspan.study import Cell

JOB = "101_3"


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Cluster:
    made = Cluster.make(tmp_path / "slurm", monkeypatch)
    for name, value in made.environment(JOB).items():
        monkeypatch.setenv(name, value)
    (made.folder / "jobs" / JOB).write_text(f"{JOB}|RUNNING|None|node1|t|wingspan-x\n")
    return made


@pytest.fixture
def task(tmp_path) -> Task:
    run = tiny()
    cell = Cell({"width": "16"}, run, RunFolder(tmp_path / "run"))
    jobs.give(cell.folder, Ticket("t-3", str(tmp_path / "{job}.log"), JOB, retries=1))
    return Task(cell, ((run.data, Sparsity()),), Sitting(device="cpu"), "t-3", cores=1, lead=120)


def left(task: Task) -> Outcome:
    found = jobs.outcome(task.folder)
    assert found is not None
    return found


def test_it_trains_measures_and_says_so(task, cluster, finished):
    assert task() == "done"
    assert left(task) == Outcome("t-3", JOB, "done", "node1")
    assert_equal_runs(task.folder, finished)
    assert known(task.folder, *task.pairs[0]) and not cluster.asked()


def test_a_job_that_another_took_the_place_of_does_nothing(task, cluster):
    jobs.give(task.folder, Ticket("other-0", "", "777"))
    assert "belongs to job 777" in task()
    assert not task.folder.started() and jobs.outcome(task.folder) is None


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2], ids=lambda each: each.name)
def test_when_its_time_is_nearly_up_it_saves_and_is_queued_again(signum, task, cluster, finished, monkeypatch):
    with monkeypatch.context() as patched:
        signal_at(patched, 3, signum)
        assert task() == "saved, and queued again."
    assert left(task).state == "saved" and left(task).failures == 0
    assert [each.name for each in task.folder.checkpoints()] == ["step-000000003"]
    assert cluster.asked() == [f"requeue {JOB}"]
    assert task() == "done"
    assert_equal_runs(task.folder, finished)


def test_the_word_that_time_is_up_is_heeded_even_where_nobody_listened_yet(task, cluster, monkeypatch):
    """It comes while images are loaded; training, which begins after that, is told again."""
    monkeypatch.setattr(jobs, "_PRESSED", 0.2)
    load, step = type(task.cell.run.data).load, loop.step

    def slow(self, split):
        os.kill(os.getpid(), signal.SIGUSR1)
        return load(self, split)

    def waiting(*words):
        threading.Event().wait(0.3)
        return step(*words)

    monkeypatch.setattr(type(task.cell.run.data), "load", slow)
    monkeypatch.setattr(loop, "step", waiting)
    assert task() == "saved, and queued again."
    assert not task.folder.done() and task.folder.checkpoints()


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", [f"requeue {JOB}"]), ("COMPLETING", []), ("CANCELLED", [])])
def test_after_sigterm_it_is_queued_again_only_where_slurm_neither_does_so_nor_cancels(
    state, asked, task, cluster, monkeypatch
):
    cluster.becomes(JOB, state)
    signal_at(monkeypatch, 3)
    assert task().startswith("saved")
    assert left(task).state == "saved" and cluster.asked() == asked
    assert [each.name for each in task.folder.checkpoints()] == ["step-000000003"]


def test_a_signal_while_measuring_keeps_what_was_measured(task, cluster, monkeypatch):
    measure = Sparsity.measure

    def told(*words):
        os.kill(os.getpid(), signal.SIGUSR1)
        return measure(*words)

    monkeypatch.setattr(Sparsity, "measure", told)
    assert task() == "saved, and queued again."
    assert task.folder.done() and known(task.folder, *task.pairs[0])


def test_a_job_that_gets_nowhere_in_all_its_time_has_failed(task, cluster, monkeypatch):
    over, ended = threading.Event(), []

    def leave(status):  # in the thread that watches, while the work goes on
        ended.append((status, left(task)))
        over.set()
        threading.Event().wait()  # the process would end here

    def stuck(*_):
        os.kill(os.getpid(), signal.SIGUSR1)
        over.wait(20)

    monkeypatch.setattr(jobs, "_PRESSED", 0.1)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(jobs, "complete", stuck)
    dataclasses.replace(task, lead=1)()
    [(status, found)] = ended
    assert status == 1 and found.state == "failed" and found.failures == 1 and not cluster.asked()
    assert "brought no checkpoint and no result: raise --slurm.time" in found.message


def test_a_failure_is_left_with_its_message(task, cluster, monkeypatch):
    def refuse(*_):
        raise UserError("no such photos")

    monkeypatch.setattr(type(task.cell.run.data), "load", refuse)
    for failures in (1, 2):
        with pytest.raises(JobError, match="no such photos"):
            task()
        assert left(task) == Outcome("t-3", JOB, "failed", "node1", failures, "no such photos")


def test_what_is_no_user_s_fault_is_a_failure_too(task, cluster, monkeypatch):
    monkeypatch.setattr(loop, "step", lambda *_: 1 / 0)
    with pytest.raises(JobError, match=r"ZeroDivisionError: .*error\.txt"):
        task()
    assert "Traceback" in (task.folder.path / "error.txt").read_text()


def test_a_job_that_failed_is_queued_again_until_its_retries_are_used_up(task, cluster):
    write_json(task.folder.path / "outcome.json", Outcome("t-3", JOB, "failed", "node1", 1, "why").__dict__)
    assert "Failure 1, --slurm.retries 1: queued again." in afterwards(task, 1)
    assert cluster.asked() == [f"requeue {JOB}"] and left(task).message == "why"
    write_json(task.folder.path / "outcome.json", Outcome("t-3", JOB, "failed", "node1", 2, "why").__dict__)
    cluster.becomes(JOB, "RUNNING")
    assert afterwards(task, 1) == "Failure 2, --slurm.retries 1: not queued again."
    assert len(cluster.asked()) == 1


@pytest.mark.parametrize(
    ("status", "told"),
    [(137, "ended by SIGKILL, most often for want of memory"), (139, "ended by SIGSEGV."), (1, "ended with status 1")],
)
def test_a_process_that_could_not_speak_is_spoken_for(status, told, task, cluster):
    write_json(task.folder.path / "outcome.json", Outcome("t-3", JOB, "running", "node1").__dict__)
    assert "queued again" in afterwards(task, status)
    assert left(task).state == "failed" and left(task).failures == 1 and told in left(task).message


def test_one_that_could_not_begin_is_counted_from_those_before_it(task, cluster):
    jobs.give(task.folder, Ticket("t-3", "", JOB, failures=1, retries=1))
    assert afterwards(task, 1) == "Failure 2, --slurm.retries 1: not queued again."
    assert left(task).failures == 2


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING"])
def test_a_job_that_is_cancelled_or_queued_again_is_left_alone(state, task, cluster):
    cluster.becomes(JOB, state)
    write_json(task.folder.path / "outcome.json", Outcome("t-3", JOB, "running", "node1").__dict__)
    assert "Not queued again" in afterwards(task, 137)
    assert left(task).state == "running" and not cluster.asked()


def test_the_other_processes_of_a_run_only_help_with_training(task, cluster, finished, monkeypatch, tmp_path):
    place = jobs.processes.Place(1, 2, 2, 1, "slurm")
    monkeypatch.setattr(jobs.processes, "place", lambda: place)
    seen: list[Path] = []
    monkeypatch.setattr(jobs, "pretrain", lambda run, path, *_, **__: seen.append(path))
    assert task() == "done"
    assert seen == [task.folder.path] and jobs.outcome(task.folder) is None and not known(task.folder, *task.pairs[0])
