"""What this process holds, as Linux counts it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def kilobytes(field: str) -> int:
    """VmRSS, what it holds; VmHWM, the most it held since `forget`; RssAnon, what it holds that is no page of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def forget() -> None:
    """Let VmHWM start again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Growth:
    """By how many bytes private memory grew at most; known at the end."""

    bytes: int = 0


@contextmanager
def growth(every: float = 0.005) -> Iterator[Growth]:
    """Watch RssAnon, looking every so many seconds: pages of mapped files do not count."""
    found, before, done = Growth(), kilobytes("RssAnon"), threading.Event()

    def look() -> None:
        found.bytes = max(found.bytes, (kilobytes("RssAnon") - before) * 1024)

    def watch() -> None:
        while not done.wait(every):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        look()
