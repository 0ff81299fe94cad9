"""One broken image among very many: found, named, and left out of images and labels alike where that is asked for.

20,000 images here; a million with WINGSPAN_KILLS set.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_runs import command, said

from wingspan.data._cache import Mapped
from wingspan.data._encoded import Encoded
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.runs import RunFolder

COUNT = 1_000_000 if "WINGSPAN_KILLS" in os.environ else 20_000
KINDS = 97  # different pictures, so that one in the wrong place shows
BROKEN = COUNT * 2 // 3 + 1


def cell(kind: int) -> bytes:
    """Two by two pixels of one colour."""
    held = io.BytesIO()
    Image.new("RGB", (2, 2), (kind, 255 - kind, 7)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("many") / "train.parquet"
    cells = [cell(kind) for kind in range(KINDS)]
    images = [cells[at % KINDS] for at in range(COUNT)]
    images[BROKEN] = cells[BROKEN % KINDS][:40]
    pq.write_table(pa.table({"image": images, "label": np.arange(COUNT) % KINDS}), path)
    pq.write_table(pa.table({"image": cells * 4, "label": np.arange(4 * KINDS) % KINDS}), path.with_name("test.parquet"))
    return path


def check(images, labels) -> None:
    """Every image has the colour of its label, and one is missing."""
    assert len(images) == len(labels) == COUNT - 1
    for start in range(0, len(labels), 100_000):
        some = torch.arange(start, min(start + 100_000, len(labels)))
        pixels = images.batch(some)
        assert torch.equal(pixels[:, 0, 0, 0].long(), labels[some]) and bool((pixels[:, 2] == 7).all())


def hub(table: Path, **changes) -> Hub:
    """Tests are a split of their own, so that training is on all rows."""
    return Hub(path=str(table), size=2, split_test="test", **changes)


@pytest.mark.parametrize("at_once", [True, False], ids=["decoded once", "batch by batch"])
def test_it_is_left_out_with_its_label(at_once, table):
    found = hub(table.parent, on_bad="skip", cache_gb=8.0 if at_once else 0.0).load("train")
    assert isinstance(found.images, Mapped if at_once else Encoded)
    check(found.images, found.labels["label"])
    assert found.rows is not None and BROKEN not in found.rows
    assert any(f"1 of {COUNT} images cannot be decoded and are left out: row {BROKEN} of" in note for note in found.notes)


def test_it_is_named_before_training_begins(table):
    with pytest.raises(UserError, match=rf"1 of {COUNT} images cannot be decoded: row {BROKEN} of .*--data\.on-bad skip"):
        hub(table.parent).load("train")


def test_it_is_named_when_its_batch_is_read(table):
    images = hub(table.parent, cache_gb=0.0).load("train").images
    images.batch(torch.arange(BROKEN - 100, BROKEN))
    with pytest.raises(UserError, match=rf"cannot decode row {BROKEN} of .*--data\.on-bad skip"):
        images.batch(torch.arange(BROKEN - 100, BROKEN + 1))


def test_a_run_without_it_trains(table, tmp_path, capsys):
    some = table.parent / "some"
    some.mkdir()
    pq.write_table(pq.read_table(table).slice(BROKEN - 30, 60), some / "train.parquet")
    words = ["pretrain", "--recipe", "small", "--width", "16", "--projector", "16", "--batch", "16", "--epochs", "1"]
    words += ["--data.path", some, "--data.size", "16", "--data.cache-gb", "0", "--out", tmp_path / "run"]
    assert command(*words) == 2 and "row 30 of" in said(capsys)
    assert command(*words, "--data.on-bad", "skip") == 0, said(capsys)
    assert RunFolder(tmp_path / "run").done()
