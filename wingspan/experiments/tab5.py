"""Table 5: supervised pretraining and the background: accuracy with the backdrop exchanged, by D.

    wingspan study tab5 --scale small                                                              # scenes
    wingspan study tab5 --scale small --data.path tinyimagenet/ --transfers tiny_in9/              # images with variants

At small the images are scenes whose backdrop follows the class in 9 of 10 training images.
"""

from __future__ import annotations

import dataclasses

from wingspan import spec
from wingspan.claims import Trend
from wingspan.data.imagenet9 import ImageNet9
from wingspan.data.scenes import Scenes
from wingspan.experiments import _paper, _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, seeds
    "smoke": ((8, 16), (0,)),
    "small": ((32, 256, 1024), (0, 1, 2)),
    "paper": ((512, 2048, 4096, 10240, 32768), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats = _SIZES[scale]
    base = spec.override(_sizes.base(scale), {"objective": "supervised", "projector": None})
    if scale == "small":
        base = dataclasses.replace(base, data=Scenes(bias=0.9), epochs=4, batch=64)
    measure = _sizes.measure("backgrounds", scale)
    return Study(
        name="tab5",
        question="Is a narrow supervised representation more robust to the background?",
        base=base,
        axes={"seed": seeds(*repeats), "width": widths(*D)},
        measures=(measure,),
        transfers=(ImageNet9(size=224),) if scale == "paper" else (),
        source="Table 5",
        claims=tuple(
            _sizes.claim(f"accuracy on {task} falls with D", measure, "accuracy", Trend("falls"), role="transfer", task=task)
            for task in ("mixed-rand", "mixed-next")
        ),
        notes=(_sizes.NOTE, "Of Table 5's five columns the text names three; no claim is made of the other two, nor of a gap."),
    )


def published() -> _paper.Published:
    """Table 5: the columns that the text names, and two by their place (`_paper`)."""
    rows = _paper.results("tab5", _sizes.measure("backgrounds", "paper")).drop(columns=["projector", "setting"])
    task = rows["data"].str.removeprefix("imagenet9-").str.replace("_", "-")
    rows = rows.assign(data="imagenet9", task=task, role="transfer")
    return _paper.Published(rows, rows)
