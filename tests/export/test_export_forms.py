"""Every form, loaded where Wingspan is not, gives what the network gives."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_trials import BY, answers, drawn, h_of, in_fresh_process, logits_of, needed, off
from safetensors import safe_open
from tiny_runs import command, contents, learner, said, tiny

from wingspan.backbones.resnet import ResNet
from wingspan.backbones.timm import Timm
from wingspan.data.scenes import Scenes
from wingspan.export import onnx
from wingspan.export.base import formats
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder

LIMITS = {"timm": 1e-5, "torch.export": 1e-5, "onnx": 1e-4}
QUIET = Sitting(online=False)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> RunFolder:
    return pretrain(tiny(objective="supervised", projector=""), tmp_path_factory.mktemp("supervised") / "run", QUIET)


def test_the_words_are_the_files():
    assert set(formats()) == {"safetensors", "timm", "torch.export", "onnx", "hub-folder"}


@pytest.mark.parametrize("to", BY)
def test_a_form_loads_without_wingspan_and_gives_h(to, finished, tmp_path, capsys):
    needed(to)
    assert command("export", finished.path, "--to", to, "--size", "64", "--out", tmp_path / "out") == 0
    told = said(capsys)
    images = drawn(64)
    assert off(answers(tmp_path / "out", BY[to], images), h_of(finished, images)) < LIMITS[to]
    assert f"Wrote {tmp_path / 'out' / 'README.md'}" in told and "8 test images of the run's data; largest difference" in told
    assert json.loads((tmp_path / "out" / "export.json").read_text())["difference"] < LIMITS[to]


def test_a_folder_for_the_hub_is_timms_with_another_card(finished, tmp_path):
    needed("hub-folder")
    made = {}
    for to in ("timm", "hub-folder"):
        assert command("export", finished.path, "--to", to, "--out", tmp_path / to) == 0
        made[to] = contents(tmp_path / to)
    other = {name for name in made["timm"] if made["timm"][name] != made["hub-folder"][name]}
    assert other - {"model.safetensors"} == {"README.md", "export.json"}  # the order of its header's words is drawn anew
    card = made["hub-folder"]["README.md"].decode()
    assert "`hf upload USER/NAME FOLDER .`" in card and 'snapshot_download("USER/NAME") + "/model.py")["load"]()' in card
    loaded = runpy.run_path(str(tmp_path / "hub-folder" / "model.py"))["load"]()
    images = drawn(16)
    assert off(loaded(images).detach().numpy(), h_of(finished, images)) < 1e-5


def test_weights_too_large_for_one_file_lie_beside_it(finished, tmp_path, monkeypatch):
    needed("onnx")
    monkeypatch.setattr(onnx, "_IN_ONE_FILE", 1e6)
    assert command("export", finished.path, "--to", "onnx", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > 1e6 > (tmp_path / "out" / "model.onnx").stat().st_size
    images = drawn(16)
    assert off(answers(tmp_path / "out", BY["onnx"], images), h_of(finished, images)) < LIMITS["onnx"]


def test_safetensors_hold_the_weights_by_name(finished, tmp_path):
    assert command("export", finished.path, "--to", "safetensors", "--out", tmp_path / "out") == 0
    wanted = {name.removeprefix("backbone."): value for name, value in learner(finished).items() if "backbone." in name}
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert set(opened.keys()) == set(wanted) and "layer4.1.conv3.weight" in wanted
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in wanted.items())
        assert opened.metadata()["width"] == "16" and opened.metadata()["output"] == "h"
    script = "from safetensors.torch import load_file\nprint(len(load_file('model.safetensors')))"
    assert int(in_fresh_process(script, tmp_path / "out")) == len(wanted)


@pytest.mark.parametrize("to", ["timm", "onnx"])
def test_classes_of_a_supervised_run(to, supervised, tmp_path):
    needed(to)
    assert command("export", supervised.path, "--to", to, "--output", "classes", "--out", tmp_path / "out") == 0
    images = drawn(16)
    assert off(answers(tmp_path / "out", BY[to], images), logits_of(supervised, images)) < LIMITS[to]
    classes = Scenes(train=48, test=32, size=16).load("test").task()[1]
    told = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert told["classes"] == list(classes) and told["output"] == "logits"
    assert f"0: {classes[0]}, 1: {classes[1]}" in (tmp_path / "out" / "README.md").read_text()


def test_safetensors_of_classes(supervised, tmp_path):
    assert command("export", supervised.path, "--to", "safetensors", "--output", "classes", "--out", tmp_path / "out") == 0
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert torch.equal(opened.get_tensor("classifier.weight"), learner(supervised)["heads.classifier.weight"])


def test_a_supervised_run_gives_h_and_a_fine_tuned_one_classes_by_default(supervised, finished, tmp_path):
    assert command("export", supervised.path, "--to", "torch.export") == 0
    told = json.loads((supervised.path / "export" / "torch.export" / "export.json").read_text())
    assert told["output"] == "h"
    run = tiny(objective="supervised", projector="", start__weights=str(finished.path), epochs=1)
    tuned = pretrain(run, tmp_path / "tuned", QUIET)
    assert command("export", tuned.path, "--to", "torch.export") == 0
    assert json.loads((tuned.path / "export" / "torch.export" / "export.json").read_text())["output"] == "classes"


def test_random_images_and_numbers_stand_in_for_data_that_cannot_be_read(supervised, tmp_path, monkeypatch, capsys):
    def absent(self, split):
        raise OSError("no such file")

    monkeypatch.setattr(Scenes, "load", absent)
    assert command("export", supervised.path, "--to", "torch.export", "--output", "classes", "--out", tmp_path / "out") == 0
    assert "8 random images" in said(capsys)
    classes = json.loads((tmp_path / "out" / "preprocessing.json").read_text())["classes"]
    assert classes == [str(number) for number in range(len(classes))] and len(classes) > 1


def test_timm_itself_loads_the_standard_width(tmp_path, capsys):
    needed("timm")
    run = tiny(backbone=ResNet(arch="resnet18"), backbone__width=None, epochs=1)
    folder = pretrain(run, tmp_path / "run", QUIET)
    assert command("export", folder.path, "--to", "timm", "--size", "64", "--out", tmp_path / "out") == 0
    assert "Nothing differs from timm's resnet18" in said(capsys)
    images = drawn(64)
    alone = (
        "import timm, torch\nmodel = timm.create_model('local-dir:.', pretrained=True).eval()\n"
        "found = model(torch.from_numpy(images)).detach().numpy()"
    )
    assert off(answers(tmp_path / "out", alone, images), h_of(folder, images)) < 1e-5
    assert "library_name: timm" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("name", "to"), [("convnext_atto", "onnx"), ("vit_tiny_patch16_224", "timm")])
def test_a_run_of_a_timm_model(name, to, tmp_path):
    needed("timm")
    needed(to)
    images = drawn(32)
    backbone = Timm(name, side=32, patch=8 if name.startswith("vit") else 0, drop_path=0.1)
    run = tiny(backbone=backbone, backbone__width=400, data=Scenes(train=16, test=8, size=32), epochs=1)
    folder = pretrain(run, tmp_path / "run", QUIET)
    assert command("export", folder.path, "--to", to, "--out", tmp_path / "out") == 0
    assert off(answers(tmp_path / "out", BY[to], images), h_of(folder, images)) < LIMITS[to]


def test_a_former_export_is_replaced_whole(finished, tmp_path):
    out = tmp_path / "out"
    assert command("export", finished.path, "--to", "torch.export", "--out", out) == 0
    before = (out / "model.pt2").stat().st_ino
    (out / "stray.txt").write_text("of the former export")
    assert command("export", finished.path, "--to", "torch.export", "--out", out) == 0
    assert (out / "model.pt2").stat().st_ino != before and not (out / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_run_is_left_as_it_was(finished, tmp_path):
    path = Path(shutil.copytree(finished.path, tmp_path / "run"))
    before = {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert command("export", path, "--to", "torch_export") == 0
    after = {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file() and "export" not in file.parts}
    assert after == before and (path / "export" / "torch.export" / "model.pt2").exists()
    assert np.isfinite(h_of(RunFolder(path), drawn(16))).all()
