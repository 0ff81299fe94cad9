"""Reading image sets: every layout, the labels, the splits, and every mistake a user can make."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_files import encoded, every, pair, parquet, picture, pixels, pngs

from wingspan.data import _source
from wingspan.data.hub import Hub, stratified
from wingspan.errors import UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WINGSPAN_CACHE", str(folder))
    return folder


# ---- layouts ----


def test_parquet_gives_images_labels_and_classes(tmp_path):
    hub = pair(tmp_path / "bugs")
    train, test = hub.load("train"), hub.load("test")
    assert torch.equal(every(train), pixels(6)) and torch.equal(every(test), pixels(4, 50))
    assert train.labels["label"].tolist() == [0, 1, 2, 0, 1, 2] and test.labels["label"].tolist() == [2, 1, 0, 0]
    assert train.classes == test.classes == {"label": ("ant", "bee", "cat")} and train.target == "label"
    assert (hub.side, hub.label_name, train.notes) == (8, "bugs", ())


@pytest.mark.parametrize("names", [["train-00000-of-00002", "train-00001-of-00002"], ["train/a", "train/b"], ["x", "y"]])
def test_parquet_shards_are_joined_in_order(tmp_path, names):
    for part, name in enumerate(names):
        parquet(tmp_path / f"{name}.parquet", pngs(3, 3 * part))
    parquet(tmp_path / "validation.parquet", pngs(2, 50))
    hub = Hub(path=str(tmp_path), size=8)
    assert torch.equal(every(hub.load("train")), pixels(6)) and torch.equal(every(hub.load("test")), pixels(2, 50))


def test_parquet_too_large_for_memory_is_read_alike_and_never_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(_source, "IN_MEMORY", 0)
    hub = pair(tmp_path / "a[1] b")
    assert torch.equal(every(hub.load("train")), pixels(6))
    parquet(tmp_path / "a[1] b" / "train.parquet", pngs(6, 100), label=([0] * 6, ["ant", "bee", "cat"]))
    assert torch.equal(every(hub.load("train")), pixels(6, 100))


@pytest.mark.parametrize("inside", [("train", "val"), ("", None)])
def test_class_folders(tmp_path, inside):
    train, test = inside
    for name, seeds in {"bee": range(3), "ant": range(10, 24)}.items():
        for seed in seeds:
            for folder, shift in ((train, 0), (test, 50)):
                if folder is not None:
                    place = tmp_path / folder / name
                    place.mkdir(parents=True, exist_ok=True)
                    (place / f"{seed:03}.png").write_bytes(encoded(picture(seed + shift)))
    found = Hub(path=str(tmp_path), size=8).load("train")
    assert found.classes["label"] == ("ant", "bee")
    if test is not None:
        assert torch.equal(every(found), torch.cat([pixels(14, 10), pixels(3)]))
        assert found.labels["label"].tolist() == [0] * 14 + [1] * 3
        return
    held = Hub(path=str(tmp_path), size=8).load("test")
    assert (len(found), len(held)) == (15, 2) and "10% of the 17 images of 'train' held out" in held.notes[0]


def test_pictures_without_class_folders_have_no_labels(tmp_path):
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(encoded(picture(seed)))
    (tmp_path / "notes.txt").write_text("not a picture")
    found = Hub(path=str(tmp_path), size=8, split_train="train").load("train")
    assert (found.target, dict(found.labels), len(found)) == (None, {}, 3)
    assert any("no label column" in note for note in found.notes)


def test_webdataset(tmp_path):
    for split, start in (("train", 0), ("test", 50)):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for i in range(6):
                image = b"torn" if (split, i) == ("train", 4) else encoded(picture(start + i))
                for kind, data in (("png", image), ("cls", str(i % 2).encode())):
                    info = tarfile.TarInfo(f"{i:03}.{kind}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    found = Hub(path=str(tmp_path), size=8).load("test")
    assert torch.equal(every(found), pixels(6, 50))
    assert (found.target, found.classes["cls"], found.labels["cls"].tolist()) == ("cls", ("0", "1"), [0, 1] * 3)
    with pytest.raises(UserError, match=r"row 4, '004' in '.*train\.tar' \(not an image"):
        Hub(path=str(tmp_path), size=8).load("train")


def test_tables_call_a_set_by_its_last_name():
    names = {"a/pets/": "pets", "pets/train.parquet": "pets", "x/birds.parquet": "birds", "x/y": "y"}
    assert {path: Hub(path=path).label_name for path in names} == names
    assert Hub(name="uoft-cs/cifar10").label_name == "cifar10" and Hub().label_name == "hub"


def test_a_hub_id_is_read_by_datasets(monkeypatch):
    def rows(start: int, count: int):
        cells = [{"bytes": cell, "path": None} for cell in pngs(count, start)]
        features = datasets.Features(img=datasets.Image(), fine_label=datasets.ClassLabel(names=["x", "y"]))
        return datasets.Dataset.from_dict({"img": cells, "fine_label": [i % 2 for i in range(count)]}, features)

    asked = []
    given = datasets.DatasetDict(train=rows(0, 6), test=rows(50, 4))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: asked.append((name, config)) or given)
    hub = Hub(name="someone/pets", config="small", size=8)
    found = hub.load("test")
    assert asked == [("someone/pets", "small")] and hub.label_name == "pets" and found.target == "fine_label"
    assert torch.equal(every(found), pixels(4, 50))


def test_a_hub_id_that_cannot_be_read_is_quoted(monkeypatch, tmp_path):
    def fail(*_):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"cannot read 'no/such' from the Hugging Face hub: Couldn't reach the Hub\. Check"):
        Hub(name="no/such").load("train")
    assert datasets.is_progress_bar_enabled()  # silenced for us, not for the rest of the process
    with pytest.raises(UserError, match=r"to read it, say --data\.path"):
        Hub(name=str(tmp_path)).load("train")


# ---- labels ----


def test_classes_mean_the_same_in_train_and_test(tmp_path):
    train = {"word": ["b", "b", "d", "d"] * 2, "count": [3, 10, 3, 10] * 2, "flag": [True, False] * 4}
    test = {"word": ["a", "d"] * 4, "count": [10, 9] * 4, "flag": [True] * 8}
    parquet(tmp_path / "train.parquet", pngs(8), kind=([0, 1] * 4, ["x", "y"]), **train)
    parquet(tmp_path / "test.parquet", pngs(8, 50), kind=([0, 1] * 4, ["y", "x"]), **test)
    sets = {"train": Hub(path=str(tmp_path), size=8).load("train"), "test": Hub(path=str(tmp_path), size=8).load("test")}
    assert sets["train"].classes == sets["test"].classes
    assert sets["train"].classes["count"] == ("3", "9", "10") and sets["train"].classes["word"] == ("a", "b", "d")
    written = {"train": {**train, "kind": ["x", "y"] * 4}, "test": {**test, "kind": ["y", "x"] * 4}}
    for split, columns in written.items():
        for task, values in columns.items():
            labels, classes = sets[split].task(task)
            assert [classes[label] for label in labels] == [str(value) for value in values]
    notes = " ".join(sets["test"].notes)
    assert "1 classes of 'word' in split 'test' are not in 'train': 'a'" in notes
    assert sets["test"].target is None and "no telling which is the target: kind, word, count, flag" in notes
    assert Hub(path=str(tmp_path), size=8, label="word").load("test").target == "word"


def test_ids_are_no_classes_and_measurements_are_quantities(tmp_path):
    columns = {"class_id": [1, 2, 1, 2], "name": list("wxyz"), "age": [0.5, 1.0, 0.5, 1.0], "part": list("mmnn")}
    file = parquet(tmp_path / "all.parquet", pngs(4), **columns)
    found = Hub(path=str(file), size=8).load("train")
    assert set(found.classes) == {"class_id", "part"}
    assert found.notes[0] == "columns not used as labels: name (nearly a value an image)"
    held = [round(float(value), 1) for value in found.quantities["age"]]
    assert set(found.quantities) == {"age"} and set(held) == {0.5, 1.0} and found.quantities["age"].dtype == torch.float32
    assert Hub(path=str(file), size=8, label="name").load("train").classes["name"] == tuple("wxyz")
    with pytest.raises(UserError, match="column 'age' holds float64, not classes"):
        Hub(path=str(file), size=8, label="age").load("train")


def test_a_split_without_values_goes_without_the_task(tmp_path):
    parquet(tmp_path / "train.parquet", pngs(4), label=([0, 1, 0, 1], ["x", "y"]))
    parquet(tmp_path / "test.parquet", pngs(3), label=([-1, 0, -1], ["x", "y"]))
    found = Hub(path=str(tmp_path), size=8).load("test")
    assert found.target is None and "no value in 2 of 3 rows (first: 0)" in found.notes[-1]
    with pytest.raises(UserError, match="'label' of split 'test' has no value in 2 of 3 rows"):
        Hub(path=str(tmp_path), size=8, label="label").load("test")


# ---- holding out and limits ----


def test_a_stratified_tenth_is_held_out_alike_every_time(tmp_path):
    labels = [0] * 60 + [1] * 30 + [2] * 10
    file = parquet(tmp_path / "set.parquet", pngs(100), label=(labels, ["x", "y", "z"]))
    hub = Hub(path=str(file), size=8)
    train, test = hub.load("train"), hub.load("test")
    assert torch.bincount(test.labels["label"]).tolist() == [6, 3, 1] and len(train) == 90
    together = torch.cat([every(train), every(test)]).flatten(1)
    assert len(torch.unique(together, dim=0)) == 100
    assert torch.equal(every(test), every(dataclasses.replace(hub, workers=1, cache_gb=0.0).load("test")))
    chosen = [i for i in range(100) if (pixels(100)[i] == every(test)).flatten(1).all(1).any()]
    assert chosen == [17, 32, 40, 43, 46, 55, 72, 84, 87, 96]  # the same on every machine


def test_limits_are_stratified_and_repeat(tmp_path):
    hub = pair(tmp_path, limit_train=3, limit_test=2)
    train = hub.load("train")
    assert sorted(train.labels["label"].tolist()) == [0, 1, 2]
    assert torch.equal(every(train), every(hub.load("train"))) and len(hub.load("test")) == 2
    assert len(pair(tmp_path, limit_train=99).load("train")) == 6


def test_stratified_gives_every_label_its_share():
    labels = np.array([0] * 7 + [1] * 2 + [5] * 11)
    for count in range(1, 21):
        chosen = stratified(labels, 20, count, "try")
        assert len(set(chosen.tolist())) == count and (np.diff(chosen) > 0).all()
        for label, size in ((0, 7), (1, 2), (5, 11)):
            assert abs((labels[chosen] == label).sum() - size * count / 20) < 1


# ---- what users get wrong ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither given"),
        ({"name": "a/b", "path": "set"}, "both --data.name 'a/b' and --data.path"),
        ({"path": "set", "config": "small"}, "--data.config 'small' is for hub ids"),
        ({"path": "set", "size": 0}, "--data.size 0 must be at least 1"),
        ({"path": "set", "size": 8, "store": 4}, "--data.store 4"),
        ({"path": "set", "limit_train": -1}, "--data.limit-train -1 must not be negative"),
        ({"path": "setx"}, "setx' does not exist"),
        ({"path": "text/a.csv"}, "a.csv' is neither a folder"),
        ({"path": "empty"}, "no images in '.*empty': it holds nothing"),
        ({"path": "text"}, "it holds .csv"),
        ({"path": "set", "split_train": "trian"}, "no split 'trian' in .* found test, train. Did you mean 'train'"),
        ({"path": "set", "split_test": "tset"}, "no split 'tset'.*Did you mean 'test'.*--data.split-test"),
        ({"path": "set", "split_test": "train"}, "are both 'train'"),
        ({"path": "set", "image": "imag"}, r"no column 'imag'.*Did you mean 'image'.*image \(Image\), label \(int64\)"),
        ({"path": "set", "image": "label"}, "column 'label' in .* holds int64, not images"),
        ({"path": "set", "label": "lable"}, "no label column 'lable'. Did you mean 'label'.*train: image"),
        ({"path": "none.parquet"}, r"no image column in .*a \(int64\), b \(string\)"),
        ({"path": "rowless.parquet"}, "too few images"),
        ({"path": "torn.parquet"}, "cannot read the Parquet files '.*torn.parquet'"),
        ({"path": "torn.tar"}, "cannot read '.*torn.tar' as webdataset"),
    ],
)
def test_mistakes_are_quoted_with_what_to_do(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    pair(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.csv").write_text("1")
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "rowless.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "torn.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match=message):
        Hub(**options).load("train")


# ---- real sets ----


@pytest.mark.parametrize(
    ("name", "tasks", "target"),
    [
        ("cifar10", {"label": 10}, "label"),
        ("clevr_rerender", {"count": 8, "count_label": 8, "distance_label": 6}, None),
        ("tinyimagenet100", {"label": 100}, "label"),
        ("tiny_in9", {"label": 9, "variant": 8, "fine": 100}, "label"),
        ("mnist", {"label": 10}, "label"),
    ],
)
def test_real_sets(name, tasks, target):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the image set '{name}' in ../shared/data")
    found = Hub(path=str(SHARED / name), size=32, limit_train=20, limit_test=20).load("test")
    assert {task: len(classes) for task, classes in found.classes.items()} == tasks and found.target == target
    assert set(found.quantities) == ({"distance"} if name == "clevr_rerender" else set())
    assert found.images.batch(torch.arange(20)).shape == (20, 3, 32, 32) and every(found).float().std() > 20
