"""Some training images of another set, of every class its share: what there would be if only so many were labelled."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.data._decode import Fit
from wingspan.data.base import Data, Images, ImageSet, Split, _some
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError


@dataclass(frozen=True)
class Subset(Data):
    """`images` training images of `of`, every class in proportion and with at least one; the test split is that of `of`.

    Of one draw the smaller subsets lie within the larger, but for a class's last image. Unlike `limit_train` of sets that lie
    in files, another `draw` gives other images, so that several tell how much hangs on which images were labelled.
    """

    title: ClassVar[str] = "so many training images of another set, drawn by class: what wingspan finetune --labels makes"

    of: Data = Scenes()  # the set that is drawn from
    images: int = 100  # training images, over all classes of the target
    draw: int = 0  # which ones: every number is another draw

    @property
    def side(self) -> int:
        return self.of.side

    @property
    def label_name(self) -> str:
        return self.of.label_name

    @property
    def stored(self) -> int:
        """The side in pixels of the images that `load` gives."""
        return int(getattr(self.of, "stored", self.of.side))

    @property
    def fit(self) -> Fit:
        """What is done about pictures that are not square."""
        found: Fit = getattr(self.of, "fit", "crop")
        return found

    def load(self, split: Split) -> ImageSet:
        """Read one split, images when they are asked for. Raises UserError for fewer images than classes."""
        whole = self.of.load(split)
        if split == "test":
            return whole
        labels, names = whole.task()
        rows = shares(labels, self.images, self.draw, names)
        return dataclasses.replace(
            whole,
            images=_Rows(whole.images, rows),
            labels={task: values[rows] for task, values in whole.labels.items()},
            quantities={name: values[rows] for name, values in whole.quantities.items()},
            rows=rows if whole.rows is None else whole.rows[rows],
            names=None if whole.names is None else functools.partial(_some, whole.names, rows),
        )


@dataclass(frozen=True)
class _Rows:
    """The images at `rows` (n,) of others, fetched when asked for."""

    whole: Images
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        return self.whole.side

    def batch(self, indices: Tensor) -> Tensor:
        return self.whole.batch(self.rows[indices])


def shares(labels: Tensor, count: int, draw: int, names: tuple[str, ...]) -> Tensor:
    """Rows (count,) of labels (N,), ascending: of every class that there is its share, rounded, and at least one image.

    Raises UserError where `count` does not lie between the number of classes and N.
    """
    found, sizes = torch.unique(labels, return_counts=True)
    if not len(found) <= count <= len(labels):
        some = ", ".join(f"'{names[label]}'" for label in found[:3].tolist())
        raise UserError(
            f"{count} labelled images cannot be drawn from {len(labels)} images of {len(found)} classes ({some} ...): give at "
            f"least one a class, {len(found)}, and at most {len(labels)}."
        )
    wanted = sizes.double() * count / len(labels)
    quota = wanted.floor().long().clamp(min=1)
    while (off := int(quota.sum()) - count) != 0:
        # One at a time, where it is furthest from its share: a class that got its one image beyond it takes from large ones.
        gap = (quota - wanted) * (1 if off > 0 else -1)
        gap[(quota == 1) & torch.tensor(off > 0)] = -torch.inf
        quota[gap.argmax()] -= 1 if off > 0 else -1
    chosen = []
    for label, take in zip(found.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator(draw, "subset", label))[:take]])
    return torch.cat(chosen).sort().values
