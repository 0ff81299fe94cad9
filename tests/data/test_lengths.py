"""How many images there are is told without decoding, downloading or writing, and is what loading gives."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from wingspan.data import _lengths
from wingspan.data._lengths import length
from wingspan.data.cifar import Cifar
from wingspan.data.hub import Hub
from wingspan.data.imagenet import ImageNet
from wingspan.data.inat18 import Inat18
from wingspan.data.scenes import Scenes


@pytest.fixture
def pets(tmp_path) -> Path:
    """40 pictures in class folders, without a test split."""
    for at in range(40):
        file = tmp_path / "pets" / ("cat" if at % 4 else "dog") / f"{at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (at, 100, 0)).save(file)
    return tmp_path / "pets"


@pytest.mark.parametrize("limit", [0, 10])
def test_pictures_are_counted_as_loading_does(pets, tmp_path, limit):
    data = Hub(path=str(pets), size=16, limit_train=limit, cache=str(tmp_path / "cache"))
    found = length(data)
    assert not (tmp_path / "cache").exists()
    images = data.load("train")
    assert found.images == len(images) == (limit or 36) and found.labels.tolist() == images.task()[0].tolist()


@pytest.mark.parametrize("limit", [0, 10])
@pytest.mark.parametrize("large", [False, True], ids=["read", "by its metadata"])
def test_parquet_is_counted_as_loading_does(tmp_path, monkeypatch, limit, large):
    cells = [{"bytes": b"no picture at all", "path": None}] * 30
    for split, n in (("train", 30), ("test", 12)):
        rows = {"image": cells[:n], "label": [at % 3 for at in range(n)]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    if large:
        monkeypatch.setattr(_lengths, "IN_MEMORY", 1)
    found = length(Hub(path=str(tmp_path), limit_train=limit, cache=str(tmp_path / "cache")))
    assert found.images == (limit or 30) and (found.labels is None) == large and not (tmp_path / "cache").exists()


def test_what_a_download_left_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert length(Hub(name="me/mine")) is None
    record = tmp_path / "me___mine/default/0.0.0/abc/dataset_info.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"splits": {"train": {"num_examples": 200}, "test": {"num_examples": 20}}}))
    assert length(Hub(name="me/mine")).images == 200
    record.write_text(json.dumps({"splits": {"train": {"num_examples": 200}}}))
    assert length(Hub(name="me/mine")).images == 180  # a tenth is held out
    assert length(Hub(name="me/mine", limit_train=50)).images == 50


def test_published_numbers_where_the_images_are_not(tmp_path):
    assert length(Hub(name="ILSVRC/imagenet-1k", split_test="validation")).images == 1_281_167
    assert length(Hub(name="uoft-cs/cifar10", limit_train=20_000)).images == 20_000
    assert length(Inat18()).images == 437_513
    assert length(ImageNet(subset=0.01)).images == 12_812
    assert (length(Cifar(classes=100)).images, length(Cifar(classes=100)).classes) == (50_000, 100)
    assert length(Hub(name="uoft-cs/cifar10", split_train="odd")) is None
    assert length(ImageNet(subset_list="1percent.txt")) is None
    assert length(Hub(path=str(tmp_path / "absent"))) is None


def test_scenes_know_their_labels_without_being_drawn():
    data = Scenes(train=60, size=16, imbalance=3.0)
    images = data.load("train")
    assert length(data).images == 60 and length(data).labels.tolist() == images.task()[0].tolist()
