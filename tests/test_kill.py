"""`kill -9` at any moment loses nothing; SIGTERM and SIGINT save first and say how to go on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import WORDS, assert_equal_runs, command, tiny

from wingspan.loop import pretrain
from wingspan.runs import RunFolder

LONGER = ["--batch", "8", "--epochs", "12"]  # 72 steps; later words win over earlier ones
STARTED_WITHIN = 120.0  # seconds


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> RunFolder:
    return pretrain(tiny(batch=8, epochs=12), tmp_path_factory.mktemp("kill") / "whole")


def start(*words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "wingspan.cli", "pretrain", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_steps(process: subprocess.Popen[str], folder: RunFolder, more: int) -> None:
    """Until the process has logged that many steps of its own: on starting it drops lines beyond the last checkpoint."""
    sittings, end = count(folder.path / "provenance.json"), time.monotonic() + STARTED_WITHIN
    while count(folder.path / "provenance.json") == sittings and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    before = int(folder.checkpoints()[-1].name[5:]) if folder.checkpoints() else 0
    while (folder.read_metrics() or [{"step": 0}])[-1]["step"] < before + more and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def count(provenance: Path) -> int:
    return provenance.read_text().count('"command"') if provenance.exists() else 0


def test_five_kills_change_nothing(reference, tmp_path):
    chance, folder = random.Random(1), RunFolder(tmp_path / "run")
    for sitting in range(5):
        words = ["--resume", folder.path] if sitting else [*WORDS, *LONGER, "--out", folder.path]
        process = start(*words, "--save-seconds", "0")
        wait_for_steps(process, folder, chance.randint(1, 6))
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not folder.done()
    assert command("pretrain", "--resume", folder.path, "--save-seconds", "0") == 0
    assert_equal_runs(folder, reference)
    left = sorted(each.name for each in (folder.path / "checkpoints").iterdir())
    assert left == [each.name for each in folder.checkpoints()] and left[-1] == "step-000000072"  # and no leftover


def test_signals_save_and_say_how_to_go_on(reference, tmp_path):
    folder = RunFolder(tmp_path / "run")
    words: list[object] = [*WORDS, *LONGER, "--out", folder.path]
    for signum in (signal.SIGTERM, signal.SIGINT):
        process = start(*words)
        wait_for_steps(process, folder, 3)
        process.send_signal(signum)
        told = process.communicate()[0]
        assert process.returncode == 128 + signum, told
        assert f"To go on: wingspan pretrain --resume {folder.path}" in told and "Traceback" not in told
        assert folder.read_metrics()[-1]["step"] == int(folder.checkpoints()[-1].name[5:])
        words = ["--resume", folder.path]
    assert command("pretrain", *words) == 0
    assert_equal_runs(folder, reference)
