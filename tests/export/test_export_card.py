"""The model card and preprocessing.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import command

from wingspan import augment, spec
from wingspan.data._decode import decode
from wingspan.data.hub import Hub
from wingspan.data.subset import Subset
from wingspan.export._card import card, picture
from wingspan.export._preprocessing import crop_mode, preprocessing
from wingspan.export.base import Checked, Subject
from wingspan.measures.base import Measure, Number
from wingspan.pretrain import Pretrain
from wingspan.results import about, result_file
from wingspan.runs import RunFolder, write_json

NAMED = Hub(name="someone/cats", size=32)


def subject(data: Hub, folder: Path, side: int = 32, **more) -> Subject:
    run = spec.override(Pretrain(), {"data": data, "backbone.width": 4096, **more})
    return Subject(
        RunFolder(folder), run, "0123456789", 300, torch.nn.Linear(1, 1), None, (), side, torch.zeros(1, 3, side, side), "none"
    )


def front(text: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    text = card(subject(NAMED, tmp_path), Checked(1e-6, "by eye", "load()", library="onnx"))
    assert front(text) == {
        "library_name": "onnx",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["wingspan", "simclr", "resnet50"],
        "datasets": ["someone/cats"],
    }
    assert "# resnet50, D = 4096" in text and "by eye; the largest difference is 1.0e-06" in text
    assert "300 steps (training was not finished: 100 epochs were planned)" in text


def test_results_are_told_with_their_errors_but_not_those_of_an_earlier_checkpoint(tmp_path):
    made = subject(NAMED, tmp_path)
    numbers = (
        Number("accuracy", "breed", 0.4567, 1000, 12, 0.0833, error=0.0158),
        Number("rank", "", 123.4, 1000, series="h"),
        Number("r2", "weight", 0.25, 1000, error=0.01234),
    )
    for name, step, given in (("linear", 300, numbers), ("knn", 200, numbers)):
        measure = spec.named(Measure, name)
        said = about("0123456789", step, NAMED, "breed", measure, 0)
        write_json(result_file(made.folder, NAMED, measure), {**said, "numbers": spec.to_json(list(given)), "curves": []})
    text = card(made, Checked(0.0, "", ""))
    assert "| linear | cats | breed | accuracy | 45.7% ± 1.6 | 1,000 | 8.3% |" in text
    assert "| linear | cats |  | rank (h) | 123.4 | 1,000 |  |" in text
    assert "| linear | cats | weight | r2 | 0.25 ± 0.012 | 1,000 |  |" in text
    assert "knn" not in text


def test_a_path_is_no_ones_business(tmp_path):
    text = card(subject(Hub(path="/home/jo/secret photos", size=32), tmp_path), Checked(0.0, "", ""))
    assert "/home/jo" not in text and '"size": 32' not in text  # its default
    assert "datasets" not in front(text) and "Trained on secret photos with simclr" in text


def test_labels_drawn_from_a_set_of_the_hub_name_it(tmp_path):
    assert front(card(subject(Subset(NAMED, 70), tmp_path), Checked(0.0, "", "")))["datasets"] == ["someone/cats"]


def test_nor_is_that_of_a_set_drawn_from_another(tmp_path):
    text = card(subject(Subset(Hub(path="/home/jo/photos", size=32), 70), tmp_path), Checked(0.0, "", ""))
    assert "/home/jo" not in text and '"images": 70' in text


def test_what_a_fine_tuned_classifier_was_worth_is_told_of_its_own_checkpoint_only(tmp_path):
    made = subject(NAMED, tmp_path)
    one = {"accuracy": 0.428, "error": 0.005, "interval": [0.418, 0.438], "balanced_accuracy": 0.421}
    found = {
        "run": made.fingerprint,
        "step": 300,
        "what": "whole",
        "labels": {"cat": 600, "dog": 400},
        "n": 10000,
        "chance": 0.6,
    }
    found |= {"data": {"name": "cats"}, "now": one, "began": one | {"accuracy": 0.412}}
    write_json(tmp_path / "finetuned.json", found)
    text = card(made, Checked(0.0, "", ""))
    assert "fine-tuned on 1,000 labelled images (whole): **42.8% ± 0.5** (95 % interval 41.8 to 43.8) of 10,000 test" in text
    assert "began with: 41.2% ± 0.5" in text and "Nothing was measured" not in text
    write_json(tmp_path / "finetuned.json", found | {"step": 200})
    assert "42.8%" not in card(made, Checked(0.0, "", ""))


def test_a_finished_run_tells_its_epochs(finished, tmp_path):
    path = Path(shutil.copytree(finished.path, tmp_path / "run"))
    assert command("export", path, "--to", "safetensors") == 0
    text = (path / "export" / "safetensors" / "README.md").read_text()
    assert "Trained on scenes with simclr for 2 epochs." in text
    assert "Nothing was measured on this checkpoint yet: `wingspan measure run`" in text


@pytest.mark.parametrize("size", [(50, 40), (33, 70)])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_lines_on_the_card_do_to_a_picture_what_training_did(fit, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide, high = size
    pixels = np.random.default_rng(0).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save("picture.png")
    data = Hub(path="photos", size=32, fit=fit)
    made = subject(data, tmp_path)
    Path("preprocessing.json").write_text(json.dumps(preprocessing(made)))
    names: dict = {}
    exec(picture(made), names)
    found = names["preprocess"](Image.open("picture.png"))
    stored = torch.from_numpy(decode(Path("picture.png").read_bytes(), data.stored, fit))
    stored = stored if stored.shape[0] == 3 else stored.permute(2, 0, 1)
    wanted = augment.plain(made.run.views, stored[None])
    assert found.dtype == np.float32 and found.shape == (1, 3, 32, 32)
    assert np.abs(found - wanted.numpy()).max() < 1e-5
    assert crop_mode(made) == {"crop": "center", "squash": "squash", "pad": "border"}[fit]


def test_two_resizings_are_told(tmp_path):
    told = preprocessing(subject(Hub(path="photos", size=224), tmp_path, 224))
    assert told["interpolation"] == "bilinear" and "resized to 256 pixels (bicubic, antialias)" in told["training"]
    told = preprocessing(subject(Hub(path="photos", size=32), tmp_path))
    assert told["interpolation"] == "bicubic" and "training" not in told
