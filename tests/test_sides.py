"""Images above 64 pixels are stored larger than training sees them; whatever looks at them sees the stated side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import tiny

from wingspan import augment, features
from wingspan.data.hub import Hub
from wingspan.loop import pretrain
from wingspan.network import load_network
from wingspan.pretrain import Pretrain, Sitting
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.sheet import contact_sheet


@pytest.fixture
def run(tmp_path: Path) -> Pretrain:
    """A run on 24 photographs' worth of noise, 90 pixels wide, seen at 72."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for at in range(24):
            file = tmp_path / "photos" / split / f"class{at % 2}" / f"{at}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(file)
    data = Hub(path=str(tmp_path / "photos"), size=72, cache=str(tmp_path / "cache"))
    return dataclasses.replace(tiny(batch=8, epochs=1), data=data)


def test_training_watching_and_measuring_see_the_stated_side(run: Pretrain, tmp_path: Path, monkeypatch) -> None:
    stored, seen = [], []

    def watched(made):
        def call(given, images, *rest, **more):
            stored.append(images.shape[-1])
            seen.append(made(given, images, *rest, **more))
            return seen[-1]

        return call

    for name in ("apply", "plain"):
        monkeypatch.setattr(augment, name, watched(getattr(augment, name)))
    folder = RunFolder(tmp_path / "run")
    pretrain(run, folder.path, Sitting(device="cpu"))
    contact_sheet(run, tmp_path / "sheet.png")
    trained = len(seen)
    _, network = load_network(folder, Runtime("cpu"))
    bank = features.bank(network, run.data, "0")
    smaller = features.bank(network, dataclasses.replace(run.data, size=32), "0")
    assert trained > 3 and len(seen) > trained
    shapes = {tuple(view.shape[-2:]) for view in seen}
    assert set(stored) == {82, 32} and shapes == {(72, 72), (32, 32)}
    assert len(bank.train.h) == len(smaller.train.h) == 24
    assert bank.network is not None and bank.network.augment.size == 72


def test_a_size_of_the_augmentation_goes_before_the_images_own(run: Pretrain) -> None:
    assert run.views.size == 72 and run.augment.size == 0
    named = dataclasses.replace(run, augment=dataclasses.replace(run.augment, size=48))
    assert named.views.size == 48 and named.views == named.augment
