"""Figure 7: how many dimensions of VICReg's representation are zero, for D below and above the projector's width.

wingspan study fig7 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, seeds
    "smoke": ((8, 16), (0,)),
    "small": ((64, 512, 2048), (0, 1)),
    "paper": ((512, 32768), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats = _SIZES[scale]
    measure = _sizes.measure("sparsity", scale)
    return Study(
        name="fig7",
        question="Is a representation sparse when its last block is wider than the projector?",
        base=_sizes.base(scale),
        axes={"seed": seeds(*repeats), "objective": _sizes.methods(scale, "vicreg"), "width": widths(*D)},
        measures=(measure,),
        source="Figure 7",
        claims=(
            _sizes.claim(
                "more images have half of their dimensions at zero the wider the last block is",
                measure,
                "images with half their dimensions at zero",
                Trend("rises"),
            ),
            _sizes.claim("the share of zeros rises with D", measure, "zeros per image", Trend("rises")),
        ),
        notes=(_sizes.NOTE,),
    )
