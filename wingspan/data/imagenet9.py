"""ImageNet-9 (Xiao et al. 2020, Noise or Signal): objects before their own, other and no backgrounds, in nine superclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Ints, Listed, Listing, class_folders, folders_in, read_json
from wingspan.data.base import Split
from wingspan.errors import UserError

VARIANTS = ("original", "only_fg", "no_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand", "mixed_next")
OTHER = "none of the nine"
PICTURE = re.compile(r"n\d{8}_\d+|ILSVRC2012_val_\d{8}")  # how ImageNet names its pictures


@dataclass(frozen=True)
class ImageNet9(Listed):
    """The folder bg_challenge: for each variant `VARIANT/val/00_dog/*.JPEG`, `.../01_bird/*.JPEG`, and so on.

    The test split is every variant there is, with tasks `label` (the nine superclasses), `variant`, and `source`: the picture
    whose object it is (of "only_bg" variants, was), told by the file's name. The training split has `label` and `fine`, the
    ImageNet class, for the classifier that the measure `backgrounds` trains. It is `original/train`, or, with `imagenet`,
    the training pictures of all of ImageNet's classes, those outside the nine labelled "none of the nine": a classifier of
    1,000 classes is then scored as its authors do.
    """

    title: ClassVar[str] = "ImageNet-9: objects before their own, other and no backgrounds; the publisher's variant folders"
    shipped: ClassVar[str] = (
        "https://github.com/MadryLab/backgrounds_challenge ships the test variants (release backgrounds_challenge_data.tar.gz,"
        " unpacks to bg_challenge), the class map in_to_in9.json, and links to the training data (original.tar.gz)."
    )

    imagenet: str = ""  # folder of ImageNet-1k (with train/n01440764 and so on) to train the classifier on instead
    class_map: str = ""  # in_to_in9.json, for `imagenet`; looked for in `folder` and the folder above when empty

    @property
    def label_name(self) -> str:
        return "imagenet9"

    def listing(self, split: Split) -> Listing:
        if split == "test":
            return self._variants()
        return self._imagenet() if self.imagenet else self._original()

    def _variants(self) -> Listing:
        root = self.root()
        there = [name for name in VARIANTS if (root / name / "val").is_dir()]
        if not there:
            raise UserError(
                f"'{root}' holds none of ImageNet-9's variants: folders {', '.join(f'{name}/val' for name in VARIANTS)} are"
                f" expected. {self.shipped}"
            )
        classes = folders_in(root / there[0] / "val")
        files: list[Path] = []
        labels, variants = [], []
        for name in there:
            if (found := folders_in(root / name / "val")) != classes:
                raise UserError(
                    f"'{root / name / 'val'}' has class folders {', '.join(found)}; '{there[0]}/val' has {', '.join(classes)}."
                )
            pictures, of = class_folders(root / name / "val", classes)
            files += pictures
            labels.append(of)
            variants.append(np.full(len(of), there.index(name), np.int64))
        sources = [_source(file) for file in files]
        names = tuple(sorted(set(sources)))
        place = {name: number for number, name in enumerate(names)}
        lacking = [name for name in VARIANTS if name not in there]
        return Listing(
            files,
            {
                "label": np.concatenate(labels),
                "variant": np.concatenate(variants),
                "source": np.array([place[source] for source in sources], np.int64),
            },
            {"label": tuple(classes), "variant": tuple(there), "source": names},
            "label",
            notes=(f"variants not in '{root}': {', '.join(lacking)}",) if lacking else (),
        )

    def _original(self) -> Listing:
        folder = self.root() / "original" / "train"
        if not folder.is_dir():
            raise UserError(
                "imagenet9: the background measures train a classifier of ImageNet's classes on images before their own"
                f" backgrounds, and '{folder}' is not there. Unpack the publisher's training data original.tar.gz so that it"
                " is, or give a folder of ImageNet-1k with --data.imagenet and in_to_in9.json beside the variants or with"
                f" --data.class-map. {self.shipped}"
            )
        classes = folders_in(folder)
        files, labels = class_folders(folder, classes)
        wnids = [_wnid(file) for file in files]
        fine = tuple(sorted(set(wnids)))
        place = {name: number for number, name in enumerate(fine)}
        numbers = np.array([place[wnid] for wnid in wnids], np.int64)
        return Listing(files, {"label": labels, "fine": numbers}, {"label": tuple(classes), "fine": fine}, "label")

    def _imagenet(self) -> Listing:
        folder = Path(self.imagenet).expanduser() / "train"
        if not folder.is_dir():
            raise UserError(
                f"--data.imagenet '{self.imagenet}': class folders (n01440764 and so on) are expected in '{folder}'."
                " https://image-net.org ships ILSVRC2012_img_train.tar."
            )
        wnids = folders_in(folder)
        to_nine = self._map(wnids)
        files, fine = class_folders(folder, wnids)
        original = next((self.root() / name / "val" for name in VARIANTS if (self.root() / name / "val").is_dir()), None)
        nine = folders_in(original) if original else []
        if not 0 <= int(to_nine.max()) < len(nine):
            raise UserError(
                f"in_to_in9.json maps to superclass {to_nine.max()}; '{self.folder}' shows {len(nine)}. {self.shipped}"
            )
        labels = np.where(to_nine < 0, len(nine), to_nine)
        return Listing(files, {"label": labels[fine], "fine": fine}, {"label": (*nine, OTHER), "fine": tuple(wnids)}, "label")

    def _map(self, wnids: list[str]) -> Ints:
        """ImageNet's classes in the order of their names -> 0..8, or -1."""
        given = Path(self.class_map).expanduser() if self.class_map else self.first("the class map", *(
            "in_to_in9.json", "../in_to_in9.json"
        ))  # fmt: skip
        told = read_json(given)
        try:
            to_nine = np.array([int(told[str(number)]) for number in range(len(told))], np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{given}' is no map of class numbers from 0 to 0..8 or -1 ({error}). {self.shipped}") from error
        if len(to_nine) != len(wnids):
            raise UserError(f"'{given}' maps {len(to_nine)} classes; '{self.imagenet}/train' has {len(wnids)} class folders.")
        return to_nine


def _source(file: Path) -> str:
    """The picture whose object a file shows: the name after fg_, else the first ImageNet name in it, else all of its name."""
    stem = file.stem
    found = PICTURE.search(stem, max(0, stem.find("fg_"))) or PICTURE.search(stem)
    return found[0] if found else stem


def _wnid(file: Path) -> str:
    found = re.search(r"n\d{8}", file.stem)
    if not found:
        raise UserError(
            f"'{file}': the ImageNet class is read from the file's name (n02085620_10074.JPEG), and this one tells none."
        )
    return found[0]
