"""Figure 8: linear against MLP probe on SimCLR at several widths.

wingspan study fig8 --scale small --data.path cifar10/
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
    measure = _sizes.measure("mlp", scale)
    return Study(
        name="fig8",
        question="Is what a representation holds more linearly separable the wider it is?",
        base=_sizes.base(scale),
        axes={"seed": seeds(*repeats), "objective": _sizes.methods(scale, "simclr"), "width": widths(*D)},
        measures=(measure,),
        source="Figure 8",
        claims=(_sizes.claim("the MLP's lead over a linear probe closes with D", measure, "accuracy gap", Trend("falls")),),
        notes=(_sizes.NOTE,),
    )
