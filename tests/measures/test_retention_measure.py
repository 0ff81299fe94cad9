"""Retention as a measure: closed form against what linear algebra must give, and how a drawing becomes numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wingspan import bits
from wingspan.data.base import ImageSet, InMemory
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures.base import NotApplicableError, Number
from wingspan.measures.retention import PRESETS, Retention, measured
from wingspan.rcdm import factors
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.kept import Drawing, Kept, Tiles


def blocks(n: int, seed: int, side: int = 16) -> ImageSet:
    """Random blocks of colour, with the amount of red as label and as quantity."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 4, 4), generator=draw).repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3)
    red = pixels[:, 0].float().mean((1, 2)) / 255
    return ImageSet(
        InMemory(pixels.to(torch.uint8)), {"red": (red > 0.5).long()}, {"red": ("little", "much")}, "red", (), {"redness": red}
    )


def bank_of(h) -> Bank:
    """h: images -> (n, D)"""
    splits = [Split(h(images).half(), images) for images in (blocks(300, 0), blocks(100, 1))]
    return Bank("blocks", *splits, "0")


def unit(images: ImageSet) -> torch.Tensor:
    return images.images.batch(torch.arange(len(images))).float() / 255


def found(measure: Retention, bank: Bank) -> dict[tuple[str, str, str], Number]:
    return {(number.metric, number.task, number.series): number for number in measure.measure(bank, 0).numbers}


def test_what_h_is_made_of_is_kept_and_nothing_else():
    """Of h = the channels' means the colour is kept whole, and of the pixels colour's share of their spread."""
    bank = bank_of(lambda images: unit(images).mean((2, 3)))
    numbers = found(Retention(), bank)
    train, test = (factors.of_pictures(unit(split.images)) for split in (bank.train, bank.test))
    spread = {name: float((test[name] - train[name].mean(0)).square().sum(1).mean()) for name in ("pixels", "colour")}
    assert numbers["r2", "", "colour"].value == pytest.approx(1, abs=0.01)
    assert numbers["r2", "", "pixels"].value == pytest.approx(spread["colour"] / spread["pixels"], abs=0.02)
    assert abs(numbers["r2", "", "layout"].value) < 0.03 and abs(numbers["r2", "", "flip asymmetry"].value) < 0.03
    assert numbers["r2", "redness", "true"].value > 0.98 > numbers["r2", "red", "true"].value > 0.4
    assert all(number.n == 100 and number.error is not None and number.error < 0.2 for number in numbers.values())


def test_noise_keeps_nothing():
    noise = torch.Generator().manual_seed(3)
    numbers = found(Retention(), bank_of(lambda images: torch.randn(len(images), 5, generator=noise)))
    assert len(numbers) == 7 and all(abs(number.value) < 0.08 for number in numbers.values())


def test_packed_bits_are_read_as_zeros_and_ones():
    def signs(images: ImageSet) -> torch.Tensor:
        return unit(images).flatten(1)[:, ::24] - 0.5

    bank = bank_of(signs)
    packed = [Split(bits.pack(split.h), split.images, width=32) for split in (bank.train, bank.test)]
    assert packed[0].h.shape == (300, 4)
    dense = bank_of(lambda images: (signs(images).half() > 0).float())
    assert found(Retention(), Bank("blocks", *packed, "0")) == found(Retention(), dense)


def test_images_that_are_larger_than_what_is_drawn_are_shrunk():
    """Images of twice the side, each pixel four times, are the same pictures once shrunk."""

    def twice(split: Split) -> Split:
        pixels = split.images.images.batch(torch.arange(len(split.images)))
        larger = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return Split(split.h, replace(split.images, images=InMemory(larger)))

    small, bank = Retention(preset="smoke"), bank_of(lambda images: unit(images).mean((2, 3)))
    assert small.settings(32).side == small.settings(16).side == 16
    assert found(small, replace(bank, train=twice(bank.train), test=twice(bank.test))) == found(small, bank)


def test_scenes_have_foreground_and_background():
    data = Scenes(train=60, test=40, size=16)
    splits = [Split(unit(images).flatten(1)[:, ::3].half(), images) for images in map(data.load, ("train", "test"))]
    series = {number.series for number in Retention().measure(Bank("scenes", *splits, "0", source=data), 0).numbers}
    assert {"foreground", "background", "pixels", "true"} <= series


