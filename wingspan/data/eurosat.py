"""EuroSAT RGB (Helber et al. 2019): land use seen by Sentinel-2, in class folders without a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Listed, Listing, class_folders, folders_in
from wingspan.data.base import Split
from wingspan.data.hub import stratified

TEST = 0.2


@dataclass(frozen=True)
class EuroSat(Listed):
    """The folder 2750 (or EuroSAT_RGB) as unpacked, or the one that holds it: 27,000 images of 64 x 64 in ten class folders.

    The publisher gives no split: a fifth of every class is the test split, the same images every time.
    """

    title: ClassVar[str] = "EuroSAT RGB: ten kinds of land use from Sentinel-2; the publisher's class folders"
    shipped: ClassVar[str] = (
        "https://github.com/phelber/EuroSAT ships EuroSAT.zip (RGB), which unpacks to 2750/AnnualCrop/*.jpg and so on;"
        " https://zenodo.org/records/7711810 ships it as EuroSAT_RGB.zip."
    )

    size: int = 64  # side in pixels that training sees

    @property
    def label_name(self) -> str:
        return "eurosat"

    def listing(self, split: Split) -> Listing:
        root = self.root()
        inside = (
            root if (root / "AnnualCrop").is_dir() else self.first("the class folders", "2750", "EuroSAT_RGB", "AnnualCrop")
        )
        classes = folders_in(inside)
        files, labels = class_folders(inside, classes)
        test = stratified(labels, len(files), round(TEST * len(files)), "eurosat test")
        rows = test if split == "test" else np.setdiff1d(np.arange(len(files)), test)
        return Listing([files[row] for row in rows], {"label": labels[rows]}, {"label": tuple(classes)}, "label")
