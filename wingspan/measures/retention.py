"""How much of a picture h keeps, a factor of it at a time: by closed form, by a decoder, or by samples of a diffusion model.

The paper's Figure 5 lets the eye judge samples drawn from h by RCDM (Bordes et al. 2022); the numbers, what they are of and
when they may be read are ours (`wingspan.rcdm.retention`). On the rungs above ridge a trained network stands between h and
the number, so runs are drawn in a company that shares its trunk (`together`); `measure` draws a run alone, and its number is
then no more to be compared with that of another run than two trainings are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.errors import UserError
from wingspan.features import Bank
from wingspan.inputs import Inputs
from wingspan.measures.base import Measure, Measured, NotApplicableError, Number
from wingspan.rcdm import drawing, factors
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.kept import Drawing, Kept, Metric, Rung
from wingspan.rcdm.pictures import Pictures
from wingspan.rcdm.settings import Settings, preset
from wingspan.rcdm.shrunk import Shrunk, masks_of
from wingspan.runtime import Runtime

SMALLEST = 16  # pixels a side that are drawn
UNTRAINED = " of an under-trained decoder"
"""Ends the name of a metric that breaks the trust rule, so that neither a claim nor a figure takes it for what was kept."""
_HALF = 1.96  # standard errors in half of a 95 % interval
_AT_ONCE = 256
_LENGTHS = ("steps", "steps_more", "decoder_steps", "decoder_steps_more")


@dataclass(frozen=True)
class Retention(Measure):
    """R2 of what ridge or decoder make of h, or tau of samples, a factor; kappa says whether tau may be read."""

    title: ClassVar[str] = "how much of a picture h keeps: pixels, colour, layout, detail, pose"
    source: ClassVar[str] = "Figure 5, by RCDM (Bordes et al. 2022); the numbers are ours"
    reads_bits: ClassVar[bool] = True
    reading: ClassVar[str] = (
        "1: h tells this of the picture exactly, 0: no more than the mean picture does. tau is of samples drawn from h, R2 of "
        "one picture predicted from it. An untrained network keeps much too: more retained is not better. kappa, 1 for an "
        "exact sampler, says whether tau may be read; outside 0.8 to 1.25, or where ridge or decoder explain more, tau is "
        "called that of an under-trained decoder, and says nothing of h."
    )

    rung: Rung = "ridge"
    """How far to go. ridge: closed form, seconds. decoder: a small network, a minute. samples: a diffusion model, minutes on a
    CPU; it needs pip install 'wingspan[rcdm]'."""
    preset: str = "cpu32"
    """Size of pictures and decoders: smoke (does it run?), cpu32, gpu64, gpu128, paper128. Images that are smaller are drawn
    at their own side."""
    longer: float = 1.0
    """Train decoders so many times as long as the preset says. Raise it where numbers are of an under-trained decoder."""

    def __post_init__(self) -> None:
        preset(self.preset)
        if not 0 < self.longer < math.inf:
            raise UserError(f"retention: longer {self.longer} must be positive.")

    @property
    def together(self) -> bool:
        return self.rung != "ridge"

    def settings(self, side: int) -> Settings:
        """The preset as these settings change it, for images of `side` pixels."""
        chosen = preset(self.preset)
        fold = max(8, chosen.unshuffle * 2 ** (len(chosen.channels) - 1))
        lengths = {name: max(1, round(getattr(chosen, name) * self.longer)) for name in _LENGTHS}
        return replace(chosen, side=min(chosen.side, side // fold * fold), **lengths)

    def measure(self, bank: Bank, seed: int) -> Measured:
        side = bank.test.images.images.side
        if side < SMALLEST:
            raise NotApplicableError(f"{bank.data} has images of {side} pixels a side; {SMALLEST} or more are drawn.")
        settings = self.settings(side)
        subject, encoder = _subject(bank, settings.side), _encoder(bank, seed)
        first = torch.zeros(1, dtype=torch.int64)
        shown = Pictures(bank.test.images.images.batch(first), ("test:0",), first, subject.test.batch(first))
        runtime = bank.network.runtime if bank.network else Runtime("cpu")
        with tempfile.TemporaryDirectory(prefix="wingspan-retention-") as folder:
            made = drawing.draw(
                subject, [encoder], shown, self.rung, settings, Path(folder), seed, runtime, self.preset, count=1
            )
        return measured(made, encoder.name)


PRESETS = {
    "retention_decoder": Retention(rung="decoder"),
    "retention_samples": Retention(rung="samples"),
    "retention_smoke": Retention(rung="samples", preset="smoke"),
}


def measured(made: Drawing, encoder: str) -> Measured:
    """What a drawing says of one of its encoders.

    Metrics: `r2` of the rung drawn, `r2 of ridge` and so on of those below it; of samples `tau`, `rho` and `kappa`, and
    `reciprocal rank` and `median rank` where there was a network to ask. A factor of pictures is the series; a true factor is
    the task, of series "true", and only its `r2` or `tau` is given. What is not finite is left out. The error is that of a
    normal distribution with the bootstrap interval's width.
    """
    wrong = made.untrusted.get(encoder, {})
    numbers = [
        Number(
            metric=_metric(made, kept, kept.factor in wrong),
            task=kept.factor.removeprefix(factors.TRUE) if _true(kept) else "",
            value=kept.value,
            n=kept.n,
            chance=kept.chance,
            series="true" if _true(kept) else kept.factor,
            error=(kept.high - kept.low) / (2 * _HALF) if math.isfinite(kept.high - kept.low) else None,
        )
        for kept in sorted(made.numbers, key=lambda kept: kept.rung != made.rung)  # the rung drawn comes first on pages
        if kept.encoder == encoder and math.isfinite(kept.value) and (not _true(kept) or kept.metric == _headline(made, kept))
    ]
    return Measured(tuple(numbers), notes=tuple(_notes(made, encoder)))


def _true(kept: Kept) -> bool:
    return kept.factor.startswith(factors.TRUE)


def _headline(made: Drawing, kept: Kept) -> str:
    """The metric that stands for a rung; "" for the rungs below the one drawn."""
    return "" if kept.rung != made.rung else "tau" if made.rung == "samples" else "r2"


def _metric(made: Drawing, kept: Kept, untrusted: bool) -> str:
    if kept.metric == "mrr":
        return "reciprocal rank"
    if kept.metric == "r2" and kept.rung != made.rung:
        return f"r2 of {kept.rung}"
    return kept.metric + UNTRAINED * (untrusted and kept.metric in ("tau", "rho"))


def _notes(made: Drawing, encoder: str) -> Iterator[str]:
    """Which factors must not be read and why; what the references come to; and what the drawing itself has to say."""
    for factor, said in made.untrusted.get(encoder, {}).items():
        yield f"{factor}: {said}"
    metric: Metric = "tau" if made.rung == "samples" else "r2"
    beside = [(each.name, made.number(each.name, "pixels", metric, made.rung)) for each in made.encoders if each.reference]
    told = [f"{name} {kept.value:.2f}" for name, kept in beside if kept is not None]
    if told:
        yield f"{metric} of pixels, to hold it against: {', '.join(told)}."
    yield from made.notes


# ------------------------------------------------------------------------------------------------------------- one run alone


def _subject(bank: Bank, side: int) -> Subject:
    splits = {"train": bank.train.images, "test": bank.test.images}
    train, test = (Shrunk(images.images, side) for images in splits.values())
    return Subject(bank.data, side, train, test, splits, masks_of(bank.source, side), bank.test.images.images.side)


def _encoder(bank: Bank, seed: int) -> Encoder:
    network, inputs = bank.network, Inputs.of(bank.train).standardised()

    def encode(pixels: Tensor) -> Tensor:
        assert network is not None
        return torch.cat([network.h(network.plain(part)).cpu() for part in pixels.split(_AT_ONCE)])

    given = None if network is None else encode
    return Encoder("this run", "this run", bank.fingerprint, inputs, inputs.like(bank.test.h), given, seed)
