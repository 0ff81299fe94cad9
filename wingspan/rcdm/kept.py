"""What was found: numbers a factor and an encoder, and the pictures drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from wingspan.rcdm.encoders import Encoder

Rung = Literal["ridge", "decoder", "samples"]
Metric = Literal["r2", "tau", "rho", "kappa", "mrr", "median rank"]


@dataclass(frozen=True)
class Kept:
    """One number: of an encoder, a factor ("" for ranks), on a rung, with a 95 % bootstrap interval over n test images."""

    encoder: str
    factor: str
    rung: Rung
    metric: Metric
    value: float
    low: float
    high: float
    n: int
    chance: float | None = None


@dataclass(frozen=True)
class Tiles:
    """Pictures that were drawn: P of them, each with what every encoder's decoder made of its h.

    pictures (P, 3, S, S) uint8; samples: encoder's name -> (P, s, 3, S, S) uint8, s = 1 on the rungs without samples. The same
    noise went into column k of every encoder and picture.
    """

    pictures: Tensor
    names: tuple[str, ...]
    own: tuple[bool, ...]  # whether a picture comes from the data set that was learnt, or from outside
    samples: Mapping[str, Tensor]


@dataclass(frozen=True)
class Drawing:
    """Everything that one company of encoders gave on one data set.

    numbers hold every rung up to the one asked for. untrusted: encoder's name -> factors whose samples break the trust rule,
    with the sentence that says how; those must not be read as lost information.
    """

    data: str
    rung: Rung
    preset: str
    encoders: tuple[Encoder, ...]
    numbers: tuple[Kept, ...]
    tiles: Tiles
    untrusted: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def number(self, encoder: str, factor: str, metric: Metric, rung: Rung) -> Kept | None:
        """The number, or None where it was not found."""
        wanted = (encoder, factor, metric, rung)
        return next((k for k in self.numbers if (k.encoder, k.factor, k.metric, k.rung) == wanted), None)
