"""How representations lie on the sphere: alike for two views of an image, spread for different images.

Alignment and uniformity are Wang and Isola's (2020, "Understanding contrastive representation learning through alignment and
uniformity on the hypersphere", equations 4 and 5 with alpha = 2, t = 2). They define both on the embedding z; here they are
measured on h as well, each vector divided by its norm. A vector of zeros has no direction and stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan import chance
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.measures._curves import some
from wingspan.measures.base import Measure, Measured, NotApplicableError, Number
from wingspan.network import Network

_T = 2.0
_BATCH = 128  # images: two views of each go through the network
_ROWS = 256  # of the pairwise matrix at a time


@dataclass(frozen=True)
class Geometry(Measure):
    """Uniformity, alignment and cosines on the unit sphere, on h and on the projector's output."""

    title: ClassVar[str] = "alignment of two views and uniformity over images, on the unit sphere"
    source: ClassVar[str] = "Wang and Isola 2020"
    reading: ClassVar[str] = (
        "Alignment: mean squared distance of two views of an image, 0 is best. Uniformity: lower is more evenly spread; 0 is "
        "collapse, about -4 a uniform cloud in many dimensions. h after a ReLU is confined to one orthant: its cosines are "
        "never negative, so compare h with h and z with z."
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"network"})

    images: int = 2048
    """Test images looked at, drawn at random; the time grows with its square. Keep it the same in what you compare."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"geometry: images {self.images} must be at least 2: it compares images with each other.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        network, images = bank.network, bank.test.images.images
        if network is None:
            raise NotApplicableError("geometry makes views of its own: it needs the network, not features alone.")
        if len(images) < 2:
            raise NotApplicableError(f"'{bank.data}' has {len(images)} test images: geometry compares images with each other.")
        rows = some(len(images), self.images, seed, "geometry images")
        found = _directions(network, rows, images.batch, chance.key(seed, "geometry views"))
        numbers: list[Number] = []
        notes: list[str] = []
        for name, (plain, first, second) in found.items():
            numbers += [
                Number(metric, "", value, len(rows), series=name, error=error)
                for metric, (value, error) in {"uniformity": uniformity(plain), **alignment(first, second)}.items()
            ]
            if silent := int((plain == 0).all(1).sum()):
                notes.append(f"{silent} of {len(rows)} images have a {name} of zeros, which has no direction.")
        return Measured(tuple(numbers), notes=tuple(notes))


def _directions(network: Network, rows: Tensor, fetch: Callable[[Tensor], Tensor], draw: int) -> dict[str, Tensor]:
    """{"h": (3, n, D), "projector 3": (3, n, K)}: unit vectors on the CPU, of the view without chance, then two random."""
    names = network.layer_names()
    found: dict[str, Tensor] = {}
    for step, part in enumerate(rows.split(_BATCH)):
        pixels = fetch(part)
        for at, views in enumerate((network.plain(pixels), *network.views(pixels, 2, draw, step))):
            made = network.layers(views)
            for name in dict.fromkeys(("h", names[-1])):
                if name not in found:
                    found[name] = torch.empty(3, len(rows), made[name].shape[1])
                found[name][at, step * _BATCH : step * _BATCH + len(part)] = F.normalize(made[name], dim=1)
    return found


def uniformity(x: Tensor) -> tuple[float, float]:
    """log of the mean of exp(-2 |x_i - x_j|^2) over pairs i < j, and its standard error; x (N, d) on the unit sphere.

    The error is that of a mean over pairs (a U-statistic: twice the spread of each image's own mean, over the square root of
    N), carried through the logarithm. Where no image is special (a uniform cloud) it is up to the square root of 2 too large.
    """
    N = len(x)
    lengths = x.square().sum(1)
    means = []
    for at, part in enumerate(x.split(_ROWS)):
        rows = torch.arange(at * _ROWS, at * _ROWS + len(part))
        distances = (lengths[rows, None] + lengths - 2 * part @ x.T).clamp_(min=0)
        close = distances.mul_(-_T).exp_()
        close[torch.arange(len(part)), rows] = 0
        means.append(close.sum(1, dtype=torch.float64) / (N - 1))
    own = torch.cat(means)
    mean = float(own.mean())
    return math.log(mean), 2 * float(own.std()) / math.sqrt(N) / mean


def alignment(first: Tensor, second: Tensor) -> dict[str, tuple[float, float]]:
    """Two views (N, d) of each image, on the sphere -> metric: (value, standard error over images).

    The cosine of different images compares view 1 of one with view 2 of another, so that it differs from the cosine of one
    image in nothing but the image. Its mean over the N (N - 1) pairs needs sums only; its error is that of a U-statistic.
    """
    N = len(first)
    squared = (first - second).square().sum(1).double()
    same = (first * second).sum(1).double()
    total_first, total_second = (view.sum(0, dtype=torch.float64).float() for view in (first, second))
    others = ((first @ total_second).double() - same) / (N - 1), ((second @ total_first).double() - same) / (N - 1)
    root = math.sqrt(N)
    return {
        "alignment": (float(squared.mean()), float(squared.std()) / root),
        "cosine of two views": (float(same.mean()), float(same.std()) / root),
        "cosine of different images": (float(others[0].mean()), float((others[0] + others[1]).std()) / root),
    }
