from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wingspan.augment import PRESETS
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split, extract
from wingspan.measures import _curves
from wingspan.measures.base import NotApplicableError, Number
from wingspan.measures.jacobian import Jacobian, dimensions, norms, spread
from wingspan.network import Network
from wingspan.runtime import Runtime

SIDE = 5
RUNTIME = Runtime("cpu", "fp32")


class Smooth(nn.Module):
    """A small net with batch norm whose dimensions differ much in scale; twice differentiable everywhere."""

    def __init__(self, D: int, end: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, D, 1)
        self.end = end
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3, 0.0])
        self.wide.weight.data *= torch.logspace(-1, 1, D)[:, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.wide(torch.tanh(self.norm(self.conv(x))))).mean((2, 3))
        return out


def network(D: int, end: nn.Module | None = None) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(Smooth(D, end or nn.Softplus()), PRESETS["small"], RUNTIME)


def bank(D: int, n: int = 40, end: nn.Module | None = None) -> Bank:
    net = network(D, end)
    pixels = torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=generator(0, "jacobian test"), dtype=torch.uint8)
    images = ImageSet(InMemory((pixels * torch.linspace(0.1, 1, n)[:, None, None, None]).byte()))  # some dark, some bright
    h = extract(net, images, label="made")["h"]
    return Bank("made", Split(h[:0], images), Split(h, images), "0", net)


def slow(given: Bank) -> Tensor:
    """(n, D) norms of every row of every image's whole Jacobian."""
    assert given.network is not None
    x = given.network.plain(given.test.images.images.batch(torch.arange(len(given.test.h))))
    rows = [
        torch.autograd.functional.jacobian(lambda one: given.network.backbone(one[None])[0], image)  # type: ignore[union-attr]
        for image in x
    ]
    return torch.stack([row.flatten(1).norm(dim=1) for row in rows])


def read(given: Bank, probe: Jacobian = Jacobian(), seed: int = 0) -> tuple[Number, Number]:
    norm, relative = probe.measure(given, seed).numbers
    return norm, relative


@pytest.mark.parametrize("end", [nn.Softplus(), nn.ReLU()])
def test_exact_is_the_whole_jacobian_of_every_image(end: nn.Module) -> None:
    given = bank(13, end=end)
    expected = slow(given)
    norm, relative = read(given)
    assert norm.value == pytest.approx(float(expected.mean()), rel=1e-5) and norm.n == 40
    assert norm.error == pytest.approx(float(expected.mean(1).std()) / 40**0.5, rel=1e-4)
    deviation = float(given.test.h.double().std(0, correction=0).mean())
    assert relative.value == pytest.approx(norm.value / deviation, rel=1e-6)
    assert relative.error == pytest.approx((norm.error or 0) / deviation, rel=1e-6)


def test_exact_is_what_finite_differences_give() -> None:
    given = bank(6, n=4)
    assert given.network is not None
    net = given.network.backbone.double()
    x = given.network.plain(given.test.images.images.batch(torch.arange(4))).double()
    steps = torch.eye(3 * SIDE**2, dtype=torch.float64).view(-1, 3, SIDE, SIDE) * 1e-5
    with torch.no_grad():
        slopes = torch.stack([(net(image + steps) - net(image - steps)) / 2e-5 for image in x])  # (4, pixels, D)
    net.float()
    torch.testing.assert_close(norms(net, x, torch.arange(6).expand(4, 6)), slopes.norm(dim=1).float(), rtol=1e-4, atol=1e-6)


def test_norms_are_those_of_the_dimensions_asked_for() -> None:
    given = bank(9, n=5)
    assert given.network is not None
    x = given.network.plain(given.test.images.images.batch(torch.arange(5)))
    chosen = torch.tensor([[0, 8], [3, 1], [8, 2], [5, 5], [7, 4]])
    torch.testing.assert_close(norms(given.network.backbone, x, chosen), slow(given).gather(1, chosen))


def test_the_standard_error_covers_the_draw_of_dimensions_alone() -> None:
    """On the same images at every seed, images that hardly differ: the error is that of the dimensions drawn."""
    given = bank(60)
    truth = slow(given).mean()
    found = [read(given, Jacobian(exact=0, dims=2), seed)[0] for seed in range(80)]
    values = torch.tensor([number.value for number in found])
    errors = torch.tensor([number.error or 0.0 for number in found])
    assert float(values.std()) > 0.05 * truth, "a sample that does not vary tests nothing"
    assert abs(values.mean() - truth) < 3 * values.std() / 80**0.5
    assert 0.8 < float(errors.mean() / values.std()) < 1.25
    assert ((values - truth).abs() < 3 * errors).float().mean() > 0.95


