"""What goes wrong while work is under way: a disk that fills, numbers that overflow, a second process, a signal."""

from __future__ import annotations

import errno
import resource
import shutil

import pytest
import torch
from tiny_runs import WORDS, assert_equal_runs, command, contents, learner, said, same, signal_at

from wingspan.objectives.simclr import SimCLR
from wingspan.optim import Optim, rate
from wingspan.runs import RunFolder


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capsys):
    assert command("pretrain", *WORDS, "--device", "cuda", "--out", tmp_path / "run") == 2
    assert "'cuda'" in (told := said(capsys)) and "--device cpu" in told


def test_a_folder_in_use(begun, tmp_path, capsys):
    path = shutil.copytree(begun.path, tmp_path / "run")
    with RunFolder(path).lock():
        before = contents(path)
        assert command("pretrain", "--resume", path) == 2
        assert f"{path} is in use by another process" in said(capsys)
        assert contents(path) == before


def test_a_signal_in_the_last_step_is_not_swallowed(tmp_path, monkeypatch, capsys):
    """The run is complete, but what would follow in a study must not begin."""
    signal_at(monkeypatch, 6)
    assert command("pretrain", *WORDS, "--out", tmp_path / "run") == 143
    assert f"all 6 steps done and saved in {tmp_path / 'run'}" in said(capsys)
    assert RunFolder(tmp_path / "run").done()


def test_a_full_disk_while_saving(begun, finished, tmp_path, capsys):
    path = shutil.copytree(begun.path, tmp_path / "run")
    saved = contents(path / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # the weights are larger: the system refuses to write on
    try:
        status = command("pretrain", "--resume", path, "--save-seconds", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = said(capsys)
    assert status == 2 and f"cannot write {path}/checkpoints/step-000000004" in told and "intact" in told
    assert contents(path / "checkpoints") == saved
    assert command("pretrain", "--resume", path) == 0
    assert_equal_runs(RunFolder(path), finished)


def test_a_full_disk_while_logging(begun, finished, tmp_path, monkeypatch, capsys):
    class Full:
        def write(self, line: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    path = shutil.copytree(begun.path, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "open_metrics", lambda folder, step: Full())
        assert command("pretrain", "--resume", path) == 2
    assert f"cannot write {path}/metrics.jsonl: No space left on device" in said(capsys)
    assert command("pretrain", "--resume", path) == 0
    assert_equal_runs(RunFolder(path), finished)


def not_finite(what: str, from_call: int):
    """SimCLR's terms, whose loss or whose gradient alone is not finite from some call on."""
    terms, calls = SimCLR.terms, []

    def spoilt(self, batch):
        calls.append(1)
        if len(calls) < from_call:
            return terms(self, batch)
        zero = (batch.z.sum() * 0).abs()
        return {"contrastive": zero + float("nan") if what == "loss" else zero.sqrt()}

    return spoilt


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_before_a_step_that_is_not_finite(what, begun, tmp_path, monkeypatch, capsys):
    """The weights saved are those of the last good step, which an undisturbed run has too."""
    monkeypatch.setattr(SimCLR, "terms", not_finite(what, from_call=5))  # the forecast makes the first call
    path = tmp_path / "run"
    assert command("pretrain", *WORDS, "--save-seconds", "0", "--out", path) == 2
    told = said(capsys)
    for fragment in ("objective 'simclr'", f"{what} is not finite at step 4", "learning rate", "nan", "--optim.lr"):
        assert fragment in told
    assert same(learner(RunFolder(path)), learner(begun))


def test_a_rate_far_too_high(tmp_path, capsys):
    assert command("pretrain", *WORDS, "--optim.lr", "1e30", "--save-seconds", "0", "--out", tmp_path / "run") == 2
    told = said(capsys)
    assert (
        "objective 'simclr': " in told
        and f"is not finite at step 2 with learning rate {rate(Optim(lr=1e30), 2 / 6, batch=16):.3g} " in told
    )
    assert all(torch.isfinite(value).all() for value in learner(RunFolder(tmp_path / "run")).values())
