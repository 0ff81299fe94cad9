"""Movement is a ratio of two plain averages, of the right operations; and a factor is read as well as a probe reads it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan.augment import Augment
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split, extract
from wingspan.measures.base import NotApplicableError, Number
from wingspan.measures.invariance import OPERATIONS, Invariance, operations
from wingspan.measures.linear import PRESETS
from wingspan.network import Network
from wingspan.runtime import Runtime

SIDE, N = 6, 40
VIEWS = Augment(solarise=(0.2,), blur=(0.5,), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


class Pixels(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return views.flatten(1)


class Mirrored(nn.Module):
    """Blind to a flip by construction: averaged over an image and its mirror image."""

    def forward(self, views: Tensor) -> Tensor:
        return ((views + views.flip(-1)) / 2).flatten(1)


class Averages(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return views.mean((2, 3))


class Constant(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return torch.tensor([0.3, 2.0, 0.0]).expand(len(views), 3)


def bank(backbone: nn.Module, used: Augment = VIEWS, n: int = N) -> Bank:
    """Random images, and one task."""
    network = Network(backbone, used, Runtime("cpu", "fp32"))

    def split(purpose: str) -> Split:
        pixels = torch.randint(256, (n, 3, SIDE, SIDE), generator=generator(0, purpose), dtype=torch.uint8)
        images = ImageSet(InMemory(pixels), {"kind": torch.arange(n) % 2}, {"kind": ("a", "b")})
        return Split(extract(network, images, label="test")["h"], images)

    return Bank("made", split("train"), split("test"), "0", network)


def movements(given: Bank, measure: Invariance | None = None, seed: int = 0) -> dict[str, Number]:
    return {n.series: n for n in (measure or Invariance()).measure(given, seed).numbers if n.metric == "movement"}


def slow_change(operation: str, image: Tensor) -> Tensor:
    """(3, S, S) in 0..1, by hand."""
    if operation == "flip":
        return torch.stack([torch.stack([row.flip(0) for row in plane]) for plane in image])
    if operation == "grey":
        return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).expand(3, SIDE, SIDE)
    return torch.where(image >= 0.5, 1 - image, image)


@pytest.mark.parametrize("operation", ["flip", "grey", "solarise"])
def test_pixels_move_as_a_slow_loop_says(operation: str) -> None:
    given = bank(Pixels())
    images = given.test.images.images.batch(torch.arange(N)).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (VIEWS.mean, VIEWS.std))
    h = [((image - mean) / std).flatten() for image in images]
    moved = [((slow_change(operation, image) - mean) / std).flatten() for image in images]
    near = sum(float((a - b).square().sum()) for a, b in zip(h, moved, strict=True)) / N
    far = [float((h[i] - h[j]).square().sum()) for i in range(N) for j in range(N) if i != j]
    found = movements(given)[operation]
    assert found.value == pytest.approx(near / (sum(far) / len(far)), rel=1e-4)
    assert (found.task, found.n) == ("", N)


def test_what_is_blind_to_an_operation_reads_zero() -> None:
    found = movements(bank(Mirrored()))
    assert found["flip"].value == pytest.approx(0, abs=1e-10) and found["flip"].error == pytest.approx(0, abs=1e-10)
    assert all(found[name].value > 1e-3 for name in OPERATIONS if name != "flip")


def test_the_scale_of_h_and_dead_dimensions_do_not_matter() -> None:
    class Scaled(nn.Module):
        def forward(self, views: Tensor) -> Tensor:
            return torch.cat([7 * views.flatten(1) + 3, torch.ones(len(views), 50)], 1)

    plain, scaled = movements(bank(Pixels())), movements(bank(Scaled()))
    for name in OPERATIONS:
        assert scaled[name].value == pytest.approx(plain[name].value, rel=1e-4)
        assert scaled[name].error == pytest.approx(plain[name].error, rel=1e-3)


def test_the_standard_error_is_that_of_drawing_other_images() -> None:
    given = bank(Averages(), n=300)
    found = movements(given)["grey"]
    network = given.network
    assert network is not None
    pixels = given.test.images.images.batch(torch.arange(300))
    grey = replace(network, augment=operations(VIEWS)[1]["grey"])
    a, b = network.h(network.plain(pixels)).double(), grey.h(grey.views(pixels, 1, 0, 0)[0]).double()
    draw, values = generator(0, "bootstrap"), []
    for _ in range(400):
        rows = torch.randint(300, (300,), generator=draw)
        values.append(float((a[rows] - b[rows]).square().sum(1).mean() / (2 * a[rows].var(0).sum())))
    assert found.error == pytest.approx(float(torch.tensor(values).std()), rel=0.15)


def test_images_are_drawn_and_a_measure_is_a_function_of_bank_and_seed() -> None:
    given = bank(Pixels())
    first = movements(given, Invariance(images=20))
    assert all(number.n == 20 for number in first.values())
    torch.manual_seed(99)
    assert movements(given, Invariance(images=20)) == first
    assert movements(given, Invariance(images=20), seed=1)["flip"].value != first["flip"].value
    assert movements(given)["flip"].value != first["flip"].value


def test_every_operation_is_alone_and_of_pretrainings_strength() -> None:
    used = Augment(
        size=5, scale=(0.3, 0.9), ratio=(0.5, 2.0), brightness=0.11, contrast=0.12, saturation=0.13, hue=0.14, blur=(0.0, 0.1),
        blur_sigma=(0.4, 0.5), threshold=0.7, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    off, made = operations(used)
    assert off == [] and tuple(made) == OPERATIONS
    nothing = replace(augmentation.PRESETS["none"], size=5, mean=used.mean, std=used.std)
    still = replace(nothing, jitter=(1.0,), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    assert made == {
        "crop": replace(nothing, scale=(0.3, 0.9), ratio=(0.5, 2.0)),
        "flip": replace(nothing, flip=(1.0,)),
        "brightness": replace(still, brightness=0.11),
        "contrast": replace(still, contrast=0.12),
        "saturation": replace(still, saturation=0.13),
        "hue": replace(still, hue=0.14),
        "grey": replace(nothing, grey=(1.0,)),
        "solarise": replace(nothing, solarise=(1.0,), threshold=0.7),
        "blur": replace(nothing, blur=(1.0,), blur_sigma=(0.4, 0.5)),
    }


def test_operations_that_pretraining_leaves_off_have_the_papers_strength_and_are_named() -> None:
    off, made = operations(replace(augmentation.PRESETS["none"], brightness=0.9, threshold=0.1, blur_sigma=(5.0, 5.0)))
    assert tuple(off) == OPERATIONS
    paper = Augment()
    assert (made["crop"].scale, made["crop"].ratio) == (paper.scale, paper.ratio)
    assert made["brightness"].brightness == 0.4 and made["solarise"].threshold == 0.5
    assert made["blur"].blur_sigma == paper.blur_sigma
    off, made = operations(replace(VIEWS, hue=0.0))
    assert off == ["hue"] and made["hue"].hue == paper.hue
    (note,) = Invariance().measure(bank(Pixels(), replace(VIEWS, hue=0.0, grey=(0.0,))), 0).notes
    assert note.endswith(": hue, grey")


def factors(backbone: nn.Module) -> Bank:
    """Red and green levels stand in the images, the third label does not."""
    network = Network(backbone, replace(VIEWS, mean=(0, 0, 0), std=(1, 1, 1)), Runtime("cpu", "fp32"))

    def split(n: int, purpose: str) -> Split:
        draw = generator(0, purpose)
        labels = {"red": torch.arange(n) % 4, "green": torch.randint(2, (n,), generator=draw)}
        labels["absent"] = torch.randint(3, (n,), generator=draw)
        pixels = torch.randint(256, (n, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
        pixels[:, 0] = (labels["red"] * 60)[:, None, None].to(torch.uint8)
        pixels[:, 1] = pixels[:, 1] // 2 + (labels["green"] * 25)[:, None, None].to(torch.uint8)
        names = {task: tuple(map(str, range(int(values.max()) + 1))) for task, values in labels.items()}
        images = ImageSet(InMemory(pixels), labels, names)
        return Split(extract(network, images, label="test")["h"], images)

    return Bank("made", split(900, "train"), split(300, "test"), "0", network)


def test_factors_are_read_as_a_linear_probe_reads_them_beyond_chance() -> None:
    given = factors(Averages())
    probe = replace(PRESETS["linear_fast"], epochs=10, batch=256)
    found = {n.series: n for n in Invariance().measure(given, 3).numbers if n.metric == "read from h"}
    assert list(found) == ["red", "green", "absent"]
    for number in probe.measure(given, 3).numbers:
        assert number.chance is not None
        expected = (number.value - number.chance) / (1 - number.chance)
        assert found[number.task].value == pytest.approx(expected, abs=1e-12)
        spread = math.sqrt(number.value * (1 - number.value) / 300) / (1 - number.chance)
        assert found[number.task].error == pytest.approx(spread)
    assert found["red"].value > 0.3 > 0.15 > abs(found["absent"].value)


def test_one_task_or_no_epochs_leave_the_factors_out() -> None:
    assert {n.metric for n in Invariance().measure(bank(Pixels()), 0).numbers} == {"movement"}
    assert {n.metric for n in Invariance(epochs=0).measure(factors(Averages()), 0).numbers} == {"movement"}


def test_a_factor_of_which_the_test_split_shows_one_class_is_left_out() -> None:
    given = factors(Averages())
    images = given.test.images
    labels = {**images.labels, "green": torch.ones(300, dtype=torch.int64)}
    given = replace(given, test=replace(given.test, images=replace(images, labels=labels)))
    assert [n.series for n in Invariance().measure(given, 0).numbers if n.metric == "read from h"] == ["red", "absent"]


def test_a_collapsed_network_moves_nothing_and_is_named() -> None:
    with pytest.raises(NotApplicableError, match="'made': every image gives the same h"):
        Invariance().measure(bank(Constant()), 0)
    found = Invariance().measure(factors(Constant()), 0)
    assert {n.metric for n in found.numbers} == {"read from h"} and "same h" in found.notes[0]
    assert all(math.isfinite(n.value) and n.value <= 0 for n in found.numbers)


def test_features_from_a_file_have_no_movement() -> None:
    found = Invariance().measure(replace(factors(Averages()), network=None), 0)
    assert {n.metric for n in found.numbers} == {"read from h"} and "network itself" in found.notes[0]
    with pytest.raises(NotApplicableError, match="network itself"):
        Invariance().measure(replace(bank(Pixels()), network=None), 0)


@pytest.mark.parametrize(("fields", "said"), [({"images": 1}, "images=1"), ({"epochs": -1}, "epochs=-1")])
def test_what_cannot_be_used_is_refused(fields: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Invariance(**fields)
