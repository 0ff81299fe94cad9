"""Progress with rate and time left: a bar in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# A log has no width of its own, and tables would be squeezed into 80 columns.
console = Console(stderr=True, width=None if sys.stderr.isatty() or "COLUMNS" in os.environ else 120)
_LOG_SECONDS = 30.0
_told: set[str] = set()
_silent = False


def leave_terminal_to_parent() -> None:
    """For a process that shares its terminal with one that draws for all: no bars of its own there. Logs keep their lines."""
    global _silent  # noqa: PLW0603 - a setting of the process, like the console itself
    _silent = console.is_terminal


def hush() -> None:
    """For all processes of a run but the first: no bars, no lines, no notes. Errors are not printed here."""
    global _silent  # noqa: PLW0603 - a setting of the process, like the console itself
    _silent = console.quiet = True


class Bar:
    """One piece of long work. `advance` is called after every unit; `per_unit` is how many things a unit holds."""

    def __init__(self, label: str, total: int, done: int, per_unit: int, things: str) -> None:
        self.label, self.total, self.done, self.per_unit, self.things = label, total, done, per_unit, things
        self._first, self._began, self._told = done, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not _silent:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"), TimeRemainingColumn(elapsed_when_finished=True),
                console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(label, total=total, completed=done, note="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Things a second since this bar began."""
        return (self.done - self._first) * self.per_unit / max(time.monotonic() - self._began, 1e-9)

    def advance(self, note: str = "") -> None:
        self.done += 1
        text = f"{self.rate:,.0f} {self.things}/s {note}".rstrip()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=text)
        elif not _silent and time.monotonic() - self._told > _LOG_SECONDS:
            self._told = time.monotonic()
            left = (self.total - self.done) * self.per_unit / max(self.rate, 1e-9)
            print(f"{self.label}: {self.done}/{self.total}, {text}, {clock(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def bar(label: str, total: int, *, done: int = 0, per_unit: int = 1, things: str = "steps") -> Iterator[Bar]:
    """A bar that is taken away when the work ends, however it ends."""
    made = Bar(label, total, done, per_unit, things)
    try:
        yield made
    finally:
        made.close()


def tell(notes: Iterable[str]) -> None:
    """Print what the user should know, each once in a process."""
    for note in notes:
        if note not in _told:
            _told.add(note)
            console.print(f"note: {note}", highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
