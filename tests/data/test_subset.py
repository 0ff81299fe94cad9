"""A few training images of another set, drawn by class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wingspan import members
from wingspan.data.base import placed
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes
from wingspan.data.subset import Subset, shares
from wingspan.errors import UserError

SET = Scenes(train=300, test=20, size=16, imbalance=10.0)
NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize("count", [4, 5, 7, 100, 500, 1053, 1054])
def test_every_class_gets_its_share_and_at_least_one(count: int) -> None:
    sizes = torch.tensor([1000, 50, 3, 1])
    labels = torch.repeat_interleave(torch.arange(4), sizes)[torch.randperm(1054, generator=torch.Generator().manual_seed(1))]
    rows = shares(labels, count, 0, NAMES)
    found = torch.bincount(labels[rows], minlength=4)
    assert len(rows.unique()) == count and torch.equal(rows, rows.sort().values)
    assert (found >= 1).all() and (found <= sizes).all()
    fair = (sizes * count / 1054).clamp(min=1)
    assert (found - fair).abs().max() <= 4 if count < 100 else (found - fair).abs().max() < 2


def test_equal_classes_get_equal_shares_and_draws_differ() -> None:
    labels = torch.arange(120) % 4
    first, again, other = (shares(labels, 40, draw, NAMES) for draw in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.bincount(labels[other]).tolist() == [10] * 4
    assert set(shares(labels, 8, 0, NAMES).tolist()) <= set(first.tolist())


def test_what_is_loaded_are_the_images_and_labels_at_the_rows() -> None:
    whole, some = SET.load("train"), Subset(SET, 60, 3).load("train")
    rows = some.rows
    assert rows is not None and len(some) == 60
    asked = torch.tensor([5, 0, 59])
    assert torch.equal(some.images.batch(asked), whole.images.batch(rows[asked]))
    assert some.images.side == 16 and len(some.images) == 60
    for task, values in whole.labels.items():
        assert torch.equal(some.labels[task], values[rows])
    for name, values in whole.quantities.items():
        assert torch.equal(some.quantities[name], values[rows])
    tested = Subset(SET, 60).load("test")
    assert torch.equal(tested.task()[0], SET.load("test").task()[0]) and len(tested) == 20


@pytest.mark.parametrize("count", [3, 301])
def test_too_few_or_too_many_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} labelled images cannot be drawn from 300 images of 12 classes"):
        Subset(SET, count).load("train")


def test_its_own_set_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert placed(Subset(Hub(path="photos"), 7)) == Subset(Hub(path=str(tmp_path / "photos")), 7)
    assert members.plain(Subset(Hub(path="photos", cache="here"), 7)) == Subset(Hub(path=str(tmp_path / "photos")), 7)
    assert placed(SET) == SET
