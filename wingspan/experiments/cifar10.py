"""What width does on CIFAR-10, for four objectives.

    wingspan study cifar10 --data.path FOLDER_OR_PARQUET --scale small
    wingspan study cifar10 --data.name uoft-cs/cifar10 --scale small

Without --data.* it reads the hub's `uoft-cs/cifar10`. `--transfers PATH_OR_ID ...` probes other data sets too.
"""

from __future__ import annotations

import dataclasses

from wingspan import spec
from wingspan.data.hub import Hub
from wingspan.experiments._objectives import objectives
from wingspan.measures.base import Measure
from wingspan.recipes import SMALL
from wingspan.study import Study, seeds, widths

QUESTION = "Does linear-probe accuracy rise with the width of the last block, for self-supervised and supervised pretraining?"
SCALES = ("smoke", "small")

_SIZES = {
    # train images (0: all), epochs, widths, seeds
    "smoke": (512, 1, (32, 128), (0,)),
    "small": (20_000, 8, (64, 512, 2048), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    train, epochs, D, repeats = _SIZES[scale]
    data = Hub(name="uoft-cs/cifar10", limit_train=train)
    return Study(
        name="cifar10",
        question=QUESTION,
        base=spec.override(dataclasses.replace(SMALL, data=data, epochs=epochs), {"backbone.shortcut": "projection"}),
        axes={
            "seed": seeds(*repeats),
            "objective": objectives("supervised", "simclr", "vicreg", "byol"),
            "width": widths(*D),
        },
        measures=(spec.named(Measure, "linear_fast"),),
        notes=("The last block has a projection shortcut at every width, so that width alone changes.",),
    )
