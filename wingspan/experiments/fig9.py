"""Figure 9: probes on continuous and on binary features (h > 0), in distribution and in transfer.

wingspan study fig9 --scale small --data.path cifar10/ --transfers flowers/ rsscn7/
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
    "paper": ((2048, 32768), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats = _SIZES[scale]
    measure = _sizes.measure("binary", scale)
    return Study(
        name="fig9",
        question="Does keeping only h > 0 lose less the wider the representation is?",
        base=_sizes.base(scale),
        axes={"seed": seeds(*repeats), "objective": _sizes.methods(scale, "simclr"), "width": widths(*D)},
        measures=(measure,),
        source="Figure 9",
        claims=(
            *(
                _sizes.claim(
                    f"a linear probe loses less on bits the wider the representation is, {role}",
                    measure,
                    "accuracy lost to binarising",
                    Trend("falls"),
                    series="linear",
                    role=role,
                )
                for role in ("in-distribution", "transfer")
            ),
        ),
        notes=(_sizes.NOTE,),
    )
