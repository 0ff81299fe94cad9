"""What a measure is: features, and the network itself where it asks for it, in; named numbers and curves out.

A file in this folder defines one frozen dataclass deriving from `Measure`, and may offer `PRESETS`. Its class variables say
what it needs, which figure of the paper it repeats and how its page is to be read; the report needs nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from wingspan.errors import UserError
from wingspan.features import Bank, Need


class NotApplicableError(UserError):
    """This measure has nothing to measure on these images. Told, recorded, and no failure."""


@dataclass(frozen=True)
class Number:
    """One measured number: on which task, over how many test images and classes, and what guessing would give.

    series: what tells numbers of one metric and task apart, lines of one panel: "linear" and "mlp", "h" and "projector 1".
    error: standard error of the value, over test images or over repetitions, whichever the measure repeats; None if unknown.
    """

    metric: str  # accuracy, r2, rank, ...; a metric whose name holds "accuracy" is a fraction shown in per cent
    task: str  # "" for what concerns the images and not a task of theirs
    value: float
    n: int
    classes: int = 0
    chance: float | None = None  # the value of always answering the most frequent class of the test set
    series: str = ""
    error: float | None = None


@dataclass(frozen=True)
class Curve:
    """One measured curve, for the eye: a sorted sparsity, a spectrum. At most a few hundred points."""

    name: str  # curves of one name and task are drawn in one panel, a line a run
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_label: str
    y_label: str
    task: str = ""
    series: str = ""
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    expected: bool = False  # what theory gives and not what was measured: drawn dashed


@dataclass(frozen=True)
class Measured:
    """What a measure found on one run and one data set."""

    numbers: Sequence[Number]
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()  # what a reader must know about these numbers: a guess made, images left out


@dataclass(frozen=True)
class Measure(ABC):
    """A measurement. Subclasses are frozen dataclasses of its settings."""

    title: ClassVar[str]
    source: ClassVar[str] = ""  # where it comes from: "Figure 7", a paper
    reading: ClassVar[str] = ""  # how to read its pictures, in a sentence or two
    reads_bits: ClassVar[bool] = False  # whether packed bits (h > 0) are enough for it
    curves_first: ClassVar[bool] = False  # whether its curves are the paper's picture, or its point, and head its page

    @property
    def needs(self) -> frozenset[Need]:
        """What a bank must hold for these settings. A measure that always needs the same says so by a class variable."""
        return frozenset({"train", "test"})

    @property
    def together(self) -> bool:
        """Whether runs are to be measured side by side: then their numbers compare only where they come from one company."""
        return False

    @abstractmethod
    def measure(self, bank: Bank, seed: int) -> Measured:
        """Every number this measure finds in a bank. Pure in (bank, seed).

        Raises NotApplicableError when these images have nothing of its kind, UserError for what can be mended.
        """
