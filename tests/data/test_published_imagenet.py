"""ImageNet and ImageNet-9, from tiny folders in exactly the layouts that their publishers ship."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from hub_files import every
from published_files import WNIDS, imagenet9, imagenet_train, imagenet_val, named, save, shown, write
from torch import nn

from wingspan import projector
from wingspan.augment import PRESETS
from wingspan.data.imagenet import ImageNet
from wingspan.data.imagenet9 import VARIANTS, ImageNet9
from wingspan.errors import UserError
from wingspan.features import Bank, Split, extract
from wingspan.measures.backgrounds import Backgrounds
from wingspan.network import Network
from wingspan.runtime import Runtime


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("variants", [VARIANTS, ("original", "mixed_same", "mixed_rand")])
def test_imagenet9_tells_variant_superclass_and_the_picture_whose_object_it_is(tmp_path, variants) -> None:
    found = ImageNet9(folder=str(imagenet9(tmp_path, variants)), size=8).load("test")
    assert named(found, "label") == ["00_dog", "00_dog", "08_fish"] * len(variants)
    assert named(found, "variant") == [name for name in variants for _ in range(3)]
    assert named(found, "source") == ["n02085620_1", "n02086079_2", "n02536864_3"] * len(variants)
    assert torch.equal(every(found), shown(10 * number + index for number in range(len(variants)) for index in range(3)))
    assert bool(found.notes) == (len(variants) < 8)


def test_imagenet9_trains_on_the_originals_with_their_imagenet_classes(tmp_path) -> None:
    data = ImageNet9(folder=str(imagenet9(tmp_path, VARIANTS)), size=8)
    with pytest.raises(UserError, match=rf"{tmp_path}/original/train' is not there.*--data.imagenet"):
        data.load("train")
    for seed, (folder, name) in enumerate((("00_dog", "n02086079_5"), ("00_dog", "n02085620_6"), ("08_fish", "n02536864_7"))):
        save(tmp_path / "original" / "train" / folder / f"{name}.JPEG", seed)
    train = data.load("train")
    assert named(train, "label") == ["00_dog", "00_dog", "08_fish"]
    assert named(train, "fine") == ["n02085620", "n02086079", "n02536864"]
    assert torch.equal(every(train), shown([1, 0, 2]))


def test_imagenet9_trains_on_imagenet_by_the_published_class_map(tmp_path) -> None:
    imagenet_train(tmp_path / "imagenet" / "train", each=2)
    root = imagenet9(tmp_path / "bg_challenge", VARIANTS)
    data = ImageNet9(folder=str(root), imagenet=str(tmp_path / "imagenet"), size=8)
    with pytest.raises(UserError, match=r"in_to_in9.json"):
        data.load("train")
    write(tmp_path / "in_to_in9.json", json.dumps({"0": 0, "1": 0, "2": -1}))
    train = data.load("train")
    assert named(train, "label") == ["00_dog"] * 4 + ["none of the nine"] * 2
    assert named(train, "fine") == [wnid for wnid in WNIDS for _ in range(2)]
    write(tmp_path / "short.json", json.dumps({"0": 0}))
    with pytest.raises(UserError, match=r"maps 1 classes; .* has 3 class folders"):
        replace(data, class_map=str(tmp_path / "short.json")).load("train")


VALIDATION = [WNIDS[2], WNIDS[0], WNIDS[1], WNIDS[0]]


def imagenet_truth(tmp_path, how: str) -> None:
    """Labels of VALIDATION as one of the publishers gives them."""
    if how == "kaggle":
        lines = [f"ILSVRC2012_val_{i:08d},{wnid} 1 2 30 40 {wnid} 5 6 7 8 " for i, wnid in enumerate(VALIDATION, 1)]
        write(tmp_path / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *lines[::-1]]))
    elif how in ("kit", "kit uncompressed"):
        order = [WNIDS[2], WNIDS[0], WNIDS[1], "n00001740"]  # the kit's own numbers, from 1; the last is an inner node
        kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("children", object)]
        table = np.zeros((4, 1), kinds)
        for row, wnid in enumerate(order):
            table[row, 0] = (row + 1, wnid, "déjà, vu", np.arange(row, dtype=np.uint16))
        folder = tmp_path / "ILSVRC2012_devkit_t12" / "data"
        folder.mkdir(parents=True)
        scipy.io.savemat(folder / "meta.mat", {"other": 3.0, "synsets": table}, do_compression=how == "kit")
        numbers = [order.index(wnid) + 1 for wnid in VALIDATION]
        write(folder / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{number}\n" for number in numbers))


@pytest.mark.parametrize("how", ["folders", "kaggle", "kit", "kit uncompressed"])
def test_imagenet_validation_labels_come_from_folders_kaggles_list_or_the_development_kit(tmp_path, how) -> None:
    below = tmp_path / "ILSVRC/Data/CLS-LOC" if how == "kaggle" else tmp_path
    imagenet_train(below / "train")
    imagenet_val(below / "val", VALIDATION, nested=how == "folders")
    imagenet_truth(tmp_path, how)
    data = ImageNet(folder=str(tmp_path), size=8)
    train, test = data.load("train"), data.load("test")
    assert len(train) == 30 and train.classes == test.classes == {"label": WNIDS}
    assert torch.equal(train.labels["label"], torch.arange(3).repeat_interleave(10))
    wanted = {wnid: [901 + i for i, held in enumerate(VALIDATION) if held == wnid] for wnid in WNIDS}
    for label, wnid in enumerate(WNIDS):
        assert torch.equal(every(test)[test.labels["label"] == label], shown(wanted[wnid]))


def test_imagenet_validation_images_without_labels_are_refused(tmp_path) -> None:
    imagenet_train(tmp_path / "train", each=1)
    imagenet_val(tmp_path / "val", VALIDATION, nested=False)
    data = ImageNet(folder=str(tmp_path), size=8)
    write(tmp_path / "ILSVRC2012_validation_ground_truth.txt", "1\n2\n")
    with pytest.raises(UserError, match=r"meta.mat'.*not there"):
        data.load("test")
    write(tmp_path / "meta.mat", "MATLAB 5.0 " + 300 * "x")
    with pytest.raises(UserError, match=r"cannot read ImageNet's classes from .*meta.mat"):
        data.load("test")
    write(tmp_path / "LOC_val_solution.csv", f"ImageId,PredictionString\nILSVRC2012_val_00000001,{WNIDS[0]} 1 2 3 4\n")
    with pytest.raises(UserError, match=r"3 of 4 validation images.*'ILSVRC2012_val_00000002.JPEG' \(not in the list"):
        data.load("test")


def test_imagenet_takes_the_published_subset_of_its_training_images(tmp_path) -> None:
    imagenet_train(tmp_path / "train")
    imagenet_val(tmp_path / "val", VALIDATION, nested=True)
    names = write(tmp_path / "1percent.txt", f"{WNIDS[2]}_4.JPEG\n{WNIDS[0]}_7.JPEG\n")
    data = ImageNet(folder=str(tmp_path), size=8, subset_list=str(names))
    assert torch.equal(every(data.load("train")), shown([7, 204])) and data.load("train").labels["label"].tolist() == [0, 2]
    assert len(data.load("test")) == 4 and data.label_name == "imagenet-1percent"
    write(names, f"{WNIDS[2]}_4.JPEG\nn00000000_1.JPEG\n")
    with pytest.raises(UserError, match=r"1 of 2 names are not among the 30 training images, first 'n00000000_1.JPEG'"):
        data.load("train")
    with pytest.raises(UserError, match="give one of them"):
        replace(data, subset=0.1).load("train")


def test_imagenet_takes_a_share_of_every_class(tmp_path) -> None:
    imagenet_train(tmp_path / "train")
    data = ImageNet(folder=str(tmp_path), size=8, subset=0.2)
    found = data.load("train")
    assert found.labels["label"].bincount().tolist() == [2, 2, 2] and torch.equal(every(found), every(data.load("train")))
    assert data.label_name == "imagenet-20percent"
    with pytest.raises(UserError, match=r"--data.subset 1.5"):
        replace(data, subset=1.5).load("train")


def test_the_measure_of_backgrounds_finds_in_imagenet9_what_it_needs(tmp_path) -> None:
    data = ImageNet9(folder=str(imagenet9(tmp_path, VARIANTS)), size=8)
    for seed in range(9):
        folder, wnid = (("00_dog", "n02086079"), ("00_dog", "n02085620"), ("08_fish", "n02536864"))[seed % 3]
        save(tmp_path / "original" / "train" / folder / f"{wnid}_{seed}.JPEG", seed)
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(trunk, PRESETS["paper"], Runtime("cpu", "fp32"), projector.build("6-4", 8), "made")
    splits = []
    for images in (data.load("train"), data.load("test")):
        made = extract(network, images, label="test")
        splits.append(Split(made["h"], images, made))
    found = Backgrounds(epochs=1).measure(Bank("imagenet9", *splits, "0", network, data), 0)
    assert [number.task for number in found.numbers[:-1]] == [name.replace("_", "-") for name in VARIANTS]
    assert found.numbers[-1].metric == "background accuracy gap" and found.numbers[-1].n == 3
    assert not found.notes, "the gap's pairs are known: a note would say that none are"
