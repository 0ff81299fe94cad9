"""Images at the side that is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan.data.base import Data, Images
from wingspan.data.scenes import Scenes, render_all


@dataclass(frozen=True)
class Shrunk:
    """Images at another side, shrunk as they are asked for."""

    images: Images
    side: int

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Tensor:
        """indices (n,) int64 -> (n, 3, side, side) uint8"""
        return shrunk(self.images.batch(indices), self.side)


def shrunk(pixels: Tensor, side: int) -> Tensor:
    """(n, 3, S, S) uint8 -> (n, 3, side, side) uint8, every pixel the mean of those it covers, rounded."""
    return pixels if pixels.shape[-1] == side else F.adaptive_avg_pool2d(pixels.float(), side).round_().to(torch.uint8)


def masks_of(data: Data | None, side: int) -> Tensor | None:
    """Where the test scenes' main object covers more than half of a pixel that is drawn: (M, 1, side, side) bool."""
    if not isinstance(data, Scenes):
        return None
    alone = render_all(data.factors("test"), data.size, background=False)
    return F.adaptive_avg_pool2d(alone.any(1, keepdim=True).float(), side) > 0.5
