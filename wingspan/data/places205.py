"""Places205 (Zhou et al. 2014): scenes, in the list files its publisher ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Listed, Listing, read_lines
from wingspan.data.base import Split
from wingspan.errors import UserError

LISTS = "trainvalsplit_places205"
IMAGES = "data/vision/torralba/deeplearning/images256"


@dataclass(frozen=True)
class Places205(Listed):
    """Pictures below a folder, and the lists train_places205.csv, val_places205.csv: a path and a label on each line.

    The lists lie in the folder itself or in trainvalsplit_places205; their paths start at `images`. 205 scenes, 2,448,873
    training images, 20,500 validation images (100 a class): testing is on these, since the published test images have no
    labels.
    """

    title: ClassVar[str] = "Places205: photographs of 205 kinds of scene; the publisher's list files and images"
    shipped: ClassVar[str] = (
        "http://places.csail.mit.edu/downloadData.html ships trainvalsplit_places205.tar.gz (train_places205.csv,"
        f" val_places205.csv) and imagesPlaces205_resize.tar.gz, which unpacks to {IMAGES}."
    )

    images: str = ""  # folder below `folder` where the lists' paths start; looked for when empty

    @property
    def label_name(self) -> str:
        return "places205"

    def listing(self, split: Split) -> Listing:
        lists = {name: self._pairs(self._list(name)) for name in ("train", "val")}
        names = _names([*lists["train"], *lists["val"]])
        pairs = lists["train" if split == "train" else "val"]
        folder = self._folder(pairs[0][0])
        labels = np.array([label for _, label in pairs], np.int64)
        return Listing([folder / path for path, _ in pairs], {"label": labels}, {"label": names}, "label")

    def _list(self, name: str) -> Path:
        return self.first(f"the {name} list", f"{LISTS}/{name}_places205.csv", f"{name}_places205.csv")

    def _pairs(self, file: Path) -> list[tuple[str, int]]:
        """(path, label) of every line."""
        pairs = []
        for number, line in enumerate(read_lines(file), 1):
            path, _, label = line.replace(",", " ").rpartition(" ")
            if not path or not label.isdigit():
                raise UserError(f"'{file}' line {number} is '{line}': a path, a space and a label from 0 are expected.")
            pairs.append((path.strip().lstrip("/"), int(label)))
        if not pairs:
            raise UserError(f"'{file}' lists no images. {self.shipped}")
        return pairs

    def _folder(self, example: str) -> Path:
        if self.images:
            return self.first("the images", self.images)
        for place in (IMAGES, "images256", "images", ""):
            if (self.root() / place / example).is_file():
                return self.root() / place
        return self.first("the images", IMAGES, "images256", "images")


def _names(pairs: list[tuple[str, int]]) -> tuple[str, ...]:
    """Class names in label order: the folders of a class's first picture, without the letter (a/abbey/x.jpg -> abbey)."""
    found: Mapping[int, str] = {label: path for path, label in reversed(pairs)}
    names = []
    for label in range(max(found) + 1):
        parts = Path(found.get(label, f"{label}/none")).parts[:-1]
        names.append("/".join(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts))
    return tuple(names) if len(set(names)) == len(names) else tuple(map(str, range(len(names))))
