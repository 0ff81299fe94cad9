"""Runs of a few steps on a few small scenes, and how their folders and messages are compared."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from wingspan import cli, loop, spec
from wingspan.data.scenes import Scenes
from wingspan.loop import pretrain
from wingspan.pretrain import Pretrain, Sitting
from wingspan.recipes import SMALL
from wingspan.runs import RunFolder
from wingspan.stopping import Interrupted

WORDS = [
    *("--recipe", "small", "--width", "16", "--projector", "32-16", "--batch", "16", "--epochs", "2", "--precision", "fp32"),
    *("--data.train", "48", "--data.test", "32", "--data.size", "16"),
]
"""Six steps of SimCLR on the command line."""

TIMING = {"seconds", "seconds_left", "views_per_second"}


def tiny(**changes: object) -> Pretrain:
    """The run that `WORDS` stand for, with changes (`__` for the dot of a path)."""
    base = {
        "data": Scenes(train=48, test=32, size=16), "backbone.width": 16, "projector": "32-16",
        "batch": 16, "epochs": 2, "precision": "fp32",
    }  # fmt: skip
    return spec.override(SMALL, base | {path.replace("__", "."): value for path, value in changes.items()})


def signal_at(monkeypatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Send this process a signal while the given step of a run is computed."""
    compute = loop.step

    def watched(run, state, *rest):
        if state.step + 1 == step:
            os.kill(os.getpid(), signum)
        return compute(run, state, *rest)

    monkeypatch.setattr(loop, "step", watched)


def cut(run: Pretrain, path: Path, step: int, monkeypatch, sitting: Sitting = Sitting()) -> RunFolder:
    """The folder of a run that was stopped after `step` steps."""
    with monkeypatch.context() as patched:
        signal_at(patched, step)
        try:
            pretrain(run, path, sitting)
        except Interrupted:
            return RunFolder(path)
    raise AssertionError("the run was not stopped")


def learner(folder: RunFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder.checkpoints()[-1] / "learner.safetensors")


def optimiser(folder: RunFolder) -> Any:
    return torch.load(folder.checkpoints()[-1] / "optimiser.pt", weights_only=True)


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit, at any depth."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def assert_equal_runs(left: RunFolder, right: RunFolder) -> None:
    """Both are finished, with the same weights, optimiser and log (but for timing), every step once."""
    assert left.done() and right.done()
    assert same(learner(left), learner(right))
    assert same(optimiser(left), optimiser(right))
    lines = [[{key: line[key] for key in line if key not in TIMING} for line in run.read_metrics()] for run in (left, right)]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(1, json.loads(left.finished.read_text())["steps"] + 1))


def command(*words: object) -> int:
    """The exit status of one command; the command line's parser leaves by SystemExit."""
    try:
        return cli.run([str(word) for word in words])
    except SystemExit as left:
        return int(left.code or 0)


def said(capsys) -> str:
    """All that was printed since the last call, on one line and without the parser's box."""
    told = capsys.readouterr()
    return " ".join(re.sub("[│╭╮╰╯─]", " ", told.out + told.err).split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
