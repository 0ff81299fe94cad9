"""Which images make up a batch: a function of (seed, step), so that nothing about it has to be saved."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from wingspan.chance import generator


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches in one pass; the rest of the images waits for another epoch's order."""
    return images // batch


def uniform(seed: int, step: int, images: int, batch: int) -> Tensor:
    """Indices (batch,) of one step: without replacement within an epoch, in an order drawn anew for each."""
    epoch, place = divmod(step, steps_per_epoch(images, batch))
    return _order(seed, epoch, images)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))
