"""Float columns become quantities; pictures that are not square are shown whole where that is asked for."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_files import every, parquet, pixels, pngs
from PIL import Image

from wingspan.data.hub import Hub

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_float_columns_are_quantities_and_change_no_guess(tmp_path, kind):
    for name, count, start in (("train", 6, 0), ("test", 4, 50)):
        age = pa.array(np.arange(count, dtype=np.float16) / 4 - 0.5).cast(kind)
        parquet(tmp_path / f"{name}.parquet", pngs(count, start), target=age, kind=([0, 1] * (count // 2), ["x", "y"]))
    train, test = (Hub(path=str(tmp_path), size=8).load(split) for split in ("train", "test"))
    assert train.quantities["target"].tolist() == [-0.5, -0.25, 0, 0.25, 0.5, 0.75] and train.notes == ()
    assert test.quantities["target"].tolist() == [-0.5, -0.25, 0, 0.25] and test.target == "kind"
    assert train.quantities["target"].dtype == torch.float32 and set(train.classes) == {"kind"}


@pytest.mark.parametrize("gap", [None, float("nan"), float("inf"), 1e300])
def test_a_quantity_with_gaps_is_left_out_of_that_split(tmp_path, gap):
    parquet(tmp_path / "train.parquet", pngs(4), age=[1.0, 2.0, 3.0, 4.0], size=[1.0] * 4)
    parquet(tmp_path / "test.parquet", pngs(3), age=[0.5, gap, gap])
    train, test = (Hub(path=str(tmp_path), size=8).load(split) for split in ("train", "test"))
    assert train.quantities["age"].tolist() == [1, 2, 3, 4] and dict(test.quantities) == {}
    assert "column 'age' of split 'test' has no value in 2 of 3 rows (first: 1); it is not used there" in test.notes
    assert "split 'test' has no column 'size'" in test.notes and not any("'age'" in note for note in train.notes)


def test_a_column_of_floats_here_and_text_there_is_left_out(tmp_path):
    parquet(tmp_path / "train.parquet", pngs(4), age=[1.0, 2.0, 3.0, 4.0], when=[[1.0]] * 4)
    parquet(tmp_path / "test.parquet", pngs(2), age=["old", "old"], when=[[1.0]] * 2)
    found = Hub(path=str(tmp_path), size=8).load("train")
    assert dict(found.quantities) == {} and "columns not used as labels: age (float64), when" in found.notes[0]


@pytest.mark.parametrize("cache_gb", [8.0, 0.0])
def test_quantities_stay_with_their_images(tmp_path, cache_gb):
    cells = pngs(100)
    cells[3], cells[41] = b"torn", b""
    brightness = [float(pixels(1, i).float().mean()) if len(cell) > 9 else -1.0 for i, cell in enumerate(cells)]
    file = parquet(tmp_path / "set.parquet", cells, label=([0] * 60 + [1] * 40, ["x", "y"]), brightness=brightness)
    hub = Hub(path=str(file), size=8, on_bad="skip", cache_gb=cache_gb, limit_train=50)
    held = 0
    for options in ({}, {"limit_train": 0}):
        for split in ("train", "test"):
            found = dataclasses.replace(hub, **options).load(split)
            assert torch.allclose(every(found).float().mean((1, 2, 3)), found.quantities["brightness"])
            held = len(found) + (held if split == "test" else 0)
    assert held == 98  # all but the torn ones, in train and test together


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_clevr_shows_its_whole_scene_and_how_far_it_is(fit):
    folder = SHARED / "clevr_rerender"
    if not folder.is_dir():
        pytest.skip("needs the image set 'clevr_rerender' in ../shared/data")
    found = Hub(path=str(folder), size=48, fit=fit, limit_test=12).load("test")
    rows = pq.read_table(folder / "test.parquet").to_pylist()
    bounds = torch.tensor([8, 8.5, 9, 9.5, 10])  # VTAB's, which distance_label counts
    distance, (labels, _) = found.quantities["distance"], found.task("distance_label")
    assert torch.equal(torch.bucketize(distance, bounds, right=True), labels)
    assert {"count_label", "distance_label"} <= set(found.classes)
    by_distance = {np.float32(row["distance"]): row["image"]["bytes"] for row in rows}
    for image, far in zip(every(found), distance.numpy(), strict=True):
        picture = Image.open(io.BytesIO(by_distance[far])).convert("RGB")  # 144 x 96
        small = np.asarray(picture.resize((48, 48 if fit == "squash" else 32), Image.Resampling.BICUBIC), dtype=int)
        shown = image.permute(1, 2, 0).numpy().astype(int)
        assert np.abs((shown if fit == "squash" else shown[8:40]) - small).max() <= 1
