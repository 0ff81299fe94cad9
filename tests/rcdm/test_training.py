"""Training several encoders at once: resumed is uninterrupted, nobody learns from another's features, averages are averages."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest
import torch
from made_companies import SMOKE, Constant, encoder, nothing, subject

from wingspan.data.base import InMemory
from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.rcdm import sampling, training
from wingspan.rcdm.decoder import Decoder
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.material import Material
from wingspan.rcdm.ridge import fit
from wingspan.rcdm.sampling import Sampler
from wingspan.rcdm.training import Course, build, train
from wingspan.runtime import Runtime
from wingspan.stopping import Interrupted

RUNTIME = Runtime("cpu", "fp32")
KINDS = [
    "decoder",
    pytest.param("denoiser", marks=pytest.mark.skipif("not __import__('importlib').util.find_spec('diffusers')")),
]


def company(settings=SMOKE, seed=0):
    of = subject()
    encoders = [encoder(of, 8), encoder(of, 4), nothing(of)]
    return Material(of, encoders, [Constant()] * 3, settings, seed)


def begun(kind: str, material: Material):
    model = build(lambda: sampling.trunk_of(kind, material.settings), [8, 4, 1], material.settings, 0, RUNTIME)
    course = sampling.decoding(material.settings, 3) if kind == "decoder" else sampling.denoising(material.settings, 3, 0)
    return model, course


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_is_bitwise_the_uninterrupted(kind, tmp_path, monkeypatch):
    material = company()
    whole, course = begun(kind, material)
    train(whole, course, material, tmp_path / "whole", "id", RUNTIME)
    cut, course = begun(kind, material)
    real = training.step

    def stopped(state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(state, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(training, "step", stopped)
        with pytest.raises(Interrupted, match="step 3 of 6"):
            train(cut, course, material, tmp_path / "cut", "id", RUNTIME)
    again, course = begun(kind, material)
    train(again, course, material, tmp_path / "cut", "id", RUNTIME)
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), again.parameters(), strict=True))
    once_more, course = begun(kind, material)
    train(once_more, course, material, tmp_path / "cut", "id", RUNTIME)  # finished: only read
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), once_more.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_it_is_given(kind, tmp_path):
    settings = dataclasses.replace(SMOKE, steps=120, decoder_steps=120, batch=24, lr=3e-3)
    material = company(settings)
    model, course = begun(kind, material)
    batch = [material.batch(at, "another purpose") for at in range(4)]

    def mean() -> float:
        with torch.no_grad():
            return sum(float(course.loss(model, each, at)) for at, each in enumerate(batch)) / 4

    before = mean()
    train(model, course, material, tmp_path, "id", RUNTIME)
    assert mean() < 0.85 * before


def test_the_decoder_comes_back_as_the_mean_of_its_steps_weights(tmp_path):
    material = company(dataclasses.replace(SMOKE, ema=0.6))
    model, course = begun("decoder", material)
    state, kept = training._State(model, material.settings), None
    average = [p.detach().clone() for p in model.parameters()]
    for at in range(course.steps):
        training.step(state, course, material.batch(at, course.name), RUNTIME)
        kept = min(0.6, (2 + at) / (11 + at))
        average = [kept * a + (1 - kept) * p.detach() for a, p in zip(average, model.parameters(), strict=True)]
    trained, course = begun("decoder", material)
    train(trained, course, material, tmp_path, "id", RUNTIME)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(average, trained.parameters(), strict=True))


def test_images_are_dealt_to_the_encoders_in_turn_and_each_reads_its_own_features():
    material = company(dataclasses.replace(SMOKE, batch=16))
    for step in range(3):
        batch = material.batch(step, "decoder")
        counts = [len(h) for h in batch.h]
        assert sum(counts) == len(batch.picture) == len(batch.ridge) == 16
        assert max(counts) - min(counts) <= 1
        start = 0
        for h, each in zip(batch.h, material.encoders, strict=True):
            pixels = ((batch.picture[start : start + len(h)] + 1) * 127.5).round()
            assert torch.allclose(each.read(each.encode(pixels.to(torch.uint8))), h, atol=0.05)
            start += len(h)
    assert torch.equal(material.batch(2, "decoder").picture, batch.picture)
    assert not torch.equal(material.batch(1, "decoder").picture, batch.picture)


def test_an_encoders_layer_learns_from_its_own_images_alone():
    material = company()
    model, course = begun("decoder", material)
    torch.nn.init.normal_(model.trunk.last.weight)
    batch = material.batch(0, "decoder")
    only = dataclasses.replace(
        batch, picture=batch.picture[: len(batch.h[0])], ridge=batch.ridge[: len(batch.h[0])],
        size=batch.size[: len(batch.h[0])], h=(batch.h[0], batch.h[1][:0], batch.h[2][:0]),
    )  # fmt: skip
    course.loss(model, only, 0).backward()
    first, second, third = (layer.weight.grad for layer in model.conditions)
    assert first.any() and not second.any() and not third.any()


def test_the_residual_of_a_perfect_ridge_has_the_least_size_and_of_a_constant_one_the_datas():
    material = company()
    rows = torch.arange(48)
    expected = (material.subject.train.batch(rows).float() / 127.5 - 1).std()
    assert abs(float(material.sizes[0] - expected)) < 1e-5


def test_a_loss_that_is_not_finite_changes_no_weight(tmp_path):
    material = company()
    model, _ = begun("decoder", material)
    before = [p.detach().clone() for p in model.parameters()]
    course = Course("decoder", 4, lambda model, batch, step: model.trunk(model.condition(batch.h)).sum() * float("nan"))
    with pytest.raises(UserError, match=r"not finite at step 1 .*No weight was changed.*lr"):
        train(model, course, material, tmp_path, "id", RUNTIME)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_another_companys_or_a_damaged_checkpoint_is_refused(tmp_path):
    material = company()
    model, course = begun("decoder", material)
    train(model, course, material, tmp_path, "mine", RUNTIME)
    model, course = begun("decoder", material)
    with pytest.raises(UserError, match=r"mine.*yours"):
        train(model, course, material, tmp_path, "yours", RUNTIME)
    file = next(tmp_path.rglob("average.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        train(model, course, material, tmp_path, "mine", RUNTIME)


@pytest.mark.parametrize("side", [16, 24, 32, 40, 64])
def test_a_decoder_draws_at_every_side_and_begins_as_the_ridge_picture(side):
    made = Decoder(32, side)
    condition = torch.randn(2, 32)
    assert made(condition).shape == (2, 3, side, side)
    assert not made(condition).any()
    torch.nn.init.normal_(made.last.weight)
    assert not torch.allclose(made(condition), made(condition + 1 * torch.randn(2, 32)))


def test_the_decoder_finds_what_ridge_cannot(tmp_path):
    """The first number of h is positive where the picture is bright, and its square says by how much."""
    drawn = torch.Generator().manual_seed(0)
    h = torch.randn(600, 4, generator=drawn)
    bright = (0.5 + 0.2 * (h[:, 0].square() - 1).clamp(-2, 2)).clamp(0, 1)
    pixels = (bright * 255).round().to(torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    images = InMemory(pixels[:500]), InMemory(pixels[500:])
    of = Subject("squares", 16, *images)
    inputs = Inputs(h[:500].half()).standardised()
    one = Encoder("h", "h", "h", inputs, inputs.like(h[500:].half()))
    settings = dataclasses.replace(SMOKE, decoder_steps=150, batch=64, lr=3e-3, conditioning=64)
    ridge = fit(inputs, lambda rows: pixels[rows].flatten(1).float() / 255, 500)
    material = Material(of, [one], [ridge], settings, 0)
    model = build(lambda: sampling.trunk_of("decoder", settings), [4], settings, 0, RUNTIME)
    train(model, sampling.decoding(settings, 1), material, tmp_path, "id", RUNTIME)
    sampler, asked = Sampler(material, model, None, RUNTIME), one.test.rows(slice(None))
    truth = pixels[500:].float() / 127.5 - 1
    spread = (truth - truth.mean(0)).square().mean()
    linear, found = material.predicted(0, asked), sampler.decoded(0, asked)
    assert 1 - (linear - truth).square().mean() / spread < 0.2
    assert 1 - (found - truth).square().mean() / spread > 0.6


def test_a_batch_does_not_depend_on_which_came_before():
    one, other = company(), company()
    for step in range(18):
        before = one.batch(step, "decoder")
    alone = other.batch(17, "decoder")
    assert torch.equal(before.picture, alone.picture) and torch.equal(before.ridge, alone.ridge)
    assert all(torch.equal(*pair) for pair in zip(before.h, alone.h, strict=True))
    assert torch.equal(one.batch(3, "decoder").picture, other.batch(3, "decoder").picture)
    assert not torch.equal(one.batch(3, "denoiser").picture, other.batch(3, "decoder").picture)
