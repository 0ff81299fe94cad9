"""Several runs at a time on one machine: a process each, a core or more each, all watched from one place.

A small net does not keep two cores busy (two threads that wait for each other can be slower than one), two small nets do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wingspan.progress import clock, console, leave_terminal_to_parent
from wingspan.stopping import Interrupted, Stop, stop_on_signals

_SECONDS_TO_SAVE = 60.0
_busy = threading.Event()  # in a worker: whether a task is under way
_halt: Event | None = None  # in a worker: set, for all of them, once any was stopped


def size(wanted: int, runs: int, device: str) -> int:
    """How many runs go at a time: what was asked for, or on a CPU one a core (at most 4), on a GPU one."""
    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    usual = 1 if gpu else min(4, os.cpu_count() or 1)
    return max(1, min(wanted or usual, runs))


def work(tasks: Mapping[str, tuple[Callable[[], str | None], Path]], jobs: int) -> dict[str, str]:
    """Carry out tasks, `jobs` at a time. A task is a picklable call that gives an error message or None, and the file
    whose last line tells how far it is. Gives label -> message for those that failed.

    Raises Interrupted after a signal, once every task under way has saved.
    """
    failed: dict[str, str] = {}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = get_context("spawn")
    halt = context.Event()
    pool = ProcessPoolExecutor(jobs, context, initializer=_settle, initargs=(threads, halt))
    with stop_on_signals() as stop, _Board(len(tasks)) as board:
        waiting = {pool.submit(_task, call): label for label, (call, _) in tasks.items()}
        try:
            while waiting and not stop.signum:
                done, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    label = waiting.pop(future)
                    try:
                        message = _outcome(future)
                    except Interrupted as stopped:  # the same Ctrl-C reached the worker, or someone stopped it alone
                        stop.signum = stop.signum or stopped.signum
                        continue
                    if message:
                        failed[label] = message
                    board.finished(label, message)
                running = [label for future, label in waiting.items() if future.running()]
                board.show({label: tasks[label][1] for label in running[:jobs]})  # the pool calls one in advance running, too
        finally:
            _dismiss(pool, waiting, stop, halt)
    if stop.signum:
        raise Interrupted("Stopped, every run saved. To go on, give the same command again.", stop.signum)
    return failed


def _outcome(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool:  # whoever shared the pool with a process that was killed hears of it too
        return "its process was killed from outside, most often for want of memory: give the command again with --jobs 1."


def _settle(threads: int, halt: Event) -> None:
    """A worker's start: its share of the cores, the terminal left alone, and no death by a signal between two tasks, which
    would break the pool for the others."""
    global _halt  # noqa: PLW0603 - a task is given no other way to it than the process it runs in
    _halt = halt
    leave_terminal_to_parent()
    torch.set_num_threads(threads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """When the parent is killed, let the task under way save, then end: nobody is left to give another one."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + _SECONDS_TO_SAVE
        while _busy.is_set() and time.monotonic() < end:
            time.sleep(0.1)
        os._exit(1)


def _task(call: Callable[[], str | None]) -> str | None:
    # The pool hands out a few tasks in advance, which can no longer be cancelled: after a stop they must not begin.
    if _halt is not None and _halt.is_set():
        raise Interrupted("Not begun.", signal.SIGTERM)
    _busy.set()
    try:
        return call()
    except Interrupted:
        if _halt is not None:
            _halt.set()
        raise
    finally:
        _busy.clear()


def _dismiss(pool: ProcessPoolExecutor, waiting: Mapping[Future[str | None], str], stop: Stop, halt: Event) -> None:
    for future in waiting:
        future.cancel()
    if stop.signum:
        halt.set()
        for child in active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)
    pool.shutdown(wait=True)


class _Board:
    """The runs under way, a line each in a terminal; in a log a line a finished run."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.rows: dict[str, TaskID] = {}
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> _Board:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, running: Mapping[str, Path]) -> None:
        if not console.is_terminal:
            return
        for label, metrics in running.items():
            if label not in self.rows:
                self.rows[label] = self.bar.add_task(label, total=1, note="starting")
            last = last_line(metrics)
            if last:
                note = last.get("note") or (
                    f"loss {last['loss']:.3f}, {last['views_per_second']:,.0f} views/s, {clock(last['seconds_left'])} left"
                )
                self.bar.update(self.rows[label], completed=last["progress"], note=note)

    def finished(self, label: str, message: str | None) -> None:
        self.done += 1
        if label in self.rows:
            self.bar.remove_task(self.rows.pop(label))
        spent = time.monotonic() - self.began
        left = clock(spent / self.done * (self.total - self.done))
        outcome = f"failed: {message}" if message else "done"
        times = f"{clock(spent)} so far, about {left} left"
        console.print(f"{self.done}/{self.total} {label}: {outcome} ({times})", highlight=False, soft_wrap=True)
        sys.stderr.flush()


def last_line(metrics: Path) -> dict[str, Any] | None:
    """The newest complete line of a metrics file, without reading the rest."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().split(b"\n")
        return dict(json.loads(lines[-2])) if len(lines) > 1 else None
    except (OSError, ValueError):
        return None
