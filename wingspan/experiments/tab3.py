"""Table 3: pretraining on long-tailed images, by method and D.

wingspan study tab3 --scale small --data.path tinynat/ --sampling.imbalance 1     # images with a long tail of their own
wingspan study tab3 --scale small --data.path cifar10/                            # CIFAR-10, cut to a tail of 100 to 1
"""

from __future__ import annotations

import dataclasses

from wingspan import spec
from wingspan.claims import Trend
from wingspan.data.inat18 import Inat18
from wingspan.experiments import _paper, _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, most frequent class / rarest (1: the images' own), seeds
    "smoke": ((8, 16), 3.0, (0,)),
    "small": ((64, 512, 2048), 100.0, (0, 1)),
    "paper": ((512, 2048, 8192, 16384, 32768), 1.0, (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, imbalance, repeats = _SIZES[scale]
    base = spec.override(_sizes.base(scale), {"sampling.imbalance": imbalance})
    if scale == "paper":
        base = dataclasses.replace(base, data=Inat18(size=224))
    measure = _sizes.measure("linear", scale)
    return Study(
        name="tab3",
        question="On long-tailed images, does a wider last block help self-supervised pretraining and hurt supervised?",
        base=base,
        axes={
            "seed": seeds(*repeats),
            "objective": _sizes.methods(scale, "supervised", "simclr", "vicreg"),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Table 3",
        claims=(
            _sizes.claim("simclr rises with D", measure, "accuracy", Trend("rises"), objective="simclr"),
            _sizes.claim("vicreg rises with D", measure, "accuracy", Trend("rises"), objective="vicreg"),
            _sizes.claim("supervised falls with D", measure, "accuracy", Trend("falls"), objective="supervised"),
        ),
        notes=(_sizes.NOTE,),
    )


def published() -> _paper.Published:
    """Table 3."""
    rows = _paper.results("tab3", _sizes.measure("linear", "paper")).drop(columns=["projector", "setting"])
    return _paper.Published(rows, rows)
