"""What is read off a picture, to say which part of it was kept.

`colour`, `layout` and `detail` split `pixels` without overlap: their squared sizes add up to its own, which is a mean over
pixels and channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan.data.base import ImageSet
from wingspan.errors import UserError
from wingspan.rcdm.reader import Reader

BLOCKS = 8  # a side
BINS = 8  # of the histogram, a channel
CLASSES = 100  # of a task, above which it is not regressed
FACTORS = ("pixels", "colour", "layout", "detail", "flip asymmetry", "histogram", "foreground", "background")
"""What every picture has; the last two where masks are given. True factors come on top, by what the data set tells."""
LINEAR = frozenset(FACTORS) - {"histogram"}
"""Factors that are linear in the picture: that of a mean picture is the mean of theirs."""
TRUE = "true "
"""Begins the name of what the data set itself tells: 'true shape', 'true label'."""


def of_pictures(pictures: Tensor, masks: Tensor | None = None, reader: Reader | None = None) -> dict[str, Tensor]:
    """Pictures (n, 3, S, S) in 0..1, S a multiple of 8 -> name -> (n, k).

    colour: the channels' means; layout: means of 8 x 8 blocks, less the colour; detail: the rest; flip asymmetry: half the
    blocks less the mirrored ones; histogram: see `histogram`; foreground, background: pixels under and outside `masks`
    (n, 1, S, S) bool. A reader adds what it reads well. Raises UserError for another side: blocks of unequal size would not
    split the pixels without overlap.
    """
    S = pictures.shape[-1]
    if S < 2 * BLOCKS or S % BLOCKS:
        raise UserError(
            f"pictures of {S} pixels a side cannot be split into {BLOCKS} x {BLOCKS} blocks of one size: give a side that is a "
            f"multiple of {BLOCKS}, from {2 * BLOCKS} on."
        )
    colour = pictures.mean((2, 3))
    blocks = F.avg_pool2d(pictures, S // BLOCKS)
    coarse = blocks.repeat_interleave(S // BLOCKS, 2).repeat_interleave(S // BLOCKS, 3)
    whole, few = math.sqrt(3 * S**2), math.sqrt(3 * BLOCKS**2)
    found = {
        "pixels": pictures / whole,
        "colour": colour / math.sqrt(3),
        "layout": (blocks - colour[:, :, None, None]) / few,
        "detail": (pictures - coarse) / whole,
        "flip asymmetry": (blocks - blocks.flip(3)) / (2 * few),
        "histogram": histogram(pictures),
    }
    if masks is not None:
        found["foreground"], found["background"] = pictures * masks / whole, pictures * ~masks / whole
    if reader is not None:
        found |= {TRUE + name: values for name, values in reader.read(pictures).items() if name in reader.usable}
    return {name: values.flatten(1) for name, values in found.items()}


def histogram(pictures: Tensor) -> Tensor:
    """(n, 3, S, S) in 0..1 -> (n, 24): the share of every channel's pixels in 8 bins, each split between the two nearest."""
    x = pictures.flatten(2).clamp(0, 1)
    shares = [(1 - (x * (BINS - 1) - at).abs()).clamp_min_(0).mean(2) for at in range(BINS)]
    return torch.stack(shares, 2).flatten(1)


def truths(images: ImageSet) -> dict[str, Tensor]:
    """What a data set tells of its images: 'true TASK' -> one-hot (n, C), for 2 to 100 classes; 'true NAME' -> (n, 1).

    Where a task and a quantity share a name it is the task. A quantity with gaps (not a number) tells nothing.
    """
    found = {
        TRUE + task: F.one_hot(values, len(images.classes[task])).float()
        for task, values in images.labels.items()
        if 2 <= len(images.classes[task]) <= CLASSES
    }
    numbers = {
        TRUE + name: values.float().unsqueeze(1)
        for name, values in images.quantities.items()
        if TRUE + name not in found and bool(values.isfinite().all())
    }
    return found | numbers
