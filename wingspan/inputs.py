"""Features as probes read them: dense or packed to bits, binarised, standardised; always in parts, never whole in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan import bits
from wingspan.features import Split

_PART = 2**20  # features a part holds: 4 MB in fp32, which stays in a core's cache between two uses
_DEAD = 1e-12  # variance up to which a dimension counts as constant


@dataclass(frozen=True)
class Inputs:
    """Rows of features, and how to read them: x = (value - shift) * scale, value = h, or 1 where h > 0 when `binary`.

    h: (N, D) fp16 or float, memory-mapped maybe; or bits, uint8 (N, ceil(D / 8)), most significant first as
    `wingspan.bits.pack` makes them, with `width` = D. Never modified.
    """

    h: Tensor
    binary: bool = False
    shift: Tensor | None = None  # (D,) float32
    scale: Tensor | None = None  # (D,) float32
    width: int = 0  # D of packed bits; 0: h is dense

    @classmethod
    def of(cls, split: Split, binary: bool = False) -> Inputs:
        """A bank's split, dense or packed."""
        return cls(split.h, binary and not split.width, width=split.width)

    def __post_init__(self) -> None:
        if self.width and (self.h.dtype != torch.uint8 or self.h.shape[1] != -(-self.width // 8)):
            raise ValueError(f"{tuple(self.h.shape)} {self.h.dtype} is not rows of {self.width} packed bits")

    def __len__(self) -> int:
        return len(self.h)

    @property
    def D(self) -> int:
        return self.width or int(self.h.shape[1])

    @property
    def part(self) -> int:
        """Rows that are worth reading at a time."""
        return max(16, _PART // max(self.D, 1))

    def slices(self) -> Iterator[slice]:
        """All rows in order, a part at a time."""
        return (slice(start, start + self.part) for start in range(0, len(self), self.part))

    def rows(self, index: Tensor | slice) -> Tensor:
        """Rows at `index` (n,) int64, or of a slice, ready for use: (n, D) float32, a tensor of its own."""
        found = self.centred(index)
        return found if self.scale is None else found.mul_(self.scale)

    def centred(self, index: Tensor | slice) -> Tensor:
        """The same before `scale`, for who folds that into weights."""
        found = self._values(index)
        return found if self.shift is None else found.sub_(self.shift)

    def _values(self, index: Tensor | slice) -> Tensor:
        taken = self.h[index] if isinstance(index, slice) else self.h.index_select(0, index)
        if self.width:
            return bits.unpack(taken, self.width).contiguous()
        return (taken > 0).float() if self.binary else taken.to(torch.float32, copy=isinstance(index, slice))

    def standardised(self) -> Inputs:
        """The same rows with mean 0 and variance 1 (divided by N) in every dimension; dead dimensions become 0.

        Sums are taken in fp32 within a part, in float64 over parts, about that value of the first part which lies nearest to
        its mean: so neither a large mean nor a rare spike costs digits, and what is constant has a variance of exactly 0.
        """
        part = self._values(slice(0, self.part))
        middle = part.gather(0, (part - part.mean(0)).abs().argmin(0, keepdim=True))[0]
        total, squares = torch.zeros(self.D, dtype=torch.float64), torch.zeros(self.D, dtype=torch.float64)
        for at in self.slices():
            moved = self._values(at).sub_(middle)
            total += moved.sum(0)
            squares += moved.square_().sum(0)
        mean = total / len(self)
        variance = squares / len(self) - mean.square()
        scale = torch.where(variance > _DEAD, variance.clamp(min=_DEAD).rsqrt(), 0.0)
        return dataclasses.replace(self, shift=(middle + mean).float(), scale=scale.float())

    def like(self, other: Tensor) -> Inputs:
        """Other features of the same kind (the test split's) read as these are, with this one's shift and scale."""
        return dataclasses.replace(self, h=other)
