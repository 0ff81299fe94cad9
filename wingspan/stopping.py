"""Ctrl-C and SIGTERM end long work between two steps, after saving."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """Work was stopped by a signal after saving; `message` says how to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message, signum)  # both, so that it survives the way back from another process
        self.message, self.signum = message, signum

    def __str__(self) -> str:
        return self.message


class Stop:
    """What was asked for: None, or the number of the signal that came."""

    signum: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying of them. A second Ctrl-C is not held back; a second SIGTERM is, because
    schedulers send it to every process and a parent passes it on as well."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signum = number
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
