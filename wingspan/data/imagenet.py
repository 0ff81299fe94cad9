"""ImageNet-1k (ILSVRC 2012): class folders for training, and the validation images as either publisher ships them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Ints, Listed, Listing, class_folders, folders_in, pictures_in, read_lines
from wingspan.data._mat import ilsvrc_ids
from wingspan.data.base import Split
from wingspan.data.hub import stratified
from wingspan.errors import UserError

KAGGLE = "ILSVRC/Data/CLS-LOC"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
KIT = "ILSVRC2012_devkit_t12/data"
SOLUTION = "LOC_val_solution.csv"


@dataclass(frozen=True)
class ImageNet(Listed):
    """train/n01440764/*.JPEG and val, below `folder` or, as Kaggle ships it, below ILSVRC/Data/CLS-LOC.

    The validation images, which are the test split, lie in class folders, or flat beside LOC_val_solution.csv (Kaggle) or
    ILSVRC2012_validation_ground_truth.txt with meta.mat (the development kit: its numbers are not in the classes' order).
    Classes are the training folders' names, sorted. `subset_list` and `subset` act on the training split alone.
    """

    title: ClassVar[str] = "ImageNet-1k, whole or 1 % or 10 % of its training images; the publisher's folders"
    shipped: ClassVar[str] = (
        "https://image-net.org/challenges/LSVRC/2012 ships ILSVRC2012_img_train.tar (a tar a class, to be unpacked to"
        " train/n01440764 and so on), ILSVRC2012_img_val.tar (to val) and ILSVRC2012_devkit_t12.tar.gz; Kaggle ships all of it"
        f" with {SOLUTION}."
    )

    subset_list: str = ""  # file of training images' names, one a line: SimCLR's imagenet_subsets/1percent.txt or 10percent.txt
    subset: float = 1.0  # without a list: this share of every class's training images, the same ones every time

    @property
    def label_name(self) -> str:
        if self.subset_list:
            return f"imagenet-{Path(self.subset_list).stem}"
        return "imagenet" if self.subset == 1 else f"imagenet-{100 * self.subset:g}percent"

    def listing(self, split: Split) -> Listing:
        if not 0 < self.subset <= 1:
            raise UserError(f"--data.subset {self.subset} is a share of the training images: above 0, at most 1.")
        if self.subset_list and self.subset != 1:
            raise UserError(f"--data.subset-list '{self.subset_list}' and --data.subset {self.subset}: give one of them.")
        folder = self.first("the training images in class folders", "train", f"{KAGGLE}/train", "ILSVRC2012_img_train")
        wnids = folders_in(folder)
        if not wnids:
            raise UserError(f"'{folder}' holds no class folders (n01440764 and so on). {self.shipped}")
        if split == "train":
            files, labels = self._subset(*class_folders(folder, wnids))
        else:
            files, labels = self._validation(wnids)
        return Listing(files, {"label": labels}, {"label": tuple(wnids)}, "label")

    def _subset(self, files: list[Path], labels: Ints) -> tuple[list[Path], Ints]:
        if not self.subset_list:
            if self.subset == 1:
                return files, labels
            rows = stratified(labels, len(files), max(1, round(self.subset * len(files))), "imagenet subset")
        else:
            place = {file.name: row for row, file in enumerate(files)}
            names = read_lines(Path(self.subset_list).expanduser())
            lacking = [name for name in names if name not in place]
            if lacking or not names:
                raise UserError(
                    f"--data.subset-list '{self.subset_list}': {len(lacking)} of {len(names)} names are not among the"
                    f" {len(files)} training images{f', first {lacking[0]!r}' if lacking else ''}. A name a line is expected,"
                    " as https://github.com/google-research/simclr ships in imagenet_subsets/."
                )
            rows = np.unique([place[name] for name in names])
        return [files[row] for row in rows], labels[rows]

    def _validation(self, wnids: list[str]) -> tuple[list[Path], Ints]:
        folder = self.first("the validation images", "val", f"{KAGGLE}/val", "ILSVRC2012_img_val")
        inside = folders_in(folder)
        if inside:
            if extra := sorted(set(inside) - set(wnids)):
                raise UserError(f"'{folder}' has class folders that the training images lack: {', '.join(extra[:3])}.")
            return class_folders(folder, wnids)
        files = pictures_in(folder)
        truth = self._solution() or self._ground_truth(files)
        place = {wnid: label for label, wnid in enumerate(wnids)}
        told = [truth.get(file.stem, "") for file in files]
        unknown = [(file, wnid) for file, wnid in zip(files, told, strict=True) if wnid not in place]
        if unknown:
            file, wnid = unknown[0]
            raise UserError(
                f"{len(unknown)} of {len(files)} validation images in '{folder}' have no class among the {len(wnids)} training"
                f" folders, first '{file.name}' ({wnid or 'not in the list of labels'}). {self.shipped}"
            )
        return files, np.array([place[wnid] for wnid in told], np.int64)

    def _solution(self) -> dict[str, str]:
        """Kaggle's list: validation image -> WNID. Empty when it is not there."""
        file = self.root() / SOLUTION
        if not file.is_file():
            return {}
        rows = csv.reader(read_lines(file)[1:])
        return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1].strip()}

    def _ground_truth(self, files: Sequence[Path]) -> dict[str, str]:
        """The development kit's list, a number a line in the images' order: validation image -> WNID."""
        file = self.first("labels of the validation images, which are not in class folders,", SOLUTION, TRUTH, f"{KIT}/{TRUTH}")
        known = ilsvrc_ids(self.first(f"the classes that the numbers of {TRUTH} stand for", META, f"{KIT}/{META}"))
        numbers = read_lines(file)
        if len(numbers) != len(files):
            raise UserError(f"'{file}' holds {len(numbers)} labels for {len(files)} validation images. {self.shipped}")
        if bad := [number for number in numbers if not number.isdigit() or int(number) not in known]:
            raise UserError(f"'{file}' holds '{bad[0]}', which is no class of {META}. {self.shipped}")
        return {picture.stem: known[int(number)] for picture, number in zip(files, numbers, strict=True)}
