"""Table 1: SimCLR at the widest D without a projector and with linear ones of several widths.

wingspan study tab1 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan import spec
from wingspan.experiments import _paper, _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, projectors, seeds
    "smoke": (16, ("", "4", "8"), (0,)),
    "small": (2048, ("", "32", "512", "1024"), (0, 1)),
    "paper": (32768, ("", "32", "8192", "16384"), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, projectors, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale)
    labels, small = [text or "none" for text in projectors], projectors[1]

    return Study(
        name="tab1",
        question="At a large D, is a very small linear projector best, and none worst?",
        base=spec.override(_sizes.base(scale), {"objective": "simclr"}),
        axes={"seed": seeds(*repeats), "projector": _sizes.projectors(*projectors), "width": widths(D)},
        measures=(measure,),
        source="Table 1",
        claims=(
            _sizes.claim(
                f"a linear projector of {small} is best", measure, "accuracy", _sizes.extreme("projector", small, labels)
            ),
            _sizes.claim("no projector is worst", measure, "accuracy", _sizes.extreme("projector", "none", labels, "lowest")),
        ),
        notes=(_sizes.NOTE,),
    )


def published() -> _paper.Published:
    """Table 1: judged on ImageNet; drawn with the row of iNaturalist18, whose images it pretrains on."""
    rows = _paper.results("tab1", _sizes.measure("linear", "paper")).drop(columns="setting")
    return _paper.Published(rows[rows["data"] == "imagenet1k"], rows)
