"""What a user can get wrong with an export: a message that says what to do, and nothing left behind."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import command, contents, said, tiny

from wingspan.errors import UserError
from wingspan.export import torch_export
from wingspan.export.base import check
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / "run"))


def test_words_that_are_missing_or_unknown(run, tmp_path, capsys):
    wrong = {
        (): "which run?",
        ("--to", "onnx"): "which run?",
        (run,): "one of hub-folder, onnx, safetensors, timm, torch.export",
        (run, "--to", "onxx"): "--to 'onxx': no such form. Did you mean 'onnx'?",
        (run, "--to", "onnx", "--size", "-3"): "--size -3 must be a side",
        (run, "--to", "torch.export", "--output", "classes"): "learnt simclr, which has no classes",
        (tmp_path / "none", "--to", "onnx"): f"is {tmp_path / 'none'} a run's folder?",
    }
    for words, message in wrong.items():
        assert command("export", *words) == 2
        assert message in said(capsys)
    assert not (run / "export").exists() and not (tmp_path / "none").exists()


def test_a_run_without_checkpoint(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert command("export", run, "--to", "timm") == 2
    assert "holds no checkpoint yet: wingspan pretrain --resume" in said(capsys)


def test_a_classifier_on_a_projector(tmp_path, capsys):
    supervised = pretrain(tiny(objective="supervised", epochs=1), tmp_path / "run", Sitting(online=False))
    assert command("export", supervised.path, "--to", "torch.export", "--output", "classes") == 2
    assert "stands on its projector '32-16' and not on h. Export h (--output h)" in said(capsys)


@pytest.mark.parametrize(("to", "name"), [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("timm", "timm")])
def test_a_missing_library(to, name, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert command("export", run, "--to", to) == 2
    assert "pip install 'wingspan[interop]'" in (told := said(capsys)) and name in told
    assert not (run / "export").exists()


@pytest.mark.parametrize("to", ["safetensors", "timm", "torch.export", "onnx"])
def test_a_full_disk_leaves_nothing(to, run, capsys):
    before = contents(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # the weights are larger: the system refuses to write on
    try:
        status = command("export", run, "--to", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and f"cannot write {run}/export/{to}" in said(capsys)
    assert contents(run) == before and not (run / "export").exists()


def test_a_full_disk_leaves_the_former_export(run, capsys):
    assert command("export", run, "--to", "torch.export") == 0
    before = contents(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        assert command("export", run, "--to", "torch.export") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(run) == before


def test_a_file_that_differs_leaves_nothing(run, monkeypatch, capsys):
    monkeypatch.setattr(torch_export, "LIMIT", -1.0)
    assert command("export", run, "--to", "torch.export") == 2
    assert "model.pt2 differs from the network by" in said(capsys)
    assert not (run / "export").exists()


def test_check_compares_with_the_largest_number():
    wanted = torch.tensor([[1.0, -200.0]])
    assert check(wanted + torch.tensor([[0.001, 0.0]]), wanted, 1e-5, "it") == pytest.approx(5e-6, rel=1e-2)
    for found in (wanted + 0.1, wanted * float("nan")):
        with pytest.raises(UserError, match="it differs from the network"):
            check(found, wanted, 1e-5, "it")
    with pytest.raises(UserError, match=r"it gives \(1, 1\) where the network gives \(1, 2\)"):
        check(wanted[:, :1], wanted, 1e-5, "it")
    assert check(torch.zeros(2), torch.zeros(2), 1e-5, "it") == 0


def test_what_lies_there_is_not_written_over(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    assert command("export", run, "--to", "safetensors", "--out", other) == 0  # it was empty
    for place, text in {"photos": "mine", "file": None, "of another run": json.dumps({"run": "0123456789"})}.items():
        there = tmp_path / place
        if text is None:
            there.write_text("mine")
        else:
            there.mkdir()
            (there / ("export.json" if place == "of another run" else "cat.jpg")).write_text(text)
        before = contents(tmp_path)
        assert command("export", run, "--to", "safetensors", "--out", there) == 2
        assert f"--out {there} is there already and is no export of this run" in said(capsys)
        assert contents(tmp_path) == before
    assert command("export", run, "--to", "safetensors", "--out", run) == 2


def test_a_network_that_diverged(run, capsys):
    from safetensors.torch import load_file, save_file

    file = next((run / "checkpoints").iterdir()) / "learner.safetensors"
    weights = load_file(file)
    weights["backbone.conv1.weight"][0] = float("nan")
    save_file(weights, file)
    assert command("export", run, "--to", "safetensors") == 2
    assert "its network gives NaN or infinity on 8 test images" in said(capsys)


def test_help_names_the_forms(capsys):
    assert command("export", "--help") == 0
    told = said(capsys)
    assert "--to hub-folder" in told and "--output" in told and "--size" in told
