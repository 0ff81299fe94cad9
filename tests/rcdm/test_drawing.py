"""A company drawn from end to end: every rung, folders that refuse strangers, pictures from outside."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math

import pytest
import torch
from made_companies import SMOKE, encoder, nothing, subject

from wingspan.errors import UserError
from wingspan.rcdm import drawing
from wingspan.rcdm.drawing import draw
from wingspan.rcdm.pictures import Pictures
from wingspan.runtime import Runtime

RUNTIME = Runtime("cpu", "fp32")
needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="samples need diffusers")


def pictures(of, rows=(0, 3, -1)):
    at = torch.tensor(rows)
    pixels = of.test.batch(at.clamp_min(0))
    pixels[at < 0] = torch.randint(0, 256, pixels[at < 0].shape, generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    return Pictures(pixels, tuple(f"picture {row}" for row in rows), at, pixels)


def drawn(tmp_path, rung="samples", settings=SMOKE, seed=0, encoders=None, **given):
    of = subject()
    company = encoders or [encoder(of, 64), encoder(of, 4), nothing(of)]
    return draw(of, company, pictures(of), rung, settings, tmp_path / "drawn", seed, RUNTIME, "smoke", **given)


@needs_diffusers
def test_every_rung_up_to_the_one_asked_for_gives_its_numbers(tmp_path):
    found = drawn(tmp_path)
    rungs = {(kept.rung, kept.metric) for kept in found.numbers}
    assert rungs >= {("ridge", "r2"), ("decoder", "r2"), ("samples", "tau"), ("samples", "rho"), ("samples", "kappa")}
    assert {("samples", "mrr"), ("samples", "median rank")} < rungs
    factors = {kept.factor for kept in found.numbers if kept.rung == "samples"}
    assert factors >= {"pixels", "colour", "layout", "flip asymmetry", "histogram"}
    assert "detail" not in factors  # these pictures have none
    for kept in found.numbers:
        assert kept.n > 0 and math.isfinite(kept.value) and kept.low <= kept.value <= kept.high, kept
    assert {kept.encoder for kept in found.numbers} == {each.name for each in found.encoders}


def test_closed_form_alone_tells_who_knows_more(tmp_path):
    found = drawn(tmp_path, "ridge")
    values = [found.number(each.name, "pixels", "r2", "ridge").value for each in found.encoders]
    assert values[0] > 0.5 > values[1] + 0.1 > values[2]
    assert abs(values[2]) < 0.1  # no information explains nothing
    assert {kept.rung for kept in found.numbers} == {"ridge"}
    assert found.number("projection D=64", "true red", "r2", "ridge") is not None
    assert (
        found.number("projection D=64", "true redness", "r2", "ridge").value
        > found.number("no information", "true redness", "r2", "ridge").value
    )
    assert all(tiles.shape == (3, 1, 3, 16, 16) for tiles in found.tiles.samples.values())


@needs_diffusers
def test_tiles_hold_samples_of_every_picture_and_say_which_are_from_outside(tmp_path):
    found = drawn(tmp_path, count=3)
    assert found.tiles.own == (True, True, False)
    assert found.tiles.pictures.shape == (3, 3, 16, 16)
    for tiles in found.tiles.samples.values():
        assert tiles.shape == (3, 3, 3, 16, 16) and tiles.dtype == torch.uint8
        assert not torch.equal(tiles[:, 0], tiles[:, 1])


@needs_diffusers
def test_drawing_again_trains_nothing_and_gives_the_same(tmp_path, monkeypatch):
    first = drawn(tmp_path)
    monkeypatch.setattr("wingspan.rcdm.training.step", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(drawing, "fit", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(drawing, "train_reader", lambda *_: pytest.fail("read again"))
    again = drawn(tmp_path)
    assert first.numbers == again.numbers
    assert all(torch.equal(tiles, again.tiles.samples[name]) for name, tiles in first.tiles.samples.items())


def test_the_lower_rungs_do_without_diffusers(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    assert drawn(tmp_path, "decoder").numbers


def test_a_folder_of_other_features_settings_or_seed_is_refused(tmp_path):
    of = subject()
    drawn(tmp_path, "ridge")
    held = json.loads((tmp_path / "drawn" / "company.json").read_text())
    assert set(held["encoders"]) == {"projection D=64", "projection D=4", "no information"}
    with pytest.raises(UserError, match=r"projection D=4 projection D=4-0 there, projection D=4-7 asked for.*another --out"):
        drawn(tmp_path, "ridge", encoders=[encoder(of, 64), encoder(of, 4, seed=7), nothing(of)])
    with pytest.raises(UserError, match=r"no information nothing there, absent asked for"):
        drawn(tmp_path, "ridge", encoders=[encoder(of, 64), encoder(of, 4)])
    with pytest.raises(UserError, match=r"lr 0\.0015 there, 0\.01 asked for"):
        drawn(tmp_path, "ridge", settings=dataclasses.replace(SMOKE, lr=0.01))
    with pytest.raises(UserError, match="seed 0 there, 1 asked for"):
        drawn(tmp_path, "ridge", seed=1)
    drawn(tmp_path, "ridge", settings=dataclasses.replace(SMOKE, sampling_steps=3, evaluated=12))  # no weight depends on these


def test_pictures_from_outside_need_a_network(tmp_path):
    of = subject()
    stored = dataclasses.replace(encoder(of, 4), encode=None)
    with pytest.raises(UserError, match=r"projection D=4: pictures from outside .picture -1.*leave out --images"):
        drawn(tmp_path, "ridge", encoders=[stored])
    of = subject()
    draw(of, [stored], pictures(of, (0, 1)), "ridge", SMOKE, tmp_path / "inside", 0, RUNTIME, "smoke")


@needs_diffusers
def test_a_sampler_of_a_trained_folder_draws_edits(tmp_path):
    found = drawn(tmp_path)
    of = subject()
    sampler = drawing.trained(of, found.encoders, SMOKE, tmp_path / "drawn", 0, RUNTIME)
    h = drawing.features_of(found.encoders[0], pictures(of))
    again = sampler.samples(0, h, 4, 0)
    assert torch.equal(((again + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), found.tiles.samples["projection D=64"])


@needs_diffusers
def test_who_breaks_the_trust_rule_is_named_with_the_reason(tmp_path):
    found = drawn(tmp_path)  # five steps of training
    said = found.untrusted["projection D=64"]["pixels"]
    kappa = found.number("projection D=64", "pixels", "kappa", "samples").value
    assert said.startswith("under-trained: do not read") and f"kappa {kappa:.2f}" in said
