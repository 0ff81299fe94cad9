"""Data sets that their publishers ship as pictures and lists of labels, read where they lie: what they have in common.

Decoding, caching and what is done about broken pictures are `hub`'s (`Hub`), so that the same bytes give the same pixels
whichever way they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from wingspan.data._decode import Fit
from wingspan.data._source import PICTURES, Table, _pictures
from wingspan.data.base import Data, ImageSet, Split
from wingspan.data.hub import Hub
from wingspan.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Listing:
    """One split before decoding: N pictures, and what is known of each."""

    pictures: Sequence[Path] | Sequence[bytes]  # (N,) files, or encoded pictures
    labels: Mapping[str, Ints]  # task -> (N,)
    classes: Mapping[str, tuple[str, ...]]
    target: str
    quantities: Mapping[str, Floats] = field(default_factory=dict)  # name -> (N,)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed(Data):
    """Pictures that lie below `folder` as their publisher ships them."""

    shipped: ClassVar[str]  # where the publisher ships it: ends the message about what is missing

    folder: str = ""  # the publisher's folder, as unpacked; nothing is downloaded
    size: int = 224  # side in pixels that training sees
    store: int = 0  # side in pixels images are kept at; 0: size up to 64, else size * 8/7
    limit_train: int = 0  # use only so many training images, stratified; 0: all
    limit_test: int = 0  # use only so many test images, stratified; 0: all
    on_bad: Literal["error", "skip"] = "error"  # what to do about images that cannot be decoded
    cache_gb: float = 8.0  # a set up to this size when decoded is decoded once, into a file; a larger one batch by batch
    cache: str = ""  # folder for such files; $WINGSPAN_CACHE or ~/.cache/wingspan when empty
    workers: int = 0  # decoding threads; 0: one a core, or one in all where files are tiny
    # pictures that are not square: their centre (crop), all of it out of proportion (squash, as VTAB does), or all of it
    # between grey borders (pad)
    fit: Fit = "crop"

    @abstractmethod
    def listing(self, split: Split) -> Listing:
        """The pictures and labels of a split, read from the publisher's files. Raises UserError naming what is missing."""

    @property
    def side(self) -> int:
        return self.size

    @property
    def stored(self) -> int:
        """The side in pixels of the images that `load` gives."""
        return self._hub().stored

    def load(self, split: Split) -> ImageSet:
        """Read one split: images (3, stored, stored), where `stored` is `store`, or `size` and a margin.

        Broken images raise UserError; with `on_bad="skip"` they and their labels are left out before this returns. Raises
        UserError for whatever the user can mend.
        """
        hub = self._hub()
        hub._check()
        found = self.listing(split)
        if not found.pictures:
            raise UserError(f"'{self.folder}' holds no images for {split}ing. {self.shipped}")
        rows = hub._limited(np.arange(len(found.pictures)), found.labels[found.target], split)
        made = hub._decoded(_table([found.pictures[row] for row in rows], self), "image", np.arange(len(rows)))
        kept = np.delete(rows, [position for position, _ in made.bad])
        return ImageSet(
            made.images,
            {task: torch.from_numpy(values[kept]) for task, values in found.labels.items()},
            found.classes,
            found.target,
            found.notes + made.notes,
            {name: torch.from_numpy(values[kept]) for name, values in found.quantities.items()},
            torch.from_numpy(kept),
            None if isinstance(found.pictures[0], bytes) else lambda: [str(found.pictures[row]) for row in kept.tolist()],
        )

    def _hub(self) -> Hub:
        return Hub(
            path=self.folder or "unset",  # an empty one has its own message, in `root`
            size=self.size,
            store=self.store,
            limit_train=self.limit_train,
            limit_test=self.limit_test,
            on_bad=self.on_bad,
            cache_gb=self.cache_gb,
            cache=self.cache,
            workers=self.workers,
            fit=self.fit,
        )

    def root(self) -> Path:
        """The folder that the user gave. Raises UserError when there is none."""
        if not self.folder:
            raise UserError(f"{self.label_name}: say where it lies with --data.folder. {self.shipped}")
        path = Path(self.folder).expanduser()
        if not path.is_dir():
            raise UserError(f"--data.folder '{self.folder}' is no folder. {self.shipped}")
        return path

    def first(self, what: str, *places: str) -> Path:
        """The first of `places` below the folder that exists. Raises UserError naming them all and saying `what` they hold."""
        root = self.root()
        for place in places:
            if (root / place).exists():
                return root / place
        looked = " or ".join(f"'{root / place}'" for place in places)
        raise UserError(f"{self.label_name}: {what} expected at {looked}: not there. {self.shipped}")


def _table(pictures: Sequence[Path | bytes], data: Listed) -> Table:
    import datasets

    files = [picture for picture in pictures if isinstance(picture, Path)]
    if files:
        if not any(file.is_file() for file in files):
            raise UserError(
                f"{data.label_name}: none of the {len(files)} listed images exists; the first would be '{files[0]}'."
                f" {data.shipped}"
            )
        return _pictures(files, [])
    cells = [{"bytes": picture, "path": None} for picture in pictures]
    rows = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image(decode=False)}))
    made = hashlib.blake2b(digest_size=16)
    for picture in pictures:
        made.update(picture if isinstance(picture, bytes) else b"")
    return Table(rows, lambda row: f"image {row} of '{data.folder}'", made.hexdigest())


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises UserError when it is none."""
    try:
        with file.open("rb") as opened:
            return json.load(opened)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{file}' as JSON: {error}. Unpack or download it anew.") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises UserError when it cannot be read as text."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{file}' as text: {error}. Unpack or download it anew.") from error
    return [line.strip() for line in lines if line.strip()]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name; hidden ones are passed over."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [folder / name for name in names if Path(name).suffix.lower() in PICTURES]


def folders_in(folder: Path) -> list[str]:
    """The names of the folders directly in a folder, sorted; hidden ones are passed over."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def class_folders(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Ints]:
    """The pictures in the folders named `classes` below `folder`, and each one's index into `classes`."""
    files = [pictures_in(folder / name) if (folder / name).is_dir() else [] for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(each) for each in files])
    return [file for each in files for file in each], labels.astype(np.int64)
