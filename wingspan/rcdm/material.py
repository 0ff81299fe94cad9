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
_STEPS = 16  # whose rows are looked up at a time

_Prepared = tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]
"""Of one step: rows (B,), encoders' numbers (B,), ridge pictures (B, 3, s, s) as small as they are fitted, h an encoder."""


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
        self._kept: tuple[tuple[str, int], list[_Prepared]] = (("", -1), [])
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
        return enlarged(self._small(found), self.settings.side)

    def _small(self, found: Tensor) -> Tensor:
        side = self.settings.ridge_side
        return found.reshape(-1, 3, side, side) * 2 - 1

    def batch(self, step: int, purpose: str) -> Batch:
        """The batch of one step: rows by chance, dealt to the encoders in turn. A function of (seed, purpose, step).

        The last `_STEPS` steps' worth is kept, because a ridge reads all its weights for one row as for many.
        """
        wanted = (purpose, step // _STEPS)
        if self._kept[0] != wanted:
            self._kept = (wanted, self._several(step // _STEPS * _STEPS, purpose))
        rows, turns, ridge, h = self._kept[1][step % _STEPS]
        shown = enlarged(ridge, self.settings.side)
        return Batch(to_unit(self.subject.train.batch(rows)), shown, self.sizes[turns].view(-1, 1, 1, 1), h)

    def _several(self, first: int, purpose: str) -> list[_Prepared]:
        """What batches of `_STEPS` steps are made from."""
        B, E = self.settings.batch, len(self.encoders)
        dealt: list[list[Tensor]] = []  # rows by step and encoder
        for step in range(first, first + _STEPS):
            rows = torch.randint(len(self.subject.train), (B,), generator=generator(self.seed, f"rcdm rows {purpose}", step))
            turn = (step * B + torch.arange(B)) % E
            dealt.append(list(rows[turn.argsort(stable=True)].split(torch.bincount(turn, minlength=E).tolist())))
        ridges: list[list[Tensor]] = []  # by encoder and step
        h: list[list[Tensor]] = []
        for at, encoder in enumerate(self.encoders):
            rows, sizes = torch.cat([parts[at] for parts in dealt]), [len(parts[at]) for parts in dealt]
            ridges.append(list(self._small(self.ridges[at].held_out(encoder.train, rows, self._pixels)).split(sizes)))
            h.append(list(encoder.train.rows(rows).split(sizes)))
        made = []
        for number, parts in enumerate(dealt):
            turns = torch.arange(E).repeat_interleave(torch.tensor([len(part) for part in parts]))
            ridge = torch.cat([each[number] for each in ridges])
            made.append((torch.cat(parts), turns, ridge, tuple(each[number] for each in h)))
        return made


def enlarged(small: Tensor, side: int) -> Tensor:
    """Pictures (n, 3, s, s) at another side."""
    return small if small.shape[-1] == side else F.interpolate(small, (side, side), mode="bilinear", align_corners=False)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (n, 3, S, S) -> -1..1"""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(unit: Tensor) -> Tensor:
    """-1..1 -> uint8 on the CPU"""
    return unit.add(1).mul(127.5).round().clamp_(0, 255).to("cpu", torch.uint8)
