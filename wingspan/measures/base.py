"""What a measure is: features in, named numbers out.

A file in this folder defines one frozen dataclass deriving from `Measure`, and may offer `PRESETS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from wingspan.features import Bank


@dataclass(frozen=True)
class Number:
    """One measured number: on which task, over how many test images and classes, and what guessing would give."""

    metric: str
    task: str
    value: float
    n: int
    classes: int
    chance: float  # the value of always answering the most frequent class of the test set


@dataclass(frozen=True)
class Measure(ABC):
    """A measurement. Subclasses are frozen dataclasses of its settings."""

    title: ClassVar[str]

    @abstractmethod
    def measure(self, bank: Bank, seed: int) -> list[Number]:
        """Every number this measure finds in a bank of features. Pure in (bank, seed)."""
