"""A damaged checkpoint, a clock set back, a second process, numbers that are none: the run ends as if nothing had been, or says
what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_runs import WORDS, assert_equal_runs, command, contents, cut, learner, said, same, signal_at, tiny

from wingspan import loop
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder
from wingspan.stopping import Interrupted

OFTEN = Sitting(save_seconds=0)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> RunFolder:
    """Stopped after four of six steps, with the checkpoints of the last two. To be copied."""
    with pytest.MonkeyPatch.context() as patch:
        folder = cut(tiny(), tmp_path_factory.mktemp("two") / "run", 4, patch, OFTEN)
    assert [each.name for each in folder.checkpoints()] == ["step-000000003", "step-000000004"]
    return folder


def damage(file: Path, how: str) -> None:
    held = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(
            {"half": held[: len(held) // 2], "a byte less": held[:-1], "empty": b"", "zeros": bytes(len(held))}[how]
        )


NAMES = ("learner.safetensors", "optimiser.pt", "state.json")
HOW = ("half", "a byte less", "empty", "zeros", "gone")
EVERY = [(name, how) for name in NAMES for how in HOW]
FEW = [(NAMES[0], "half"), (NAMES[0], "zeros"), (NAMES[1], "a byte less"), (NAMES[1], "empty"), (NAMES[2], "gone")]


@pytest.mark.parametrize(("name", "how"), EVERY if "WINGSPAN_KILLS" in os.environ else FEW)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(name, how, two, finished, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    broken = folder.checkpoints()[-1] / name
    damage(broken, how)
    assert command("pretrain", "--resume", folder.path) == 0
    told = said(capsys)
    assert f"warning: {broken}" in told and "Going on from step-000000003" in told
    assert_equal_runs(folder, finished)
    assert not [*(folder.path / "checkpoints").glob(".*")], "what was set aside went with the next checkpoint"


def test_a_damaged_online_probe_does_not_cost_a_step(two, finished, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    damage(folder.checkpoints()[-1] / "online.pt", "half")
    assert command("pretrain", "--resume", folder.path) == 0
    assert "online probe begins anew" in said(capsys)
    assert same(learner(folder), learner(finished))


def test_what_is_set_aside_stays_until_another_is_written(two, finished, tmp_path, monkeypatch, capsys):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    damage(folder.checkpoints()[-1] / "optimiser.pt", "half")
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(loop, "step", killed)
        assert command("pretrain", "--resume", folder.path) == 130
    names = sorted(each.name for each in (folder.path / "checkpoints").iterdir())
    assert names == [".step-000000004.damaged", "step-000000003"]
    assert command("pretrain", "--resume", folder.path) == 0
    assert_equal_runs(folder, finished)


def test_where_no_checkpoint_is_whole_all_stay_as_they_are(two, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    for each in folder.checkpoints():
        damage(each / "optimiser.pt", "half")
    before = contents(folder.path)
    assert command("pretrain", "--resume", folder.path) == 2
    told = said(capsys)
    assert f"{folder.checkpoints()[-1]}/optimiser.pt is damaged" in told and "No earlier checkpoint is whole" in told
    assert f"Remove {folder.path}/checkpoints to begin anew" in told and contents(folder.path) == before


def test_a_line_that_the_disk_took_in_part_is_an_error_and_made_again(tmp_path):
    import resource

    from wingspan.errors import UserError

    folder = RunFolder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with folder.open_metrics(0) as log:
        log.write(b'{"step": 1}\n')
        resource.setrlimit(resource.RLIMIT_FSIZE, (folder.metrics.stat().st_size + 5, hard))
        try:
            with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: File too large"):
                log.write(b'{"step": 2}\n')
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.metrics.read_bytes() == b'{"step": 1}\n{"ste'
    with folder.open_metrics(2) as log:
        log.write(b'{"step": 2}\n')
    assert folder.metrics.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_the_log_reaches_the_disk_before_the_checkpoint_that_stands_on_it(tmp_path, monkeypatch):
    """After a power cut a checkpoint of step 4 must not meet a log of three."""
    done, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(str(Path(f"/proc/self/fd/{handle}").readlink())), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda old, new: (done.append(str(new)), rename(old, new)))
    folder = RunFolder(tmp_path)
    with folder.open_metrics(0) as log:
        log.write(b'{"step": 1}\n')
        done.clear()
        with folder.new_checkpoint(1) as place:
            (place / "state.json").write_text("{}")
    named = done.index(str(tmp_path / "checkpoints" / "step-000000001"))
    assert {str(tmp_path / "metrics.jsonl"), f"{tmp_path}/checkpoints/.step-000000001.part/state.json"} <= set(done[:named])
    assert done[named + 1 :] == [str(tmp_path / "checkpoints")]


def test_the_parts_that_a_kill_left_are_removed(two, finished, tmp_path):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    for name in (".run.json.1.part", ".metrics.jsonl.12.part", ".done.json.3.part"):
        (folder.path / name).write_text("{")
    for name in (".step-000000005.part", ".step-000000002.gone"):
        (folder.path / "checkpoints" / name).mkdir()
    with folder.lock():
        assert sorted(each.name for each in folder.path.rglob(".*")) == [".lock"]


# ---------------------------------------------------------------------------------------------------------- a clock set back


def test_a_clock_set_back_changes_nothing(finished, tmp_path, monkeypatch):
    """Each sitting thirty years before the last, and the newest checkpoint with the oldest date."""
    folder, year = RunFolder(tmp_path / "run"), 3600.0 * 24 * 365
    for step, now in ((2, 60 * year), (4, 30 * year)):
        with monkeypatch.context() as patch:
            for name in ("time", "time_ns"):
                patch.setattr(time, name, lambda now=now, name=name: now if name == "time" else int(now * 1e9))
            signal_at(patch, step)
            with pytest.raises(Interrupted):
                pretrain(tiny(), folder.path, OFTEN, resume=folder.started())
        for file in (folder.path, *folder.path.rglob("*")):
            os.utime(file, (now, now))
    for age, each in enumerate(folder.checkpoints()):
        os.utime(each, (year - age, year - age))
    pretrain(tiny(), folder.path, OFTEN, resume=True)
    assert_equal_runs(folder, finished)


# ------------------------------------------------------------------------------------------------------------- two processes


def test_the_second_of_two_processes_is_refused_and_the_first_never_notices(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    words = ["pretrain", *WORDS, "--batch", "8", "--epochs", "4", "--save-seconds", "0", "--out", str(folder.path)]
    first = subprocess.Popen([sys.executable, "-m", "wingspan.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    whole = pretrain(tiny(batch=8, epochs=4), tmp_path / "whole")
    while not folder.checkpoints():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    begun = (folder.path / "provenance.json").read_bytes()
    assert command(*words) == 2 and f"{folder.path} is in use by another process" in said(capsys)
    assert command("pretrain", "--resume", folder.path) == 2 and f"{folder.path} is in use" in said(capsys)
    first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 0 and (folder.path / "provenance.json").read_bytes() == begun
    assert_equal_runs(folder, whole)


# -------------------------------------------------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("part", [0, 1])
def test_nan_in_a_gradient_stops_before_the_step(part, tmp_path, monkeypatch, capsys):
    """Injected into one weight of the backbone, in one part of a batch: the weights saved are those of the step before."""
    run, step, calls = tiny(accumulate=2), loop.step, []

    def spoilt(run, state, *rest):
        if state.step == 3:
            weight = next(state.learner.backbone.parameters())
            weight.register_hook(lambda slope: slope * (float("nan") if calls.append(1) or len(calls) == part + 1 else 1))
        return step(run, state, *rest)

    good = cut(run, tmp_path / "good", 3, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", spoilt)
        words = [*WORDS, "--accumulate", "2", "--save-seconds", "0", "--out", tmp_path / "run"]
        assert command("pretrain", *words) == 2
    assert "gradient is not finite at step 4" in said(capsys)
    assert same(learner(RunFolder(tmp_path / "run")), learner(good))
    pretrain(run, tmp_path / "run", resume=True)
    assert_equal_runs(RunFolder(tmp_path / "run"), pretrain(run, tmp_path / "good", resume=True))


def test_nan_in_saved_weights_trains_nothing(two, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    file = folder.checkpoints()[-1] / "learner.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(name for name, value in weights.items() if name.startswith("backbone.") and value.ndim == 4)
    weights[name][0, 0, 0, 0] = torch.nan
    safetensors.torch.save_file(weights, file)
    before = [each.name for each in folder.checkpoints()]
    assert command("pretrain", "--resume", folder.path, "--save-seconds", "0") == 2
    assert "loss is not finite at step 5" in said(capsys)
    assert [each.name for each in folder.checkpoints()] == before and folder.read_metrics()[-1]["step"] == 4
    assert command("measure", folder.path, "--measures", "knn") == 2 and "not finite" in said(capsys)


def test_checkpoints_are_told_by_their_step_and_nothing_else(two, finished, tmp_path):
    """Neither a copy beside them nor a file of their name is taken for one."""
    folder = RunFolder(shutil.copytree(two.path, tmp_path / "run"))
    shutil.copytree(folder.checkpoints()[0], folder.path / "checkpoints" / "step-000000009 (copy)")
    (folder.path / "checkpoints" / "step-000000099").write_text("")
    assert [each.name for each in folder.checkpoints()] == ["step-000000003", "step-000000004"]
    assert command("pretrain", "--resume", folder.path) == 0
    assert_equal_runs(folder, finished)
    assert json.loads(folder.finished.read_text())["steps"] == 6
