"""Stores of known features: a network that reads h off the pixels, so that what must come out is known without a network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wingspan.augment import PRESETS
from wingspan.chance import generator
from wingspan.data.base import Data, ImageSet, InMemory, Split
from wingspan.extraction import Wanted, extract_to
from wingspan.network import Network
from wingspan.runtime import Runtime
from wingspan.store.manifest import Model
from wingspan.store.store import Store

MODEL = Model("made", "", "0123456789", 7, "f" * 64)


@dataclass(frozen=True)
class Small(Data):
    """Images of four pixels a side."""

    title = "made for tests"

    @property
    def side(self) -> int:
        return 4

    @property
    def label_name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Made(Small):
    """Random images of three classes, each with a weight and a name."""

    rows: int = 300
    tests: int = 90
    bare: bool = False  # without labels, quantities and names

    def load(self, split: Split) -> ImageSet:
        n = self.rows if split == "train" else self.tests
        draw = generator(0, "made", len(split))
        pixels = InMemory(torch.randint(0, 256, (n, 3, 4, 4), generator=draw, dtype=torch.uint8))
        if self.bare:
            return ImageSet(pixels)
        kinds = ("ant", "bee", "cow")
        return ImageSet(
            pixels,
            {"kind": torch.arange(n) % 3, "half": torch.arange(n) % 2},
            {"kind": kinds, "half": ("left", "right")},
            "kind",
            quantities={"weight": torch.rand(n, generator=draw)},
            rows=2 * torch.arange(n),
            names=lambda: [f"{kinds[i % 3]}/{i}.png" for i in range(n)],
        )


class Reader(nn.Module):
    """h = ReLU of fixed random sums of pixels: about half the values are 0."""

    def __init__(self, width: int, relu: bool = True) -> None:
        super().__init__()
        draw = generator(0, "reader", width)
        self.weight = nn.Parameter(torch.randn(width, 48, generator=draw))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1) @ self.weight.T
        return h.relu() if self.relu else h


def network(width: int = 256, relu: bool = True) -> Network:
    return Network(Reader(width, relu), PRESETS["paper"], Runtime("cpu", "fp32"), name="made")


def truth(width: int, split: Split, data: Made = Made(), relu: bool = True) -> Tensor:
    """What a store must hold: h (N, D) fp16."""
    seen = network(width, relu).at(data.side)
    images = data.load(split).images
    return seen.h(seen.plain(images.batch(torch.arange(len(images))))).half()


def made(folder: Path, width: int = 256, data: Made = Made(), relu: bool = True, **wanted: object) -> Store:
    asked = dataclasses.replace(Wanted("packed", batch=50), **wanted)  # type: ignore[arg-type]
    return extract_to(folder, network(width, relu), MODEL, data, asked)
