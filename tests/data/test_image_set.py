"""An image set refuses labels that do not belong to its images."""

from __future__ import annotations

import pytest
import torch

from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError

IMAGES = InMemory(torch.zeros(4, 3, 2, 2, dtype=torch.uint8))


def made(labels: list[int], target: str | None = "kind") -> ImageSet:
    return ImageSet(IMAGES, {"kind": torch.tensor(labels)}, {"kind": ("cat", "dog")}, target)


def test_labels_of_another_length_or_range_are_refused() -> None:
    with pytest.raises(UserError, match="3 values for 4 images"):
        made([0, 1, 0])
    with pytest.raises(UserError, match=r"outside 0\.\.1: found 0\.\.2"):
        made([0, 1, 2, 0])
    with pytest.raises(UserError, match=r"found -1\.\.1"):
        made([0, 1, -1, 0])


def test_a_task_is_found_by_name_and_the_nearest_is_named() -> None:
    labels, classes = made([0, 1, 1, 0]).task()
    assert labels.tolist() == [0, 1, 1, 0] and classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"no task 'kin'.*Did you mean 'kind'"):
        made([0, 1, 1, 0]).task("kin")
    with pytest.raises(UserError, match="no labels"):
        ImageSet(IMAGES).task()


def test_a_subset_keeps_images_and_labels_together() -> None:
    images = InMemory(torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2))
    taken = ImageSet(images, {"kind": torch.tensor([0, 1, 1, 0])}, {"kind": ("cat", "dog")}, "kind").take(torch.tensor([2, 0]))
    assert len(taken) == 2 and taken.images.side == 2
    assert taken.labels["kind"].tolist() == [1, 0]
    assert torch.equal(taken.images.batch(torch.tensor([1, 0])), images.tensor[[0, 2]])
