"""What width does, on embedded images with known factors: no download, minutes.

Pretrain on shapes (supervised) or on views (simclr) at several widths, then read every factor of the scene from the frozen
representation. `shape` is the supervised task; colour, texture, position, ... are what other tasks may need.
"""

from __future__ import annotations

import dataclasses

from wingspan import spec
from wingspan.data.scenes import Scenes
from wingspan.experiments._objectives import objectives
from wingspan.measures.base import Measure
from wingspan.recipes import SMALL
from wingspan.study import Study, seeds, widths

QUESTION = "Does a wider last block keep what the pretraining task does not ask for?"
SCALES = ("smoke", "small")

_SIZES = {
    # train images, test images, epochs, widths, seeds
    "smoke": (512, 256, 2, (32, 128), (0,)),
    "small": (10_000, 2_000, 2, (32, 256, 1024), (0, 1, 2)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    train, test, epochs, D, repeats = _SIZES[scale]
    # Few steps: many different images beat many epochs, and small batches beat large ones.
    base = dataclasses.replace(SMALL, data=Scenes(train=train, test=test), epochs=epochs, batch=64)
    return Study(
        name="scenes",
        question=QUESTION,
        base=spec.override(base, {"backbone.shortcut": "projection", "optim.lr": 1.2e-2}),
        axes={"seed": seeds(*repeats), "objective": objectives("supervised", "simclr"), "width": widths(*D)},
        measures=(spec.named(Measure, "linear_fast"),),
        notes=("The last block has a projection shortcut at every width, so that width alone changes.",),
    )
