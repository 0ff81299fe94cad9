"""The processes whose rows count as one batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Together:
    """Sums over processes; with `on` False, or no process group, this process alone."""

    def __init__(self, on: bool) -> None:
        self.world = dist.get_world_size() if on and dist.is_available() and dist.is_initialized() else 1

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over processes, a new tensor where there are several."""
        if self.world == 1:
            return x
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    def rows(self, count: int, device: torch.device) -> int:
        """All processes' rows; they may have different numbers of them."""
        return count if self.world == 1 else int(self.total(torch.tensor(count, device=device)))

    def moments(self, own: tuple[Tensor, Tensor], count: int, total: int) -> tuple[Tensor, Tensor]:
        """Mean and sum of squared deviations over all rows, from this process's (Chan, Golub and LeVeque 1979)."""
        mean, spread = own
        if self.world == 1:
            return own
        whole = self.total(mean * (count / total))
        return whole, self.total(spread + count * (mean - whole).square())
