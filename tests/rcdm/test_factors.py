"""What is read off pictures: an exact split, hand-made pictures whose factors are known, histograms by loops."""

from __future__ import annotations

import pytest
import torch

from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.rcdm.factors import FACTORS, LINEAR, histogram, of_pictures, truths


def pictures(side=32, n=4):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize("side", [16, 24, 32, 64])
def test_colour_layout_and_detail_add_up_to_the_pixels(side):
    found = of_pictures(pictures(side))
    size = {name: values.square().sum(1) for name, values in found.items()}
    assert torch.allclose(size["colour"] + size["layout"] + size["detail"], size["pixels"], atol=1e-6)
    assert torch.allclose(size["pixels"], pictures(side).square().mean((1, 2, 3)), atol=1e-6)


def test_foreground_and_background_add_up_to_the_pixels():
    masks = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 4:20, 8:30] = True
    found = of_pictures(pictures(), masks)
    assert torch.allclose(found["foreground"] + found["background"], found["pixels"])
    assert found["foreground"].view(4, 3, 32, 32)[0, 0, 0, 0] == 0 != found["foreground"].view(4, 3, 32, 32)[0, 0, 10, 10]


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_what_is_called_linear_is_linear(name):
    masks = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(2)) > 0.5
    one, other = pictures(), pictures().flip(0)
    both = of_pictures(0.3 * one + 0.7 * other, masks)[name]
    assert torch.allclose(both, 0.3 * of_pictures(one, masks)[name] + 0.7 * of_pictures(other, masks)[name], atol=1e-6)


def test_pictures_that_differ_in_one_factor_differ_in_no_other():
    grey = torch.full((1, 3, 32, 32), 0.5)
    red = grey.clone()
    red[:, 0] = 0.9
    left = grey.clone()
    left[..., :16] += 0.2
    left[..., 16:] -= 0.2
    fine = grey.clone()
    fine[..., ::2] += 0.1
    fine[..., 1::2] -= 0.1

    def changed(other):
        before, after = of_pictures(grey), of_pictures(other)
        return {name for name in before if not torch.allclose(before[name], after[name], atol=1e-5)}

    assert changed(red) == {"pixels", "colour", "histogram"}
    assert changed(left) == {"pixels", "layout", "flip asymmetry", "histogram"}
    assert changed(fine) == {"pixels", "detail", "histogram"}


def test_a_mirrored_picture_has_the_opposite_asymmetry_and_a_symmetric_one_none():
    one = of_pictures(pictures())["flip asymmetry"]
    other = of_pictures(pictures().flip(3))["flip asymmetry"]
    assert torch.allclose(one, -other, atol=1e-6)
    both = pictures() + pictures().flip(3)
    assert torch.allclose(of_pictures(both / 2)["flip asymmetry"], torch.zeros(4, 192), atol=1e-6)


def test_the_histogram_splits_every_pixel_between_its_two_nearest_bins():
    images = pictures(16, 2)
    expected = torch.zeros(2, 3, 8)
    for n in range(2):
        for c in range(3):
            for value in images[n, c].flatten().tolist():
                low = min(int(value * 7), 6)
                expected[n, c, low] += (1 - (value * 7 - low)) / 256
                expected[n, c, low + 1] += (value * 7 - low) / 256
    assert torch.allclose(histogram(images), expected.flatten(1), atol=1e-5)
    assert torch.allclose(histogram(images).view(2, 3, 8).sum(2), torch.ones(2, 3), atol=1e-5)


def test_truths_are_one_hot_tasks_and_numbers():
    labels = {"kind": torch.tensor([0, 2, 1]), "only": torch.zeros(3, dtype=torch.int64), "many": torch.tensor([0, 1, 2])}
    classes = {"kind": ("a", "b", "c"), "only": ("x",), "many": tuple(map(str, range(101)))}
    images = ImageSet(InMemory(torch.zeros(3, 3, 8, 8, dtype=torch.uint8)), labels, classes, "kind", (), {"far": torch.rand(3)})
    found = truths(images)
    assert set(found) == {"true kind", "true far"}
    assert found["true kind"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert found["true far"].shape == (3, 1)


def test_the_names_are_those_listed():
    masks = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    assert tuple(of_pictures(pictures(), masks)) == FACTORS
    assert tuple(of_pictures(pictures())) == FACTORS[:-2]


@pytest.mark.parametrize("side", [8, 12, 20, 50])
def test_sides_that_blocks_do_not_divide_are_refused(side):
    with pytest.raises(UserError, match=f"{side} pixels a side.*multiple of 8, from 16 on"):
        of_pictures(pictures(side))


def test_a_quantity_with_gaps_tells_nothing_and_a_task_of_the_same_name_stands():
    numbers = {"kind": torch.rand(3), "gappy": torch.tensor([0.1, torch.nan, 0.2])}
    images = ImageSet(
        InMemory(torch.zeros(3, 3, 8, 8, dtype=torch.uint8)), {"kind": torch.tensor([0, 1, 1])}, {"kind": ("a", "b")}, None, (),
        numbers,
    )  # fmt: skip
    assert {name: values.shape for name, values in truths(images).items()} == {"true kind": (3, 2)}
