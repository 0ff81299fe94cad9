"""Several runs at a time: how many, what becomes of their outcomes, and of one that is killed."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from wingspan import crew
from wingspan.stopping import Interrupted, stop_on_signals


def outcome(message: str | None) -> str | None:
    return message


def die() -> str | None:
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def until_stopped(begun: Path) -> str | None:
    with stop_on_signals() as stop:
        begun.touch()
        while stop.signum is None:
            time.sleep(0.02)
        raise Interrupted("stopped", stop.signum)


def test_after_a_stop_no_task_begins(tmp_path: Path) -> None:
    """A pool hands out more tasks than it has workers; those must not begin once a signal came."""
    tasks = {str(at): (functools.partial(until_stopped, tmp_path / str(at)), tmp_path / "none") for at in range(6)}

    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted, match="give the same command again") as stopped:
        crew.work(tasks, jobs=2)
    assert stopped.value.signum == signal.SIGINT
    assert len(list(tmp_path.iterdir())) == 2


def test_as_many_as_asked_for_or_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert crew.size(0, 12, "auto") == 4
    assert crew.size(0, 3, "cpu") == 3
    assert crew.size(7, 12, "auto") == 7
    assert crew.size(0, 12, "cuda") == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert crew.size(0, 12, "auto") == 1


def test_failures_are_gathered_by_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {name: (functools.partial(outcome, text), tmp_path / name) for name, text in [("a", None), ("b", "too wide")]}
    assert crew.work(tasks, jobs=2) == {"b": "too wide"}
    told = capsys.readouterr().err
    assert "a: done" in told and "b: failed: too wide" in told


def test_a_killed_process_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    failed = crew.work({"a": (die, tmp_path / "a"), "b": (die, tmp_path / "b")}, jobs=2)
    assert set(failed) == {"a", "b"}
    assert all("--jobs 1" in message for message in failed.values())
