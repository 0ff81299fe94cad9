"""Appendix C: images whose binary codes h > 0 collide, observed and expected, at several widths of SimCLR.

wingspan study appc --scale small --data.path cifar10/
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
    "paper": ((512, 2048, 8192, 32768), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats = _SIZES[scale]
    measure = _sizes.measure("collisions", scale)
    return Study(
        name="appc",
        question="Do the binary codes of different images stop colliding as D grows?",
        base=_sizes.base(scale),
        axes={"seed": seeds(*repeats), "objective": _sizes.methods(scale, "simclr"), "width": widths(*D)},
        measures=(measure,),
        source="Appendix C",
        claims=(
            _sizes.claim("fewer images share their binary code as D grows", measure, "images sharing a code", Trend("falls")),
        ),
        notes=(_sizes.NOTE,),
    )
