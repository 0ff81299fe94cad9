"""CLEVR v1.0 (Johnson et al. 2017): rendered tables of simple solids, with VTAB's two tasks of counting and distance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wingspan.data._decode import Fit
from wingspan.data._listed import Listed, Listing, read_json
from wingspan.data.base import Split
from wingspan.errors import UserError

COUNTS = range(3, 11)
EDGES = (8.0, 8.5, 9.0, 9.5, 10.0)  # VTAB's, in CLEVR's units of depth; a distance on an edge belongs below it
CLASSES = {
    "count": tuple(map(str, COUNTS)),
    "distance": ("up to 8", *(f"{low:g} to {high:g}" for low, high in itertools.pairwise(EDGES)), "above 10"),
}


@dataclass(frozen=True)
class Clevr(Listed):
    """The folder CLEVR_v1.0 as unpacked: images/train, images/val, scenes/CLEVR_train_scenes.json, .../CLEVR_val_scenes.json.

    Tasks `count` (objects, 3 to 10) and `distance` (the nearest object's depth in six bins: VTAB's Clevr-Count and
    Clevr-Distance, Zhai et al. 2019), and the quantity `depth` (that depth itself). The published test images have no
    scenes: testing is on val, as VTAB does.
    """

    title: ClassVar[str] = "CLEVR v1.0: count the objects, how far is the nearest; the publisher's folder"
    shipped: ClassVar[str] = (
        "CLEVR_v1.0.zip from https://cs.stanford.edu/people/jcjohns/clevr unpacks to the folder CLEVR_v1.0 with images/train,"
        " images/val and scenes/CLEVR_{train,val}_scenes.json."
    )

    fit: Fit = "squash"  # pictures are 480 x 320: all of it out of proportion, as VTAB does, since objects reach the edge

    @property
    def label_name(self) -> str:
        return "clevr"

    def listing(self, split: Split) -> Listing:
        name = "train" if split == "train" else "val"
        folder = self.first(f"the {name} images", f"images/{name}")
        file = self.first(f"the {name} scenes", f"scenes/CLEVR_{name}_scenes.json")
        try:
            scenes = read_json(file)["scenes"]
            names = [str(scene["image_filename"]) for scene in scenes]
            counts = np.array([len(scene["objects"]) for scene in scenes], np.int64)
            depth = np.array([_nearest(scene["objects"]) for scene in scenes])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"'{file}' is not CLEVR's: a list 'scenes' is expected, each with image_filename and objects with pixel_coords"
                f" ({type(error).__name__}: {error}). {self.shipped}"
            ) from error
        outside = (counts < COUNTS[0]) | (counts > COUNTS[-1])
        if outside.any():
            at = int(outside.argmax())
            raise UserError(f"'{file}': scene '{names[at]}' holds {counts[at]} objects; CLEVR's hold 3 to 10. {self.shipped}")
        return Listing(
            [folder / name for name in names],
            {"count": counts - COUNTS[0], "distance": np.searchsorted(EDGES, depth, side="left").astype(np.int64)},
            CLASSES,
            "count",
            {"depth": depth.astype(np.float32)},
        )


def _nearest(objects: list[dict[str, Any]]) -> float:
    """The smallest depth (third pixel coordinate) of any object; inf of none."""
    return min((float(each["pixel_coords"][2]) for each in objects), default=float("inf"))
