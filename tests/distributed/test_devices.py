"""`wingspan pretrain --devices 2`: as a user has it, with a process that dies, a signal, and bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs

from wingspan import processes
from wingspan.errors import UserError
from wingspan.processes import Place
from wingspan.runs import RunFolder

LONG = [*tiny_runs.WORDS, "--epochs", "4000", "--save-seconds", "1", "--no-online", "--device", "cpu"]


def begin(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wingspan.cli", "pretrain", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def until_saved(begun: subprocess.Popen[str], folder: RunFolder) -> None:
    for _ in range(1200):
        if folder.checkpoints():
            return
        assert begun.poll() is None, begun.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("no checkpoint in two minutes")


def rank_of(folder: str) -> str | None:
    try:
        known = Path(folder, "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((each[5:].decode() for each in known if each.startswith(b"RANK=")), None)


def worker(begun: subprocess.Popen[str], rank: int) -> int:
    """The process of a rank among the launcher's children."""
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    [found] = [int(child) for child in children if rank_of(f"/proc/{child}") == str(rank)]
    return found


def test_when_one_process_dies_the_others_end_within_a_minute_and_it_is_named(tmp_path: Path) -> None:
    begun = begin(*LONG, "--devices", 2, "--out", tmp_path / "run")
    until_saved(begun, RunFolder(tmp_path / "run"))
    other = worker(begun, 0)
    os.kill(worker(begun, 1), signal.SIGKILL)
    told, _ = begun.communicate(timeout=60)
    assert begun.returncode == 2 and not Path(f"/proc/{other}").exists()
    assert "process 1 of 2 was ended by SIGKILL" in told and "Traceback" not in told
    assert f"wingspan pretrain --resume {tmp_path / 'run'} --devices 2" in told


def test_a_signal_saves_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    begun = begin(*LONG, "--devices", 2, "--out", tmp_path / "run")
    until_saved(begun, RunFolder(tmp_path / "run"))
    begun.send_signal(signal.SIGTERM)
    told, _ = begun.communicate(timeout=60)
    assert begun.returncode == 128 + signal.SIGTERM
    assert told.count("saved. To go on: wingspan pretrain --resume") == 1 and "Traceback" not in told
    [last] = RunFolder(tmp_path / "run").checkpoints()[-1:]
    assert f"Stopped at step {int(last.name[5:])} of 12000" in told


def test_what_cannot_begin_is_said_once(tmp_path: Path) -> None:
    begun = begin(*tiny_runs.WORDS, "--device", "cpu", "--batch", 15, "--devices", 2, "--out", tmp_path / "run")
    told, _ = begun.communicate(timeout=120)
    assert begun.returncode == 2 and told.count("--batch 15 cannot be shared equally by 2 processes") == 1
    assert "Traceback" not in told and not RunFolder(tmp_path / "run").started()


@pytest.mark.parametrize("count", ["0", "-2"])
def test_a_number_of_devices_that_is_none(count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs.command("pretrain", *tiny_runs.WORDS, "--devices", count, "--out", tmp_path / "run") == 2
    assert f"--devices {count}" in tiny_runs.said(capsys)


SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, Place()),
        (TORCHRUN, Place(3, 4, 2, 2, "torchrun")),
        (SRUN, Place(5, 8, 4, 2, "slurm")),
        (SCRIPT, Place()),  # a batch script is one process
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Place()),
    ],
)
def test_the_place_of_a_process_is_what_its_launcher_said(given, found, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in TORCHRUN]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert processes.place() == found


def test_machines_with_different_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"SLURM_STEP_NUM_TASKS": "7"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="7 processes on 2 machines"):
        processes.place()


def test_tasks_that_srun_began_train_together(tmp_path: Path) -> None:
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "wide",
        "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NODELIST": "127.0.0.1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "wingspan.cli", "pretrain", *tiny_runs.WORDS, "--device", "cpu", "--out", str(tmp_path)]
    tasks = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert "Trained 6 steps" in told[0] and not told[1].strip(), "the first speaks for all"
    assert len(RunFolder(tmp_path).read_metrics()) == 6
