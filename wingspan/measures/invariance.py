"""Which changes of an image a representation ignores: the bias of pretraining made visible, and what width gave back.

Movement. Every operation of `wingspan/augment.py` is applied alone, with certainty and with pretraining's own strength. An
operation's movement is

    mean |h(x) - h(t(x))|^2 / mean |h(x) - h(x')|^2

over images x, and over pairs of different images x, x', all plain views but t(x): 0 where h ignores the operation, 1 where an
image and its changed self lie as far apart as two images. The denominator is twice the trace of the covariance, so the ratio
does not depend on the scale of h or on how many dimensions lie dead, and widths can be compared.

Read from h. Where images pose several tasks (the factors of `scenes`), a fast linear probe tells how much of each is left:
(accuracy - chance) / (1 - chance), 0 for guessing the most frequent class and 1 for always right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from wingspan import chance
from wingspan.augment import PRESETS as AUGMENTATIONS
from wingspan.augment import Augment
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.inputs import Inputs
from wingspan.measures._heads import Recipe, fit
from wingspan.measures._tasks import tasks
from wingspan.measures.base import Measure, Measured, NotApplicableError, Number
from wingspan.network import Network

OPERATIONS = ("crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "solarise", "blur")
_BATCH = 256  # images a forward pass
_ROUNDING = 1e-12  # of |h|^2: what two equal images may lie apart


@dataclass(frozen=True)
class Invariance(Measure):
    """How far each augmentation moves h, and how much of each known factor is left in it."""

    title: ClassVar[str] = "how far each augmentation moves h, and how well each known factor is read from it"
    source: ClassVar[str] = "Wingspan's own; after section 3 and Figure 5, which show invariances by samples"
    reading: ClassVar[str] = (
        "Movement: 0 where the representation ignores an operation, 1 where the changed image lies as far from the original as"
        " another image does. Read from h: 0 where a factor is lost, 1 where a linear classifier always finds it. A width that"
        " raises them gives back what the objective discards."
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"train", "test", "network"})

    images: int = 1024
    """Test images, drawn at random, whose views are compared. More for smaller errors."""
    epochs: int = 10
    """Passes of the linear probe that reads the factors; 0 leaves them out."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"invariance: images={self.images}; give at least 2, as different images are compared.")
        if self.epochs < 0:
            raise UserError(f"invariance: epochs={self.epochs}; give 0 (no probe) or more.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        moved, notes = self._movements(bank, seed)
        numbers = moved + self._read(bank, seed)
        if not numbers:
            raise NotApplicableError(f"'{bank.data}': {'; '.join(notes)}.")
        return Measured(tuple(numbers), notes=tuple(notes))

    def _movements(self, bank: Bank, seed: int) -> tuple[list[Number], list[str]]:
        network, images = bank.network, bank.test.images
        if network is None:
            return [], ["movement needs the network itself, and these are features from a file"]
        order = torch.randperm(len(images), generator=chance.generator(seed, "invariance images"))[: self.images]
        h = torch.cat([network.h(network.plain(images.images.batch(rows))).cpu() for rows in order.split(_BATCH)])
        apart = pairwise(h)
        if not len(h) > 1 or float(apart.mean()) <= _ROUNDING * float(torch.linalg.vector_norm(h)) ** 2 / len(h):
            return [], ["every image gives the same h (a collapsed run?), so that movement has no unit"]
        off, changes = operations(network.augment)
        numbers = []
        for name, augment in changes.items():
            moved = _moved(replace(network, augment=augment), bank, order, h, chance.key(seed, "invariance"))
            value = float(moved.mean() / apart.mean())
            # Delta method for the ratio of two means over images.
            error = float((moved - value * apart).std() / apart.mean()) / math.sqrt(len(h))
            numbers.append(Number("movement", "", value, len(h), series=name, error=error))
        absent = f"not among pretraining's own operations, applied as by default: {', '.join(off)}"
        return numbers, [absent] if off else []

    def _read(self, bank: Bank, seed: int) -> list[Number]:
        """One number a task, where there are several; none for a task whose test images are all of one class."""
        if not self.epochs or len(bank.test.images.labels) < 2:
            return []
        posed = tasks(bank, quantities=False)
        inputs = Inputs.of(bank.train).standardised()
        recipe = Recipe(lr=1e-2, weight_decay=1e-2, batch=256, epochs=self.epochs, cosine=True)
        (heads,) = fit(inputs, posed, [recipe], seed, label=f"factors of {bank.data}")
        scores = heads.scores(inputs.like(bank.test.h))
        found = []
        for one in (task.score(scores[task.name]) for task in posed):
            chance_, error = one.chance or 0.0, one.error or 0.0
            if chance_ < 1:
                left, scale = (one.value - chance_) / (1 - chance_), 1 / (1 - chance_)
                found.append(Number("read from h", "", left, one.n, one.classes, 0.0, one.task, error * scale))
        return found


def operations(used: Augment) -> tuple[list[str], Mapping[str, Augment]]:
    """Operations that `used` leaves off, and for each of `OPERATIONS` an `Augment` that does it alone and always.

    Strengths are those of `used`; an operation that it leaves off (probability or strength 0 in every view) has the strength
    of `Augment()`: the paper's, but for blur, which the paper does not list and whose sigma is BYOL's, in pixels.
    """
    paper = Augment()
    still = replace(AUGMENTATIONS["none"], size=used.size, mean=used.mean, std=used.std)
    jittered = replace(still, jitter=(1.0,), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    off: list[str] = []

    def source(name: str, on: bool) -> Augment:
        if not on:
            off.append(name)
        return used if on else paper

    crop = source("crop", (used.scale, used.ratio) != ((1.0, 1.0), (1.0, 1.0)))
    made = {"crop": replace(still, scale=crop.scale, ratio=crop.ratio)}
    source("flip", max(used.flip) > 0)
    made["flip"] = replace(still, flip=(1.0,))
    for name in ("brightness", "contrast", "saturation", "hue"):
        strength = getattr(source(name, max(used.jitter) > 0 and getattr(used, name) > 0), name)
        made[name] = replace(jittered, **{name: strength})
    source("grey", max(used.grey) > 0)
    made["grey"] = replace(still, grey=(1.0,))
    threshold = source("solarise", max(used.solarise) > 0).threshold
    made["solarise"] = replace(still, solarise=(1.0,), threshold=threshold)
    sigma = source("blur", max(used.blur) > 0).blur_sigma
    made["blur"] = replace(still, blur=(1.0,), blur_sigma=sigma)
    return off, made


def pairwise(h: Tensor) -> Tensor:
    """(n, D) -> (n,) float64 whose mean is the mean of |h_i - h_j|^2 over all pairs of different rows.

    Each entry is twice a row's squared distance to the mean, the row's share in that average (its Hajek projection but for
    a constant), so that the entries' spread gives the average's standard error.
    """
    mean = h.mean(0, dtype=torch.float64)
    from_mean = torch.cat([(part.double() - mean).square().sum(1) for part in h.split(_BATCH)])
    return from_mean * (2 / max(1 - 1 / len(h), 0.5))


def _moved(network: Network, bank: Bank, order: Tensor, h: Tensor, seed: int) -> Tensor:
    """(n,) float64: |h(x) - h(t(x))|^2 of the images at `order`, whose plain views give h (n, D)."""
    parts = []
    for step, (rows, before) in enumerate(zip(order.split(_BATCH), h.split(_BATCH), strict=True)):
        views = network.views(bank.test.images.images.batch(rows), 1, seed, step)[0]
        parts.append((network.h(views).cpu().double() - before.double()).square().sum(1))
    return torch.cat(parts)
