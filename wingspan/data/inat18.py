"""iNaturalist 2018 (Van Horn et al. 2018): species in the wild, with the long tail of how often they are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Listed, Listing, read_json
from wingspan.data.base import Split
from wingspan.errors import UserError


@dataclass(frozen=True)
class Inat18(Listed):
    """The folder with train_val2018/ and train2018.json, val2018.json, as the competition ships them.

    8,142 species, 437,513 training images in a long tail (1,000 to 2 a species), 24,426 validation images, three a species:
    testing is on these, since the published test images have no labels.
    """

    title: ClassVar[str] = "iNaturalist 2018: 8,142 species in a long tail; the publisher's images and json"
    shipped: ClassVar[str] = (
        "https://github.com/visipedia/inat_comp/tree/master/2018 ships train_val2018.tar.gz (unpacks to train_val2018/),"
        " train2018.json.tar.gz and val2018.json.tar.gz."
    )

    @property
    def label_name(self) -> str:
        return "inat18"

    def listing(self, split: Split) -> Listing:
        name = "train2018.json" if split == "train" else "val2018.json"
        self.first("the images", "train_val2018")
        file = self.first("the annotations", name)
        try:
            told = read_json(file)
            categories = sorted(told["categories"], key=lambda each: int(each["id"]))
            ids = [int(each["id"]) for each in categories]
            names = [str(each["name"]) for each in categories]
            files = {each["id"]: str(each["file_name"]) for each in told["images"]}
            pairs = [(files[each["image_id"]], int(each["category_id"])) for each in told["annotations"]]
            place = {number: label for label, number in enumerate(ids)}
            labels = np.array([place[category] for _, category in pairs], np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{file}' is not iNaturalist's: lists 'images', 'annotations' and 'categories' that name one another are"
                f" expected ({type(error).__name__}: {error}). {self.shipped}"
            ) from error
        classes = tuple(names) if len(set(names)) == len(names) else tuple(map(str, ids))
        root = self.root()
        return Listing([root / picture for picture, _ in pairs], {"label": labels}, {"label": classes}, "label")
