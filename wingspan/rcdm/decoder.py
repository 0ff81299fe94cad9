"""The deterministic decoder: the picture that h makes likely on average. Rung two, which needs no extra.

It bounds from below what h tells (its R2), and so holds the samples to account.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHANNELS, _LEAST = 128, 4  # at the lowest side, and that side


class Decoder(nn.Module):
    """Conditions (B, K), and ridge pictures (B, 3, S, S) -> what is to be added to these, (B, 3, S, S).

    From a 4 x 4 map (5 x 5 and so on where S asks for it) upwards, a residual block a level, each with the ridge picture at its
    side; the last factor of two is left to a pixel shuffle.
    """

    def __init__(self, conditioning: int, side: int) -> None:
        super().__init__()
        levels = 0
        while side % (2 ** (levels + 1)) == 0 and side // 2 ** (levels + 1) >= _LEAST:
            levels += 1
        self.least = side // 2**levels
        self.first = nn.Linear(conditioning, _CHANNELS * self.least**2)
        widths = [max(32, _CHANNELS // 2 ** (level // 2)) for level in range(levels)]
        self.blocks = nn.ModuleList(
            _Block(before + 3, after) for before, after in zip([_CHANNELS, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], 12, 3, padding=1)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)  # it begins as the ridge picture

    def forward(self, condition: Tensor, ridge: Tensor) -> Tensor:
        x = self.first(F.silu(condition)).view(-1, _CHANNELS, self.least, self.least)
        x = x.contiguous(memory_format=torch.channels_last)
        for level, block in enumerate(self.blocks):
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, F.adaptive_avg_pool2d(ridge, x.shape[-1]).to(x.dtype)], 1))
        return F.pixel_shuffle(self.last(F.silu(x)), 2)


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(8, after)
        self.leave = nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        found: Tensor = x + self.leave(F.silu(self.norm(x)))
        return found