@pytest.mark.parametrize("rung", ["decoder", "samples"])
def test_a_run_alone_is_drawn_too_and_leaves_nothing_behind(rung, tmp_path, monkeypatch):
    if rung == "samples":
        pytest.importorskip("diffusers")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bank = bank_of(lambda images: unit(images).mean((2, 3)))
    numbers = found(Retention(rung=rung, preset="smoke"), bank)
    metrics = {metric for metric, _, _ in numbers}
    assert "r2 of ridge" in metrics and numbers["r2 of ridge", "", "colour"].value == pytest.approx(1, abs=0.01)
    assert {"kappa", "r2 of decoder"} <= metrics if rung == "samples" else "r2" in metrics
    assert not list(tmp_path.iterdir())


def test_settings_fit_the_images_and_last_longer_where_asked():
    assert [PRESETS["retention_samples"].settings(side).side for side in (224, 32, 28, 16)] == [32, 32, 24, 16]
    assert Retention(preset="gpu128").settings(100).side == 96  # its four levels fold 16 pixels
    longer, plain = Retention(longer=2.5).settings(32), Retention().settings(32)
    assert (longer.steps, longer.steps_more) == (2.5 * plain.steps, 2.5 * plain.steps_more)
    assert (longer.decoder_steps, longer.evaluated) == (2.5 * plain.decoder_steps, plain.evaluated)
    assert not Retention().together and Retention("decoder").together and Retention("samples").together


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"preset 'cpu23' is not known.*cpu32"):
        Retention(preset="cpu23")
    with pytest.raises(UserError, match="longer 0 must be positive"):
        Retention(longer=0)
    small = [Split(torch.zeros(n, 2).half(), blocks(n, 0, side=8)) for n in (9, 9)]
    with pytest.raises(NotApplicableError, match="tiles has images of 8 pixels a side; 16 or more are drawn"):
        Retention().measure(Bank("tiles", *small, "0"), 0)


def drawing(untrusted: dict[str, dict[str, str]]) -> Drawing:
    """Two encoders, one of them a reference, with a few numbers each."""
    encoders = tuple(Encoder(name, name, name, None, None, reference=name != "run") for name in ("run", "untrained"))  # type: ignore[arg-type]
    shared = {"pixels": 0.5, "layout": 0.4, "true red": 0.3}
    numbers = [
        Kept(name, factor, "samples", metric, value, value - 0.1, value + 0.1, 50)  # type: ignore[arg-type]
        for name in ("run", "untrained")
        for factor, value in shared.items()
        for metric in ("tau", "rho", "kappa")
    ]
    numbers += [
        Kept("run", "pixels", "ridge", "r2", 0.6, 0.5, 0.8, 2000),
        Kept("run", "true red", "ridge", "r2", 0.6, 0.5, 0.8, 9),
    ]
    numbers += [Kept("run", "detail", "samples", "kappa", float("inf"), 1.0, float("inf"), 50)]
    numbers += [Kept("run", "", "samples", "mrr", 0.2, 0.1, 0.3, 50, chance=0.05)]
    empty = Tiles(torch.zeros(0, 3, 16, 16), (), (), {})
    return Drawing("blocks", "samples", "smoke", encoders, tuple(numbers), empty, untrusted, ("said by the drawing",))


def test_only_trusted_tau_is_called_tau():
    made = measured(drawing({"run": {"layout": "under-trained: do not read (kappa 2.0)"}}), "run")
    values = {(number.metric, number.task, number.series): number.value for number in made.numbers}
    assert values == {
        ("tau", "", "pixels"): 0.5,
        ("rho", "", "pixels"): 0.5,
        ("kappa", "", "pixels"): 0.5,
        ("tau of an under-trained decoder", "", "layout"): 0.4,
        ("rho of an under-trained decoder", "", "layout"): 0.4,
        ("kappa", "", "layout"): 0.4,
        ("tau", "red", "true"): 0.3,
        ("reciprocal rank", "", ""): 0.2,
        ("r2 of ridge", "", "pixels"): 0.6,
    }
    (tau,) = [number for number in made.numbers if (number.metric, number.series) == ("tau", "pixels")]
    assert tau.error == pytest.approx(0.2 / 3.92) and tau.n == 50
    (rank,) = [number for number in made.numbers if number.metric == "reciprocal rank"]
    assert rank.chance == 0.05
    assert made.notes == (
        "layout: under-trained: do not read (kappa 2.0)",
        "tau of pixels, to hold it against: untrained 0.50.",
        "said by the drawing",
    )


def test_references_give_no_numbers_to_a_run():
    assert len(measured(drawing({}), "run").numbers) == 9
    assert not any("under-trained" in number.metric for number in measured(drawing({}), "run").numbers)
