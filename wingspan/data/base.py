"""What an image set is: square uint8 images by index, and named labels.

A file in this folder defines one frozen dataclass deriving from `Data`; its `load(split)` gives an `ImageSet`. The file's name
is the name on the command line (`--data scenes`).
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from wingspan.errors import UserError, nearest

Split = Literal["train", "test"]
PLACES = ("path", "folder")  # fields of image sets that name a place of this machine


class Images(Protocol):
    """N square RGB images of one side, fetched by index. Fetching the same index twice gives the same bytes."""

    def __len__(self) -> int: ...

    @property
    def side(self) -> int:
        """Height = width in pixels."""
        ...

    def batch(self, indices: Tensor) -> Tensor:
        """indices (n,) int64 -> images (n, 3, side, side) uint8, in that order."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Images held as one tensor."""

    tensor: Tensor  # (N, 3, S, S) uint8

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def side(self) -> int:
        return int(self.tensor.shape[-1])

    def batch(self, indices: Tensor) -> Tensor:
        return self.tensor[indices]


@dataclass(frozen=True)
class ImageSet:
    """One split: images, and for every task a label an image.

    `labels[task]` is (N,) int64; `classes[task]` holds the class names in label order. `target` names the task that supervised
    pretraining learns and that is called in-distribution when probing; None when the images carry no label.
    `quantities[name]` is (N,) float, a number an image: what a probe regresses (position, distance).
    `rows` (N,) int64 says which rows of the source these are, None all of them in order; `names()` gives what the source calls
    each, a path or a file's name, None where it calls them nothing.
    """

    images: Images
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    target: str | None = None
    notes: tuple[str, ...] = ()  # what the user should know: rows skipped, columns guessed
    quantities: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None
    names: Callable[[], Sequence[str]] | None = None

    def __post_init__(self) -> None:
        for name, numbers in self.quantities.items():
            if len(numbers) != len(self.images):
                raise UserError(f"quantity '{name}' holds {len(numbers)} values for {len(self.images)} images.")
        for task, values in self.labels.items():
            if len(values) != len(self.images):
                raise UserError(f"labels '{task}' hold {len(values)} values for {len(self.images)} images.")
            check_labels(values, self.classes[task], task)

    def __len__(self) -> int:
        return len(self.images)

    def task(self, name: str | None = None) -> tuple[Tensor, tuple[str, ...]]:
        """Labels (N,) and class names of a task; the target when no name is given.

        Raises UserError when there is no such task.
        """
        wanted = name or self.target
        if wanted is None:
            raise UserError("these images have no labels: give a label column with --data.label, or a folder of class folders.")
        if wanted not in self.labels:
            raise UserError(f"no task '{wanted}' in these images.{nearest(wanted, self.labels)}")
        return self.labels[wanted], self.classes[wanted]

    def take(self, indices: Tensor) -> ImageSet:
        """The subset at `indices`, fetched into memory."""
        rows, names = self.rows, self.names
        return ImageSet(
            InMemory(self.images.batch(indices)),
            {task: values[indices] for task, values in self.labels.items()},
            self.classes,
            self.target,
            self.notes,
            {name: values[indices] for name, values in self.quantities.items()},
            indices if rows is None else rows[indices],
            None if names is None else functools.partial(_some, names, indices),
        )


def _some(names: Callable[[], Sequence[str]], indices: Tensor) -> Sequence[str]:
    whole = names()
    return [whole[index] for index in indices.tolist()]


@dataclass(frozen=True)
class Data(ABC):
    """Where images come from. Subclasses are frozen dataclasses whose fields are the command line's `--data.*`."""

    title: ClassVar[str]  # one line for `--help`

    @property
    @abstractmethod
    def side(self) -> int:
        """The images' side in pixels that training sees."""

    @property
    @abstractmethod
    def label_name(self) -> str:
        """How tables and figures call this set: short, e.g. 'scenes' or 'cifar10'."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split. Raises UserError for whatever the user can mend."""


def changed(data: Data, values: Callable[[dataclasses.Field[Any], Any], Any]) -> Data:
    """The set with `values(field, value)` in every field, also in those of a set that it draws from."""
    every = ((field, getattr(data, field.name)) for field in dataclasses.fields(data))  # type: ignore[arg-type]
    new = {each.name: changed(value, values) if isinstance(value, Data) else values(each, value) for each, value in every}
    return dataclasses.replace(data, **new)  # type: ignore[type-var]


def placed(data: Data) -> Data:
    """The same images, found from any folder."""

    def whole(field: dataclasses.Field[Any], value: Any) -> Any:
        return str(Path(value).expanduser().absolute()) if field.name in PLACES and value else value

    return changed(data, whole)


def check_labels(values: Tensor, classes: tuple[str, ...], task: str) -> None:
    """Raise UserError unless labels lie in 0..len(classes)-1."""
    if len(values) and (int(torch.min(values)) < 0 or int(torch.max(values)) >= len(classes)):
        raise UserError(
            f"labels of '{task}' lie outside 0..{len(classes) - 1}: found {int(values.min())}..{int(values.max())}."
        )
