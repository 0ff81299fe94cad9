"""A process that has imported Wingspan and forks a child for every command, so that a kill costs no start of Python.

It reads one JSON object a line and answers with one: see `killing.Server`. The child can be killed at a moment, or exactly at
an operation on the disk: operations are those that make names and order on it (`OPERATIONS`), counted below one folder.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

OPERATIONS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


class Watch:
    """Operations below a folder, written down; at the one that is asked for the process kills itself, before it or after."""

    def __init__(self, under: str, record: str, kill: dict[str, object] | None) -> None:
        self.under, self.kill = under, kill or {}
        self.record = Path(record).open("a", buffering=1) if record else None  # noqa: SIM115 - open until the end
        self.count, self.lock = 0, threading.Lock()

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self.watched(name, getattr(os, name)))

    def watched(self, name, real):
        def call(*given, **named):
            place = " -> ".join(
                _place(each, named.get("dir_fd")) for each in given[: 2 if name in ("replace", "rename") else 1]
            )
            if self.under not in place:
                return real(*given, **named)
            with self.lock:
                hit = self.hits(f"{name} {place.replace(self.under, '')}")
            if hit and self.kill["when"] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*given, **named)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    def hits(self, operation: str) -> bool:
        if self.record is not None:
            self.record.write(operation + "\n")
        if not re.search(str(self.kill.get("what", "")), operation):
            return False
        self.count += 1
        return self.count == self.kill.get("at")


def _place(given: object, folder: int | None) -> str:
    if isinstance(given, int):
        return str(Path(f"/proc/self/fd/{given}").readlink())
    name = os.fspath(given)  # type: ignore[call-overload]
    return str(Path.cwd() / name if folder is None else Path(f"/proc/self/fd/{folder}").readlink() / name)


def child(asked: dict) -> None:
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ |= asked["environment"]
    if asked["under"]:
        Watch(asked["under"], asked["record"], asked["kill"]).install()
    status = 70
    try:
        cli = importlib.import_module("wingspan.cli")
        status = cli.run(asked["words"])
    except SystemExit as left:
        status = int(left.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    importlib.import_module("torch").set_num_threads(1)
    for module in ("loop", "extraction", "workbench", "verbs.pretrain", "verbs.features", "verbs.study"):
        importlib.import_module(f"wingspan.{module}")
    for module in ("lightning_fabric", "torch._dynamo", "torch.utils.flop_counter", "torch._subclasses.fake_tensor"):
        importlib.import_module(module)  # what Wingspan imports when it is needed, in every child anew
    for line in sys.stdin:
        asked, began = json.loads(line), time.monotonic()
        made = os.fork()
        if not made:
            child(asked)
        if asked["seconds"] is not None:
            time.sleep(asked["seconds"])
            os.kill(made, signal.SIGKILL)  # of one that has ended, too: it is not waited for yet
        _, ended = os.waitpid(made, 0)
        told = {"status": os.waitstatus_to_exitcode(ended), "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
