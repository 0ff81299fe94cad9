from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan import chance, projector
from wingspan.augment import PRESETS
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.base import NotApplicableError
from wingspan.measures.geometry import Geometry, alignment, uniformity
from wingspan.network import Network
from wingspan.runtime import Runtime


def bank(n: int = 300, head: str = "7-5", side: int = 6, augment: str = "small", backbone: nn.Module | None = None) -> Bank:
    draw = generator(0, "geometry test")
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=draw, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = backbone or nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 9), nn.LeakyReLU())
        network = Network(body, PRESETS[augment], Runtime("cpu", "fp32"), projector.build(head, 9) if head else None)
    images = ImageSet(InMemory(pixels))
    return Bank("made", Split(torch.empty(n, 0), images), Split(torch.empty(n, 0), images), "0", network)


def sphere(N: int, d: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(N, d, generator=generator(seed, "geometry test")), dim=1)


def test_uniformity_is_the_mean_over_every_pair_once() -> None:
    x = sphere(600, 3)  # three blocks of rows
    pairs = torch.tensor(list(itertools.combinations(range(600), 2)))
    squared = (x.double()[pairs[:, 0]] - x.double()[pairs[:, 1]]).square().sum(1)
    assert uniformity(x)[0] == pytest.approx(math.log(float((-2 * squared).exp().mean())), abs=1e-6)


def test_uniformity_of_identical_points_of_two_poles_and_of_a_zero() -> None:
    assert uniformity(sphere(1, 50).expand(300, 50))[0] == pytest.approx(0, abs=1e-5)
    poles = sphere(1, 4) * torch.tensor([[1.0], [-1.0]]).repeat(50, 1)  # 50 and 50: 2450 pairs alike, 2500 at distance 2
    assert uniformity(poles)[0] == pytest.approx(math.log((2450 + 2500 * math.exp(-8)) / 4950), abs=1e-5)
    assert uniformity(torch.tensor([[1.0, 0], [0, 0]]))[0] == pytest.approx(-2)


@pytest.mark.parametrize("d", [2, 3, 64])
def test_uniformity_of_a_uniform_cloud_is_the_closed_form(d: int) -> None:
    """E exp(-4 + 4 t), where t is one coordinate of a uniform point: density (1 - t^2)^((d - 3) / 2); d = 3: sinh(4) / 4."""
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    weight = angle.sin() ** (d - 2)
    expected = math.log(float((weight * (4 * angle.cos() - 4).exp()).sum() / weight.sum()))
    if d == 3:
        assert expected == pytest.approx(-4 + math.log(math.sinh(4) / 4), abs=1e-6)
    value, error = uniformity(sphere(2000, d))
    assert abs(value - expected) < 4 * error and error < 0.02


def test_alignment_and_cosines_are_what_loops_over_images_give() -> None:
    first, second = sphere(40, 6), F.normalize(sphere(40, 6) + 0.5 * sphere(40, 6, seed=1), dim=1)
    found = alignment(first, second)
    same = [float(a @ b) for a, b in zip(first, second, strict=True)]
    different = [float(first[i] @ second[j]) for i in range(40) for j in range(40) if i != j]
    assert found["cosine of two views"][0] == pytest.approx(sum(same) / 40, abs=1e-6)
    assert found["alignment"][0] == pytest.approx(sum(2 - 2 * s for s in same) / 40, abs=1e-6)
    assert found["cosine of different images"][0] == pytest.approx(sum(different) / len(different), abs=1e-6)


def test_standard_errors_are_the_spread_over_fresh_images() -> None:
    draw = generator(2, "geometry test")
    runs = []
    for _ in range(150):
        image = torch.randn(80, 4, generator=draw) + torch.tensor([1.0, 0, 0, 0])
        views = [F.normalize(image + 0.4 * torch.randn(80, 4, generator=draw), dim=1) for _ in range(2)]
        runs.append({"uniformity": uniformity(views[0]), **alignment(*views)})
    for metric in runs[0]:
        values = torch.tensor([run[metric][0] for run in runs])
        told = torch.tensor([run[metric][1] for run in runs]).mean()
        assert 0.8 < float(told / values.std()) < 1.3, metric


def test_a_measure_looks_at_h_and_at_the_projectors_last_layer() -> None:
    given, seed = bank(n=200), 3
    found = {(number.metric, number.series): number for number in Geometry().measure(given, seed).numbers}
    assert {series for _, series in found} == {"h", "projector 2"} and all(number.n == 200 for number in found.values())
    network, pixels = given.network, given.test.images.images.batch(torch.arange(200))
    assert network is not None and network.projector is not None
    draw = chance.key(seed, "geometry views")
    views = torch.cat([network.views(part, 2, draw, step) for step, part in enumerate(pixels.split(128))], 1)
    for name, layer in (("h", network.backbone), ("projector 2", nn.Sequential(network.backbone, network.projector))):
        plain, first, second = (F.normalize(layer(x), dim=1) for x in (network.plain(pixels), *views))
        expected = {"uniformity": uniformity(plain), **alignment(first, second)}
        for metric, (value, error) in expected.items():
            number = found[metric, name]
            assert (number.value, number.error) == pytest.approx((value, error), rel=1e-4, abs=1e-6)
    assert found["cosine of two views", "h"].value > found["cosine of different images", "h"].value + 0.01


def test_views_without_chance_are_perfectly_aligned_and_no_projector_means_h_alone() -> None:
    numbers = Geometry().measure(bank(head="", augment="none"), seed=0).numbers
    assert {number.series for number in numbers} == {"h"}
    found = {number.metric: number.value for number in numbers}
    assert found["alignment"] == pytest.approx(0, abs=1e-6) and found["cosine of two views"] == pytest.approx(1)
    assert found["uniformity"] < -0.1


def test_images_are_drawn_by_the_seed_and_counted() -> None:
    given = bank()
    first, again, other = (Geometry(images=50).measure(given, seed).numbers for seed in (0, 0, 1))
    assert first == again and first != other and all(number.n == 50 for number in first)


def test_a_representation_of_zeros_is_told() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 9)

    found = Geometry().measure(bank(n=20, head="", backbone=Nothing()), seed=0)
    assert all(math.isfinite(number.value) for number in found.numbers)
    assert found.notes == ("20 of 20 images have a h of zeros, which has no direction.",)


def test_what_cannot_be_compared_is_not_applicable_and_bad_settings_are_refused() -> None:
    given = bank()
    with pytest.raises(NotApplicableError, match="needs the network"):
        Geometry().measure(replace(given, network=None), seed=0)
    with pytest.raises(NotApplicableError, match="1 test images"):
        Geometry().measure(bank(n=1), seed=0)
    with pytest.raises(UserError, match="images 1 "):
        Geometry(images=1)
