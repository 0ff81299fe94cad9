"""What a backbone is: (B, 3, H, W) -> h (B, D), after ReLU and global average pooling. Its width D is the lever.

A file in this folder defines one frozen dataclass deriving from `Backbone`, and may offer `PRESETS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from wingspan.errors import UserError


@dataclass(frozen=True)
class Backbone(ABC):
    """How a backbone is built. Subclasses are frozen dataclasses whose fields are the command line's `--backbone.*`."""

    title: ClassVar[str]

    @property
    @abstractmethod
    def D(self) -> int:
        """The width of the representation."""

    @property
    @abstractmethod
    def label_name(self) -> str:
        """How tables and folders call this backbone, without its width."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A freshly initialised module, (B, 3, H, W) -> (B, D). Draws from torch's global generator."""


def check_width(width: object) -> None:
    """Raise UserError unless a width is a positive integer."""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise UserError(f"width {width!r} is not a positive integer: write --width D with D >= 1, for instance --width 2048.")
