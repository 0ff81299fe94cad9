"""Commands that are killed and begun again until they end, and what must be the same as if nobody had killed them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from tiny_runs import WORDS, assert_equal_runs, same

from wingspan.runs import RunFolder

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Kill:
    """At the `at`-th operation on the disk that `what` matches, before it is made or after. See `fault_server`."""

    what: str
    at: int = 1
    when: str = "before"


@dataclass
class Server:
    """Forks a child for every command. `log` is what the last child printed."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Server:
        line = [sys.executable, str(Path(__file__).with_name("fault_server.py"))]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(
        self, words: Sequence[object], *, under: Path | None = None, seconds: float | None = None, kill: Kill | None = None
    ) -> tuple[int, float]:
        """The exit status of one command and its seconds. It is killed after `seconds`, or where `kill` says, below `under`."""
        asked = {
            "words": [str(word) for word in words],
            "environment": self.environment,
            "log": str(self.folder / "log"),
            "under": str(under or ""),
            "record": str(self.folder / "operations") if under else "",
            "seconds": seconds,
            "kill": kill and vars(kill),
        }
        (self.folder / "operations").unlink(missing_ok=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        return told["status"], told["seconds"]

    @property
    def log(self) -> str:
        return " ".join((self.folder / "log").read_text().split())

    @property
    def operations(self) -> list[str]:
        """Those of the last command below `under`, in order."""
        return (self.folder / "operations").read_text().splitlines()


# ------------------------------------------------------------------------------------------------------------- what is killed


@dataclass(frozen=True)
class Subject:
    """A command: how it is begun and gone on with in a folder, and what its folder must hold in the end, or at any time."""

    begin: Callable[[Path], Sequence[object]]
    go_on: Callable[[Path], Sequence[object]]
    compare: Callable[[Path, Path], None]  # the whole one, and the one that was killed
    check: Callable[[Path], int]  # raises AssertionError for what is not whole; gives how far it is

    def words(self, folder: Path) -> Sequence[object]:
        return self.go_on(folder) if (folder / "run.json").exists() else self.begin(folder)


def whole_run(path: Path) -> int:
    """Every listed checkpoint of a run loads, every file that has its name is whole. Gives the last checkpoint's step."""
    folder = RunFolder(path)
    for file in path.glob("*.json"):
        json.loads(file.read_text())
    for checkpoint in folder.checkpoints():
        step = json.loads((checkpoint / "state.json").read_text())["step"]
        assert step == int(checkpoint.name[5:])
        safetensors.torch.load_file(checkpoint / "learner.safetensors")
        torch.load(checkpoint / "optimiser.pt", weights_only=True)
        logged = [line["step"] for line in folder.read_metrics()]
        assert logged[:step] == list(range(1, step + 1)), "a checkpoint's steps are in the log"
    assert not folder.done() or folder.checkpoints()
    return int(folder.checkpoints()[-1].name[5:]) if folder.checkpoints() else 0


def same_run(whole: Path, killed: Path) -> None:
    assert_equal_runs(RunFolder(killed), RunFolder(whole))
    assert not leftovers(killed)


def leftovers(folder: Path) -> list[str]:
    """Hidden files other than the lock: parts and what was on its way out."""
    return [str(file.relative_to(folder)) for file in folder.rglob(".*") if file.name not in (".lock", ".measuring.jsonl")]


WIDE = ["pretrain", *WORDS, "--width", "512", "--epochs", "1"]
PRETRAIN = Subject(
    lambda out: ["pretrain", *WORDS, "--batch", "8", "--epochs", "1", "--save-seconds", "0", "--out", out],
    lambda out: ["pretrain", "--resume", out, "--save-seconds", "0"],
    same_run,
    whole_run,
)


def features(run: Path) -> Subject:
    """Five shards of codes and more: 64 bytes each of 4,000 and 1,100 scenes."""

    def words(out: Path) -> Sequence[object]:
        data = ["--data", "scenes", "--data.train", "4000", "--data.test", "1100", "--data.size", "16"]
        return ["features", run, *data, "--format", "packed", "--batch", "256", "--out", out]

    return Subject(words, words, _same_store, _whole_store)


def _stored(folder: Path) -> dict[str, bytes]:
    found = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def _same_store(whole: Path, killed: Path) -> None:
    assert _stored(killed) == _stored(whole)
    assert not leftovers(killed)


def _whole_store(path: Path) -> int:
    """Every listed file has the checksum in the list; gives how many are listed."""
    listed = 0
    for sums in path.glob("*/SHA256SUMS"):
        subprocess.run(["sha256sum", "--check", "--strict", "--status", "SHA256SUMS"], cwd=sums.parent, check=True)
        listed += len(sums.read_text().splitlines())
    return listed


def _study(out: Path) -> Sequence[object]:
    small = ["--data.train", "48", "--data.test", "40", "--batch", "16", "--epochs", "1", "--projector", "16"]
    plan = ["--scale", "smoke", "--widths", "8", "16", "--objectives", "simclr"]
    return ["study", "scenes", *plan, *small, "--save-seconds", "0", "--jobs", "1", "--out", out]


def _same_study(whole: Path, killed: Path) -> None:
    runs = sorted(path.name for path in (whole / "runs").iterdir())
    assert sorted(path.name for path in (killed / "runs").iterdir()) == runs
    for name in runs:
        assert_equal_runs(RunFolder(killed / "runs" / name), RunFolder(whole / "runs" / name))
        assert _results(killed / "runs" / name) == _results(whole / "runs" / name)
    left, right = (pd.read_parquet(folder / "results.parquet") for folder in (killed, whole))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    notes = [json.loads((folder / "study.json").read_text()) for folder in (killed, whole)]
    assert same(notes[0] | {"command": ""}, notes[1] | {"command": ""})
    assert (killed / "report.html").stat().st_size


def _results(run: Path) -> dict[str, object]:
    found = {file.name: json.loads(file.read_text()) for file in sorted((run / "results").glob("*.json"))}
    return {name: {key: value for key, value in result.items() if key != "seconds"} for name, result in found.items()}


def _whole_study(path: Path) -> int:
    """Runs and results are whole; gives how many steps and results there are."""
    runs = list((path / "runs").glob("*"))
    return sum(whole_run(run) + len(_results(run)) for run in runs)


STUDY = Subject(_study, _study, _same_study, _whole_study)


# ---------------------------------------------------------------------------------------------------------------- the killing


@dataclass
class Tally:
    """What came of kills: how many, and after how many of them the command had ended before."""

    kills: int = 0
    finished: int = 0


def kill_and_go_on(server: Server, subject: Subject, folder: Path, whole: Path, draw: Callable[[], dict], kills: int) -> Tally:
    """Kill and go on until `kills` hit, a new folder each time that the command came to its end; then let the last one end.

    Nothing is lost: what was whole before a kill is whole after it and no less far, and the end is that of `whole`.
    """
    tally = Tally()
    while tally.kills < kills:
        place, far = folder / str(tally.finished), 0
        status = KILLED
        while status == KILLED:
            wanted = draw() if tally.kills < kills else {}
            status, _ = server.run(subject.words(place), under=place, **wanted)
            assert status in (0, KILLED), server.log
            tally.kills += status == KILLED
            now = subject.check(place)
            assert now >= far, "a kill took something away"
            far = now
        tally.finished += 1
        subject.compare(whole, place)
    return tally


def moments(chance: random.Random, longest: float) -> Callable[[], dict]:
    return lambda: {"seconds": chance.uniform(0, longest)}


def operations(chance: random.Random, count: int) -> Callable[[], dict]:
    return lambda: {"kill": Kill("", chance.randint(1, count), chance.choice(["before", "after"]))}
