"""Modules that a widened network is made of where the library's own block has no place for them. Plain PyTorch, nothing else:
an export carries this file's classes with it, so that it loads where Wingspan is not installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """shortcut(x) + branch(x): a residual half of a block whose two ways may change the width."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y


class Halves(nn.Module):
    """A block in two parts, one after the other; what else the network hands to its blocks goes to the first."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        y: Tensor = self.second(self.first(x, *others, **named))
        return y


class Scale(nn.Module):
    """x times one number a channel, in the shape its weight has: (C,) for the last dimension, (C, 1, 1) for maps."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Nothing(nn.Module):
    """Adds nothing: 0, whatever comes in. It stands where a block's second half was before it moved out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
