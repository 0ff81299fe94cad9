"""Which row of its source every image is, and what the source calls it."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_files import encoded, every, pair, pngs

from wingspan.data.hub import Hub


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_files_of_a_folder_are_named_by_their_paths(tmp_path):
    for place, data in zip(("ant/a.png", "ant/b.png", "bee/c.png", "bee/d.png"), pngs(4), strict=True):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(data)
    (tmp_path / "bee" / "c.png").write_bytes(b"no picture")
    splits = {split: Hub(path=str(tmp_path), size=8, on_bad="skip").load(split) for split in ("train", "test")}
    names = [name for each in splits.values() for name in each.names()]
    rows = torch.cat([each.rows for each in splits.values()])
    assert sorted(names) == [str(tmp_path / place) for place in ("ant/a.png", "ant/b.png", "bee/d.png")], (
        "the broken one is out"
    )
    order = ["ant/a.png", "ant/b.png", "bee/c.png", "bee/d.png"]
    assert names == [str(tmp_path / order[row]) for row in rows.tolist()]


def test_names_beside_bytes_are_kept_and_follow_their_images(tmp_path):
    cells = [{"bytes": data, "path": f"{name}.png"} for name, data in zip("stuvwxyz", pngs(8), strict=True)]
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"image": pa.array(cells, datasets.Image().pa_type), "label": [0, 1] * 4}), tmp_path / f"{split}.parquet"
        )
    whole, some = Hub(path=str(tmp_path), size=8).load("train"), Hub(path=str(tmp_path), size=8, limit_train=4).load("train")
    assert list(whole.names()) == [f"{name}.png" for name in "stuvwxyz"]
    assert list(some.names()) == [f"{'stuvwxyz'[row]}.png" for row in some.rows.tolist()] and len(some.names()) == 4
    assert torch.equal(every(some), every(whole)[some.rows])
    taken = some.take(torch.tensor([2, 0]))
    assert list(taken.names()) == [some.names()[2], some.names()[0]] and torch.equal(taken.rows, some.rows[[2, 0]])


def test_images_without_names_have_rows_only(tmp_path):
    found = pair(tmp_path / "bugs").load("test")
    assert found.names is None and found.rows.tolist() == [0, 1, 2, 3]
    bare = pa.table({"image": pa.array([encoded(torch.full((8, 8, 3), i, dtype=torch.uint8).numpy()) for i in range(4)])})
    pq.write_table(bare, tmp_path / "train.parquet")
    assert Hub(path=str(tmp_path / "train.parquet"), size=8).load("train").names is None
