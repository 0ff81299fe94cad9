"""Which images make up a batch: a function of (seed, step), so that nothing about it has to be saved.

Several processes share the batch of a step, each its own rows of it: the batch does not depend on how many they are.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.data.base import ImageSet
from wingspan.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """What batches are made of; by default every image once an epoch, in random order."""

    classes: int = 0
    """Classes that one batch holds, drawn anew for every step; 0: as they come. The paper takes 2 on CIFAR-10 (section 3.2) and
    8 on ImageNet (Table 2), after Assran et al. 2022a, to see what an unbalanced batch costs each width."""
    imbalance: float = 1.0
    """Train on a long tail: the target's first class keeps all its images, the last 1 / this share, those between follow an
    exponential (Cui et al. 2019). 1 keeps all. For images that have a long tail of their own leave it at 1."""

    def __post_init__(self) -> None:
        if self.classes < 0:
            raise UserError(f"--sampling.classes {self.classes} must be 0 (as they come) or a number of classes a batch.")
        if not 1 <= self.imbalance < math.inf:
            raise UserError(f"--sampling.imbalance {self.imbalance} must be at least 1 (most frequent class / rarest).")


class Sampler:
    """The batches of one run. Raises UserError when images and settings do not fit together."""

    def __init__(self, sampling: Sampling, images: ImageSet, batch: int, seed: int) -> None:
        self.batch, self.seed, self.classes = batch, seed, sampling.classes
        self.rows = torch.arange(len(images))
        if sampling.imbalance > 1:
            self.rows = long_tail(*_labelled(images), sampling.imbalance)
        if batch > len(self.rows):
            of = "" if len(self.rows) == len(images) else f" that --sampling.imbalance {sampling.imbalance:g} leaves"
            raise UserError(f"--batch {batch} is larger than the {len(self.rows)} training images{of}: use a smaller one.")
        self.members: list[Tensor] = []
        if self.classes:
            labels, names = _labelled(images)
            found = [self.rows[labels[self.rows] == label] for label in range(len(names))]
            self.members = [rows for rows in found if len(rows)]
            if not self.classes <= min(len(self.members), batch):
                raise UserError(
                    f"--sampling.classes {self.classes} a batch: the images have {len(self.members)} classes, and a batch "
                    f"{batch} places. Give at most {min(len(self.members), batch)}."
                )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass; the rest of the images waits for another epoch's order."""
        return steps_per_epoch(len(self.rows), self.batch)

    def indices(self, step: int) -> Tensor:
        """Indices (batch,) int64 of a step's images."""
        if self.members:
            return self._of_few_classes(step)
        return self.rows[uniform(self.seed, step, len(self.rows), self.batch)]

    def _of_few_classes(self, step: int) -> Tensor:
        """Images of `classes` classes in equal parts, in random order.

        Classes are drawn in proportion to their size and images of a class evenly, so that over many steps every image comes up
        about as often as it does by default. Every step is a draw of its own: an epoch is a number of steps, not a pass. Within
        a step an image repeats only where its class has fewer images than it must give.
        """
        draw = generator(self.seed, "classes of a batch", step)
        sizes = torch.tensor([len(rows) for rows in self.members], dtype=torch.float64)
        chosen = torch.multinomial(sizes, self.classes, generator=draw)
        least, more = divmod(self.batch, self.classes)
        parts = []
        for place, label in enumerate(chosen.tolist()):
            rows, wanted = self.members[label], least + (place < more)
            rounds = [rows[torch.randperm(len(rows), generator=draw)] for _ in range(math.ceil(wanted / len(rows)))]
            parts.append(torch.cat(rounds)[:wanted])
        return torch.cat(parts)[torch.randperm(self.batch, generator=draw)]


def _labelled(images: ImageSet) -> tuple[Tensor, tuple[str, ...]]:
    if images.target is None:
        raise UserError(
            "--sampling.classes and --sampling.imbalance go by classes, and these images have no labels: give a label column "
            "with --data.label, or a folder of class folders."
        )
    return images.task()


def long_tail(labels: Tensor, names: tuple[str, ...], imbalance: float) -> Tensor:
    """Rows (n,) of labels (N,) that make a long tail, ascending: of class c n_0 imbalance^(-c / (C - 1)) (Cui et al. 2019,
    Class-Balanced Loss), at most what there is and at least 1. The same rows for every seed, so that runs compare."""
    sizes = torch.bincount(labels, minlength=len(names)).tolist()
    kept = []
    for label, size in enumerate(sizes):
        wanted = max(1, round(sizes[0] * imbalance ** (-label / max(1, len(names) - 1))))
        rows = (labels == label).nonzero().flatten()
        kept.append(rows[torch.randperm(size, generator=generator(0, "long tail", label))[:wanted]])
    return torch.cat(kept).sort().values


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches in one pass over so many images."""
    return images // batch


def uniform(seed: int, step: int, images: int, batch: int) -> Tensor:
    """Indices (batch,) of one step: without replacement within an epoch, in an order drawn anew for each."""
    epoch, place = divmod(step, steps_per_epoch(images, batch))
    return _order(seed, epoch, images)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))
