"""The paper's data sets, from tiny folders in exactly the layouts that their publishers ship."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hub_files import encoded, every, picture
from PIL import Image
from published_files import (
    WNIDS,
    cifar,
    clevr,
    eurosat,
    imagenet_train,
    imagenet_val,
    inat18,
    named,
    places205,
    shown,
    write,
)

from wingspan.data._encoded import Encoded
from wingspan.data.cifar import Cifar
from wingspan.data.clevr import Clevr
from wingspan.data.eurosat import EuroSat
from wingspan.data.imagenet import ImageNet
from wingspan.data.imagenet9 import ImageNet9
from wingspan.data.inat18 import Inat18
from wingspan.data.places205 import Places205
from wingspan.errors import UserError

EVERY = (Cifar, Clevr, EuroSat, ImageNet, ImageNet9, Inat18, Places205)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", EVERY)
def test_without_a_path_or_with_a_wrong_one_the_message_says_where_the_publisher_ships_it(kind, tmp_path) -> None:
    with pytest.raises(UserError, match=r"--data.folder.*https?://"):
        kind().load("train")
    with pytest.raises(UserError, match=rf"'{tmp_path}/nowhere'.*https?://"):
        kind(folder=str(tmp_path / "nowhere")).load("test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"{tmp_path}/empty.*https?://"):
        kind(folder=str(tmp_path / "empty")).load("train")


DEPTHS = [[12.0, 8.0, 15.0], [8.01, 9.0, 9.0, 9.0], [9.0] * 5, [9.2] * 6, [9.51] * 7, [10.0, 11.0, 12.0], [10.5] * 10]


def test_clevr_counts_objects_and_bins_the_nearest_ones_depth_as_vtab_does(tmp_path) -> None:
    data = Clevr(folder=str(clevr(tmp_path, {"train": DEPTHS, "val": DEPTHS[:2]})), size=8)
    train, test = data.load("train"), data.load("test")
    assert (len(train), len(test)) == (7, 2) and train.target == "count"
    assert named(train, "count") == ["3", "4", "5", "6", "7", "3", "10"]
    nearest = [min(objects) for objects in DEPTHS]
    thresholds = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0])  # VTAB: the last threshold that the distance exceeds
    assert train.labels["distance"].tolist() == [int(np.where(thresholds - depth < 0)[0].max()) for depth in nearest]
    assert len(train.classes["distance"]) == 6 and len(train.classes["count"]) == 8
    assert train.quantities["depth"].tolist() == pytest.approx(nearest)


def test_clevr_shows_the_whole_picture_squashed(tmp_path) -> None:
    data = Clevr(folder=str(clevr(tmp_path, {"train": DEPTHS[:1], "val": DEPTHS[:1]})), size=8)
    whole = Image.fromarray(picture(500, width=12)).resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(every(data.load("train"))[0], torch.from_numpy(np.array(whole)).permute(2, 0, 1))
    assert not torch.equal(every(replace(data, fit="crop").load("train")), every(data.load("train")))


def test_clevr_keeps_a_skipped_pictures_numbers_out(tmp_path) -> None:
    data = Clevr(folder=str(clevr(tmp_path, {"train": DEPTHS, "val": DEPTHS})), size=8, on_bad="skip")
    (tmp_path / "images" / "train" / "CLEVR_train_000001.png").unlink()
    train = data.load("train")
    assert named(train, "count") == ["3", "5", "6", "7", "3", "10"]
    assert train.quantities["depth"].tolist() == pytest.approx([min(each) for each in DEPTHS[:1] + DEPTHS[2:]])


def test_clevr_of_another_layout_is_refused(tmp_path) -> None:
    root = clevr(tmp_path, {"train": [[9.0] * 11], "val": DEPTHS})
    with pytest.raises(UserError, match=r"CLEVR_train_000000.png' holds 11 objects"):
        Clevr(folder=str(root)).load("train")
    write(root / "scenes" / "CLEVR_val_scenes.json", '{"scenes": [{"image": 3}]}')
    with pytest.raises(UserError, match=r"CLEVR_val_scenes.json' is not CLEVR's.*image_filename"):
        Clevr(folder=str(root)).load("test")
    write(root / "scenes" / "CLEVR_val_scenes.json", '{"scenes": [')
    with pytest.raises(UserError, match=r"CLEVR_val_scenes.json' as JSON"):
        Clevr(folder=str(root)).load("test")


def test_inat18_joins_images_annotations_and_categories_by_their_ids(tmp_path) -> None:
    data = Inat18(folder=str(inat18(tmp_path)), size=8)
    train, test = data.load("train"), data.load("test")
    assert named(train, "label") == ["Corvus", "Bubo", "Corvus", "Corvus", "Corvus"]
    assert named(test, "label") == ["Apus", "Bubo", "Corvus"] and train.classes == test.classes
    assert torch.equal(every(train), shown(range(5000, 5005)))
    assert torch.equal(every(test), shown(range(3000, 3003)))
    (tmp_path / "val2018.json").write_text(
        '{"images": [], "annotations": [{"image_id": 1, "category_id": 3}], "categories": []}'
    )
    with pytest.raises(UserError, match=r"val2018.json' is not iNaturalist's"):
        data.load("test")


def test_places205_reads_the_lists_and_names_classes_by_their_folders(tmp_path) -> None:
    data = Places205(folder=str(places205(tmp_path)), size=8)
    train, test = data.load("train"), data.load("test")
    assert named(train, "label") == ["abbey", "bedroom", "abbey"]
    assert named(test, "label") == ["bedroom", "apartment_building/outdoor"] and train.classes == test.classes
    assert torch.equal(every(train), shown([len("a/abbey/gsun_1.jpg"), 7 + len("b/bedroom/gsun_2.jpg"), 18]))


def test_places205_takes_images_from_a_folder_of_another_name(tmp_path) -> None:
    root = places205(tmp_path, images="elsewhere")
    assert len(Places205(folder=str(root), images="elsewhere", size=8).load("test")) == 2
    with pytest.raises(UserError, match=r"images256'.*not there"):
        Places205(folder=str(root), size=8).load("test")
    write(root / "trainvalsplit_places205" / "val_places205.csv", "a/abbey/x.jpg 0\nb/bedroom/y.jpg\n")
    with pytest.raises(UserError, match=r"val_places205.csv' line 2 is 'b/bedroom/y.jpg'"):
        Places205(folder=str(root), images="elsewhere", size=8).load("test")


@pytest.mark.parametrize("above", [False, True])
def test_cifar10_is_the_binary_versions_records(tmp_path, above) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    records = cifar(folder, 10)
    data = Cifar(folder=str(tmp_path if above else folder))
    train = np.concatenate([records[f"data_batch_{i}.bin"] for i in range(1, 6)])
    for split, wanted in (("train", train), ("test", records["test_batch.bin"])):
        found = data.load(split)
        assert found.target == "label" and found.labels["label"].tolist() == wanted[:, 0].tolist()
        assert torch.equal(every(found), torch.from_numpy(wanted[:, 1:].reshape(-1, 3, 32, 32)))
    assert found.classes["label"] == tuple(f"name{i}" for i in range(10)) and data.label_name == "cifar10"


def test_cifar100_has_fine_and_coarse_labels(tmp_path) -> None:
    records = cifar(tmp_path / "cifar-100-binary", 100)["test.bin"]
    found = Cifar(folder=str(tmp_path), classes=100).load("test")
    assert found.target == "fine_label" and found.labels["fine_label"].tolist() == records[:, 1].tolist()
    assert found.labels["coarse_label"].tolist() == records[:, 0].tolist()
    assert torch.equal(every(found), torch.from_numpy(records[:, 2:].reshape(-1, 3, 32, 32)))
    assert (len(found.classes["fine_label"]), len(found.classes["coarse_label"])) == (100, 20)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_cifars_pickles_are_not_read(tmp_path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    for path in (tmp_path, folder):
        with pytest.raises(UserError, match=r"cifar-10-batches-py' is the Python version.*Take the binary version"):
            Cifar(folder=str(path)).load("train")


def test_cifar_cut_short_or_of_the_other_kind_is_refused(tmp_path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    cifar(folder, 10)
    with pytest.raises(UserError, match="give 10 or 100"):
        Cifar(folder=str(folder), classes=20).load("train")
    whole = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"test_batch.bin' holds 12291 bytes, not whole records of 3073"):
        Cifar(folder=str(folder)).load("test")
    (folder / "test_batch.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(UserError, match=r"label 10 of 'label' and 10 names"):
        Cifar(folder=str(folder)).load("test")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3.bin' is missing"):
        Cifar(folder=str(folder)).load("train")


def test_eurosat_is_divided_the_same_way_every_time(tmp_path) -> None:
    root = eurosat(tmp_path)
    data = EuroSat(folder=str(root), size=8)
    train, test = data.load("train"), data.load("test")
    assert train.labels["label"].bincount().tolist() == [8] * 3 and test.labels["label"].bincount().tolist() == [2] * 3
    assert train.classes["label"] == ("AnnualCrop", "Forest", "SeaLake")
    seen = {image.numpy().tobytes() for image in every(train)} | {image.numpy().tobytes() for image in every(test)}
    assert len(seen) == 30, "every image is in one of the splits"
    again = EuroSat(folder=str(root / "2750"), size=8).load("test")
    assert torch.equal(every(again), every(test))


def test_limits_broken_images_store_and_the_cache_behave_as_in_hub(tmp_path) -> None:
    root = imagenet_train(tmp_path / "set" / "train").parent
    data = ImageNet(folder=str(root), size=8)
    assert replace(data, limit_train=6).load("train").labels["label"].bincount().tolist() == [2, 2, 2]
    assert replace(data, store=10).load("train").images.side == 10 and data.side == 8
    imagenet_val(root / "val", WNIDS, nested=True)
    assert len(replace(data, limit_test=2).load("test")) == 2 and len(data.load("test")) == 3
    large = replace(data, cache_gb=0).load("train")
    assert isinstance(large.images, Encoded), "a set larger than the cache takes is decoded as its batches are asked for"
    assert torch.equal(every(large), every(data.load("train")))
    broken = root / "train" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG"
    broken.write_bytes(encoded(picture(3))[:60])
    with pytest.raises(UserError, match=r"1 of 30 images cannot be decoded: .*n02085620_3.JPEG"):
        data.load("train")
    for cache_gb in (0.0, 8.0):
        kept = replace(data, on_bad="skip", cache_gb=cache_gb).load("train")
        assert kept.labels["label"].bincount().tolist() == [9, 10, 10] and any("left out" in note for note in kept.notes)
        assert torch.equal(every(kept), shown([s for s in (*range(10), *range(100, 110), *range(200, 210)) if s != 3]))


def test_a_list_whose_images_are_elsewhere_is_refused_by_name(tmp_path) -> None:
    root = clevr(tmp_path, {"train": DEPTHS, "val": DEPTHS})
    for file in (root / "images" / "train").iterdir():
        file.rename(root / file.name)
    with pytest.raises(UserError, match=r"none of the 7 listed images exists; the first would be .*CLEVR_train_000000.png'"):
        Clevr(folder=str(root), size=8).load("train")


def test_a_published_set_says_where_its_images_lie_and_how_large_it_keeps_them(tmp_path) -> None:
    data = EuroSat(folder=str(eurosat(tmp_path)), size=80)
    images = data.load("train")
    assert images.images.side == data.stored == round(80 * 8 / 7)
    assert images.names is not None and images.rows is not None
    files = images.names()
    assert len(files) == len(images) and all(file.startswith(str(tmp_path)) and file.endswith(".jpg") for file in files)
    labels, classes = images.task()
    assert [classes[label] in file for label, file in zip(labels.tolist(), files, strict=True)] == [True] * len(files)
