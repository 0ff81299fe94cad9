"""The U-Net is the published one at the published setting, and the sampler draws what the exact denoiser asks for."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from made_companies import SMOKE, Constant, encoder, subject
from torch import nn

from wingspan.errors import UserError
from wingspan.rcdm import denoiser, sampling
from wingspan.rcdm.material import Material
from wingspan.rcdm.sampling import Sampler
from wingspan.rcdm.settings import PRESETS, Settings
from wingspan.rcdm.training import Conditioned
from wingspan.runtime import Runtime

pytest.importorskip("diffusers")


def test_the_published_network_has_the_published_number_of_weights():
    variance = 3 * (256 * 9 + 1)  # the three output channels of learned variance, which ours has not
    assert denoiser.parameters(PRESETS["paper128"], [2048]) + variance == 422_603_782


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "smoke"])
def test_every_width_passes_the_same_1024_numbers(name):
    settings = PRESETS[name]
    narrow, wide = (denoiser.parameters(settings, [D]) for D in (16, 32768))
    assert settings.conditioning == 1024
    assert wide - narrow == (32768 - 16) * 1024


def test_an_untrained_denoiser_predicts_nothing():
    net = denoiser.Denoiser(SMOKE)
    found = net(torch.randn(2, 3, 16, 16), torch.tensor([3, 900]), torch.randn(2, 32), torch.randn(2, 3, 16, 16))
    assert found.shape == (2, 3, 16, 16)
    assert not found.any()


@pytest.mark.parametrize("changes", [{"ridge": "none"}, {"attention": 1}, {"unshuffle": 1}, {"resnet_sampling": True}])
def test_conditions_times_and_ridge_pictures_reach_the_prediction(changes):
    torch.manual_seed(0)
    settings = dataclasses.replace(SMOKE, **changes)
    net = denoiser.Denoiser(settings)
    nn.init.normal_(net.unet.conv_out.weight)
    given, others = (
        [torch.randn(2, 3, 16, 16), torch.tensor(times), torch.randn(2, 32), torch.randn(2, 3, 16, 16)]
        for times in ([3, 900], [400, 5])
    )
    if settings.ridge == "none":
        given[3] = None
    before = net(*given)
    for at, other in enumerate(others):
        if given[at] is not None:
            assert not torch.allclose(before, net(*[*given[:at], other, *given[at + 1 :]]))


def test_the_cosine_schedule_is_nichol_and_dhariwals():
    def bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    expected, kept = [], 1.0
    for step in range(1000):
        kept *= 1 - min(1 - bar((step + 1) / 1000) / bar(step / 1000), 0.999)
        expected.append(kept)
    signal, noise = denoiser.signal_and_noise(Settings())
    assert torch.allclose(signal.square(), torch.tensor(expected), atol=1e-5)
    assert torch.allclose(signal.square() + noise.square(), torch.ones(1000), atol=1e-6)


@pytest.mark.parametrize("steps", [2, 12, 50])
def test_times_go_evenly_through_the_logarithm_of_the_noise(steps):
    found = denoiser.times(Settings(), steps)
    alpha, sigma = denoiser.signal_and_noise(Settings())
    levels = (sigma / alpha)[found].log()
    assert len(found) == steps and found == sorted(found, reverse=True)
    assert torch.allclose(levels, torch.linspace(math.log(60), math.log(0.03), steps), atol=0.1)


class Exact(nn.Module):
    """The optimal prediction for pictures of independent pixels, each normal of a mean and a standard deviation."""

    def __init__(self, settings: Settings, mean: float, deviation: float) -> None:
        super().__init__()
        self.kind, self.mean, self.deviation = settings.prediction, mean, deviation
        self.signal, self.noise = denoiser.signal_and_noise(settings)

    def forward(self, noisy, times, condition, ridge):
        a, s = (each[times].view(-1, 1, 1, 1) for each in (self.signal, self.noise))
        kept = a * self.deviation**2 / (a**2 * self.deviation**2 + s**2)
        x = self.mean + kept * (noisy - a * self.mean)
        e = (noisy - a * x) / s
        return a * e - s * x if self.kind == "v" else e


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_an_exact_denoiser_draws_the_distribution_it_knows(prediction):
    settings = dataclasses.replace(SMOKE, ridge="none", prediction=prediction, sampling_steps=50)
    of = subject()
    material = Material(of, [encoder(of, 8)], [Constant()], settings, 0)
    model = Conditioned([8], settings.conditioning, Exact(settings, 0.2, 0.15))
    sampler = Sampler(material, None, model.eval(), Runtime("cpu", "fp32"))
    drawn = sampler.drawn(0, torch.zeros(64, 8), sampling.noise(0, 0, 64, 16, "test"))
    assert abs(float(drawn.mean()) - 0.2) < 0.01
    assert abs(float(drawn.std()) - 0.15) < 0.01


def test_a_residual_is_drawn_about_the_ridge_picture_and_at_its_size():
    settings = dataclasses.replace(SMOKE, sampling_steps=50)
    of = subject()
    material = Material(of, [encoder(of, 8)], [Constant(value=0.4)], settings, 0)  # 0.4 of 0..1 is -0.2 of -1..1
    material.sizes = torch.tensor([0.1])
    sampler = Sampler(material, None, Conditioned([8], 32, Exact(settings, 0.0, 1.0)).eval(), Runtime("cpu", "fp32"))
    drawn = sampler.drawn(0, torch.zeros(64, 8), sampling.noise(0, 0, 64, 16, "test"))
    assert abs(float(drawn.mean()) + 0.2) < 0.01
    assert abs(float(drawn.std()) - 0.1) < 0.01


def test_the_same_column_begins_with_the_same_noise_for_every_picture_and_encoder():
    of = subject()
    material = Material(of, [encoder(of, 8), encoder(of, 4)], [Constant(), Constant()], SMOKE, 0)
    material.sizes = torch.tensor([0.1, 0.1])
    model = Conditioned([8, 4], 32, Exact(SMOKE, 0.0, 1.0)).eval()
    sampler = Sampler(material, None, model, Runtime("cpu", "fp32"))
    one, other = sampler.samples(0, torch.randn(3, 8), 2, 5), sampler.samples(1, torch.randn(3, 4), 2, 5)
    assert one.shape == (3, 2, 3, 16, 16)
    assert torch.equal(one, other) and torch.equal(one[0], one[2])
    assert not torch.allclose(one[:, 0], one[:, 1])


def test_without_diffusers_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wingspan\[rcdm\].*--rung ridge"):
        denoiser.require()
