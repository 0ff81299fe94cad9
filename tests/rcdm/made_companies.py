"""Small companies of encoders on random pictures, and ridges that need no fitting."""

from __future__ import annotations

import torch
from torch import Tensor

from wingspan.data.base import ImageSet, InMemory
from wingspan.inputs import Inputs
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.settings import PRESETS

SMOKE = PRESETS["smoke"]


class Constant:
    """A ridge that predicts the same grey for everyone."""

    def __init__(self, side: int = 16, value: float = 0.5) -> None:
        self.size, self.value = 3 * side**2, value

    def held_out(self, inputs: Inputs, rows: Tensor, columns: slice = slice(None)) -> Tensor:
        return torch.full((len(rows), self.size), self.value)

    def predict(self, h: Tensor, columns: slice = slice(None)) -> Tensor:
        return torch.full((len(h), self.size), self.value)


def subject(train: int = 48, test: int = 24, side: int = 16, seed: int = 0) -> Subject:
    """Random blocks of colour, with a task and a quantity that follow from them."""
    drawn = torch.Generator().manual_seed(seed)

    def split(n: int) -> ImageSet:
        blocks = torch.randint(0, 256, (n, 3, 4, 4), generator=drawn)
        pixels = blocks.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3).to(torch.uint8)
        red = pixels[:, 0].float().mean((1, 2)) / 255
        return ImageSet(InMemory(pixels), {"red": (red > 0.5).long()}, {"red": ("less", "more")}, "red", (), {"redness": red})

    splits = {"train": split(train), "test": split(test)}
    return Subject("blocks", side, splits["train"].images, splits["test"].images, splits, None, side)


def encoder(of: Subject, D: int, name: str = "", seed: int = 0) -> Encoder:
    """A random projection of the pictures to D numbers."""
    ways = torch.randn(3 * of.side**2, D, generator=torch.Generator().manual_seed(seed)) / of.side

    def encode(pixels: Tensor) -> Tensor:
        return pixels.float().flatten(1) / 255 @ ways

    def features(images: InMemory) -> Tensor:
        return encode(images.batch(torch.arange(len(images)))).half()

    train = Inputs(features(of.train)).standardised()
    name = name or f"projection D={D}"
    return Encoder(name, "projection", f"{name}-{seed}", train, train.like(features(of.test)), encode, seed)


def nothing(of: Subject) -> Encoder:
    """No information."""
    train = Inputs(torch.zeros(len(of.train), 1).half()).standardised()
    test = train.like(torch.zeros(len(of.test), 1).half())
    return Encoder("no information", "no information", "nothing", train, test, lambda p: torch.zeros(len(p), 1), reference=True)
