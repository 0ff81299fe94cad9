"""Figure 7: how many dimensions of VICReg's representation are zero, for D below and above the projector's width.

wingspan study fig7 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study

SCALES = _sizes.SCALES


def study(scale: str) -> Study:
    """The study at one of its scales."""
    measure = _sizes.measure("sparsity", scale)
    return _sizes.against_width(
        scale,
        "fig7",
        "Is a representation sparse when its last block is wider than the projector?",
        "Figure 7",
        measure,
        ("vicreg",),
        claims=(
            _sizes.claim(
                "more images have half of their dimensions at zero the wider the last block is",
                measure,
                "images with half their dimensions at zero",
                Trend("rises"),
            ),
            _sizes.claim("the share of zeros rises with D", measure, "zeros per image", Trend("rises")),
        ),
        paper=(512, 32768),
    )
