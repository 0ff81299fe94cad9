"""Figure 11: the mean norm of one dimension's Jacobian, by method and D.

wingspan study fig11 --scale small --data.path cifar10/
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
    measure = _sizes.measure("jacobian", scale)
    return Study(
        name="fig11",
        question="Does a single dimension answer less to the image the more of them there are?",
        base=_sizes.base(scale),
        axes={
            "seed": seeds(*repeats),
            "objective": _sizes.methods(scale, "supervised", "simclr", "vicreg"),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Figure 11",
        claims=(
            *(
                _sizes.claim(
                    f"the mean norm of a dimension's Jacobian falls with D, {method}",
                    measure,
                    "jacobian norm",
                    Trend("falls"),
                    objective=method,
                )
                for method in ("supervised", "simclr", "vicreg")
            ),
        ),
        notes=(_sizes.NOTE,),
    )
