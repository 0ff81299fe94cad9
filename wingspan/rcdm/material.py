"""What decoders are trained on: batches of pictures with their h and the ridge picture that closed form makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan.chance import generator
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.ridge import Ridge
from wingspan.rcdm.settings import Settings

_LOOKED_AT = 2048  # training images that the residual's size is taken from


@dataclass(frozen=True)
class Batch:
    """B images, encoder by encoder: picture and ridge picture (B, 3, S, S) in -1..1, the size (B, 1, 1, 1) of what lies
    between the two, and h, standardised: (n, D) for each encoder, the n adding up to B (0 for who has no turn)."""

    picture: Tensor
    ridge: Tensor
    size: Tensor
    h: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        h = tuple(each.to(device, non_blocking=True) for each in self.h)
        return Batch(self.picture.to(device), self.ridge.to(device), self.size.to(device), h)


class Material:
    """Images and the encoders that are compared on them, each with its ridge."""

    def __init__(
        self, subject: Subject, encoders: Sequence[Encoder], ridges: Sequence[Ridge], settings: Settings, seed: int
    ) -> None:
        self.subject, self.encoders, self.ridges, self.settings, self.seed = subject, encoders, ridges, settings, seed
        rows = torch.randperm(len(subject.train), generator=generator(seed, "rcdm size"))[:_LOOKED_AT].sort().values
        seen = to_unit(subject.train.batch(rows))
        self.sizes = torch.stack([(seen - self.held_out(at, rows)).std().clamp_min(1e-3) for at in range(len(encoders))])

    def held_out(self, encoder: int, rows: Tensor) -> Tensor:
        """Ridge pictures (n, 3, S, S) in -1..1 of training rows, each by what was fitted without it."""
        return self.picture(self.ridges[encoder].held_out(self.encoders[encoder].train, rows, self._pixels))

    def predicted(self, encoder: int, h: Tensor) -> Tensor:
        """Ridge pictures (n, 3, S, S) in -1..1 of standardised h (n, D) that was not fitted on."""
        return self.picture(self.ridges[encoder].predict(h, self._pixels))

    @property
    def _pixels(self) -> slice:
        """Where the picture stands among a ridge's targets."""
        return slice(0, 3 * self.settings.ridge_side**2)

    def picture(self, found: Tensor) -> Tensor:
        """A ridge's picture (n, 3 s s) in 0..1 -> at the side that is drawn, in -1..1."""
        side = self.settings.ridge_side
        return enlarged(found.reshape(-1, 3, side, side) * 2 - 1, self.settings.side)

    def batch(self, step: int, purpose: str) -> Batch:
        """The batch of one step: rows by chance, dealt to the encoders in turn. A function of (seed, purpose, step)."""
        B, E = self.settings.batch, len(self.encoders)
        rows = torch.randint(len(self.subject.train), (B,), generator=generator(self.seed, f"rcdm rows {purpose}", step))
        turn = (step * B + torch.arange(B)) % E
        rows = rows[order := turn.argsort(stable=True)]
        parts = rows.split(torch.bincount(turn, minlength=E).tolist())
        ridge = torch.cat([self.held_out(at, part) for at, part in enumerate(parts) if len(part)])
        h = tuple(encoder.train.rows(part) for encoder, part in zip(self.encoders, parts, strict=True))
        size = self.sizes[turn[order]].view(-1, 1, 1, 1)
        return Batch(to_unit(self.subject.train.batch(rows)), ridge, size, h)


def enlarged(small: Tensor, side: int) -> Tensor:
    """Pictures (n, 3, s, s) at another side."""
    return small if small.shape[-1] == side else F.interpolate(small, (side, side), mode="bilinear", align_corners=False)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (n, 3, S, S) -> -1..1"""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(unit: Tensor) -> Tensor:
    """-1..1 -> uint8 on the CPU"""
    return unit.add(1).mul(127.5).round().clamp_(0, 255).to("cpu", torch.uint8)