def test_the_standard_error_covers_the_draw_of_images() -> None:
    given = bank(30, n=300)
    assert given.network is not None
    x = given.network.plain(given.test.images.images.batch(torch.arange(300)))
    truth = norms(given.network.backbone, x, torch.arange(30).expand(300, 30)).mean()
    found = [read(given, Jacobian(images=15, exact=0, dims=25), seed)[0] for seed in range(50)]
    values = torch.tensor([number.value for number in found])
    told = torch.tensor([number.error or 0.0 for number in found]).mean()
    assert abs(values.mean() - truth) < 3 * values.std() / 50**0.5
    assert 0.75 < float(told / values.std()) < 1.35


@pytest.mark.parametrize(("D", "count"), [(10, 3), (10, 10), (100, 5)])
def test_every_image_draws_distinct_dimensions_of_its_own(D: int, count: int) -> None:
    chosen = dimensions(500, D, count, seed=1)
    assert chosen.shape == (500, count) and all(len(set(row)) == count for row in chosen.tolist())
    assert len({tuple(row) for row in chosen.tolist()}) > 300
    times = torch.bincount(chosen.flatten(), minlength=D).double() / 500
    assert len(times) == D and float((times - count / D).abs().max()) < 0.1
    assert not torch.equal(chosen, dimensions(500, D, count, seed=2))


def test_nothing_of_the_network_changes_and_an_image_does_not_depend_on_its_batch() -> None:
    given = bank(8, n=6)
    assert given.network is not None
    net = given.network.backbone
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()  # left so by whoever used it before
    first = read(given)
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.parameters())
    assert read(given) == first
    x = given.network.plain(given.test.images.images.batch(torch.arange(6)))
    every = torch.arange(8).expand(6, 8)
    alone = torch.cat([norms(net, x[i : i + 1], every[:1]) for i in range(6)])
    torch.testing.assert_close(norms(net, x, every), alone)


def test_relative_norm_does_not_change_with_the_scale_of_h_and_dead_dimensions_change_the_raw_one_only() -> None:
    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module, factor: float, dead: int) -> None:
            super().__init__()
            self.inner, self.factor, self.dead = inner, factor, dead

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x) * self.factor
            return torch.cat([h, 0 * h[:, :1].expand(-1, self.dead)], 1)

    given = bank(8)
    norm, relative = read(given)
    assert given.network is not None
    changed = replace(given.network, backbone=Scaled(given.network.backbone, 4.0, 8))
    h = torch.cat([given.test.h * 4, torch.zeros(40, 8).half()], 1)
    after = read(replace(given, network=changed, test=replace(given.test, h=h)))
    assert after[0].value == pytest.approx(2 * norm.value, rel=1e-5)
    assert after[1].value == pytest.approx(relative.value, rel=1e-3)


def test_spread_is_the_mean_deviation_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    h = (torch.rand(33, 17, generator=generator(1, "jacobian test")) + torch.linspace(0, 9, 17)).half()
    for elements in (2**22, 40):
        monkeypatch.setattr(_curves, "_ELEMENTS", elements)
        assert spread(h) == pytest.approx(float(h.double().std(0, correction=0).mean()), rel=1e-9)


def test_the_curve_is_the_sorted_mean_of_each_dimension_and_notes_say_what_was_done() -> None:
    given = bank(12)
    found = Jacobian().measure(given, seed=0)
    (curve,) = found.curves
    assert curve.y == pytest.approx(slow(given).mean(0).sort().values.tolist(), rel=1e-4) and curve.x[-1] == 1
    assert found.notes == ("gradients of all 12 dimensions, with respect to the normalised input, on 40 images.",)
    sampled = Jacobian(images=3, exact=11, dims=2).measure(given, seed=0)
    assert len(sampled.curves[0].x) == len(dimensions(3, 12, 2, seed=0).unique()) < 12, "what no image drew is left out"
    assert sampled.notes[0].startswith("gradients of 2 of 12 dimensions an image, drawn at random")


def test_a_constant_representation_has_no_relative_norm() -> None:
    given = bank(5)
    still = replace(given, test=replace(given.test, h=torch.ones(40, 5).half()))
    assert [number.metric for number in Jacobian().measure(still, seed=0).numbers] == ["jacobian norm"]


def test_what_has_no_gradient_is_not_applicable_and_bad_settings_are_refused() -> None:
    given = bank(5)
    with pytest.raises(NotApplicableError, match="needs the network"):
        Jacobian().measure(replace(given, network=None), seed=0)
    with pytest.raises(NotApplicableError, match="1 test images"):
        Jacobian().measure(bank(5, n=1), seed=0)
    for name, value in (("images", 1), ("exact", -1), ("dims", 0)):
        with pytest.raises(UserError, match=f"{name} {value} must"):
            Jacobian(**{name: value})
