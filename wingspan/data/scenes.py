"""Procedural images whose factors are known: the embedded data set, and the oracle for what a representation kept."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.data._scenes_factors import CLASSES, DRAWN, Factors, draw, follow
from wingspan.data._scenes_render import render
from wingspan.data.base import Data, ImageSet, InMemory, Split
from wingspan.errors import UserError, nearest

__all__ = ["CLASSES", "Factors", "Scenes", "render"]

_CHUNK_PIXELS = 2**19  # of one colour plane rendered at once, per thread


@dataclass(frozen=True)
class Scenes(Data):
    """A textured, lit object casting a shadow among 0-6 smaller ones before one of 10 backdrops.

    Image i of a split is a function of the fields, the split and i. Every factor in `CLASSES` is a task, and what lies between
    the classes is a quantity (`Factors.quantities`). The target's classes follow `priors` (weights, one a class), or else an
    exponential profile in which the first class is `imbalance` times as frequent as the last, exactly up to rounding; of every
    class the share `bias` lies before the class's own backdrop. These act on the training split only; the test split is
    balanced, and its backdrops tell nothing of the class.
    """

    title: ClassVar[str] = "procedural objects on textured backdrops, with every factor known; nothing to download"

    train: int = 10_000  # images
    test: int = 2_000  # images
    size: int = 32  # side in pixels
    seed: int = 0
    target: str = "shape"  # the factor that supervised pretraining learns
    imbalance: float = 1.0  # most frequent class of the target / rarest, in the training split
    priors: tuple[float, ...] = ()  # of the target's classes in the training split; replaces imbalance
    bias: float = 0.0  # share of the training split's images whose backdrop follows from the target's class; 0..1

    def __post_init__(self) -> None:
        for name, value in (("train", self.train), ("test", self.test)):
            if value < 1:
                raise UserError(f"scenes: {name}={value} images; give at least 1.")
        if self.size < 8:
            raise UserError(f"scenes: size={self.size} pixels is too small to show a scene; give at least 8.")
        if self.target not in CLASSES:
            raise UserError(f"scenes: no factor '{self.target}'.{nearest(self.target, DRAWN)}")
        if self.target not in DRAWN:
            raise UserError(
                f"scenes: target='{self.target}' follows from where the objects are and cannot be drawn to given class"
                f" frequencies; choose one of {', '.join(DRAWN)}."
            )
        if not (math.isfinite(self.imbalance) and self.imbalance >= 1):
            raise UserError(f"scenes: imbalance={self.imbalance}; give 1 (balanced) or more (most frequent / rarest).")
        names = CLASSES[self.target]
        if self.priors and len(self.priors) != len(names):
            raise UserError(
                f"scenes: {len(self.priors)} priors for the {len(names)} classes of '{self.target}'"
                f" ({', '.join(names)}); give one for each."
            )
        if not all(math.isfinite(p) and p > 0 for p in self.priors):
            raise UserError(f"scenes: priors={self.priors}; every prior must be a positive number.")
        if not 0 <= self.bias <= 1:
            raise UserError(f"scenes: bias={self.bias}; give the share of images whose backdrop follows the class, 0 to 1.")
        if self.bias and self.target == "background":
            raise UserError(
                f"scenes: bias={self.bias} ties the backdrop to the target, and target='background' is the backdrop."
            )

    @property
    def side(self) -> int:
        return self.size

    @property
    def label_name(self) -> str:
        return "scenes"

    def factors(self, split: Split) -> Factors:
        """The scenes of a split, to render whole, in part, or recombined (`Factors.recombine`, `render`)."""
        if split == "test":
            return draw(self.test, self.seed, split, {})
        last = len(CLASSES[self.target]) - 1
        profile = self.priors or tuple(self.imbalance ** (-k / last) for k in range(last + 1))
        drawn = draw(self.train, self.seed, split, {self.target: torch.tensor(profile, dtype=torch.float64)})
        return follow(drawn, self.target, self.bias, self.seed)

    def load(self, split: Split) -> ImageSet:
        """Render one split into memory: 3 x size x size bytes an image."""
        factors = self.factors(split)
        pictures = InMemory(render_all(factors, self.size))
        return ImageSet(pictures, factors.labels(), CLASSES, self.target, quantities=factors.quantities())


def render_all(factors: Factors, size: int, foreground: bool = True, background: bool = True) -> Tensor:
    """`render` in chunks that keep memory bounded: (n, 3, size, size) uint8, the same bytes."""
    chunk = max(1, _CHUNK_PIXELS // size**2)
    images = torch.empty(len(factors), 3, size, size, dtype=torch.uint8)

    def work(start: int) -> None:
        rows = slice(start, start + chunk)
        images[rows] = render(factors.take(rows), size, foreground, background)

    # One thread a chunk: sharing out each of the many short operations costs more than it saves, and on a busy machine,
    # where threads wait for one another, ten times more.
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, range(0, len(factors), chunk)))
    finally:
        torch.set_num_threads(threads)
    return images
