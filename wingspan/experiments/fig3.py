"""Figure 3: SimCLR with a projector of two layers on CIFAR-10: D, K of its first layer, batches of two classes or all.

wingspan study fig3 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan import spec
from wingspan.claims import Flat, Trend
from wingspan.experiments import _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, K of the first layer, the second layer, seeds
    "smoke": ((8, 16), ("4", "8"), 8, (0,)),
    "small": ((64, 512, 2048), ("64", "512"), 128, (0, 1)),
    "paper": ((1024, 2048, 4096, 8192, 16384, 32768), ("32", "128", "512", "2048", "8192", "16384"), 256, (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, K, last, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale)
    sampled, projectors = _sizes.sampling(2), [f"{first}-{last}" for first in K]
    return Study(
        name="fig3",
        question="With a projector of two layers, does accuracy rise with D, and does the ratio D/K matter?",
        base=spec.override(_sizes.base(scale, "cifar10"), {"objective": "simclr"}),
        axes={
            "seed": seeds(*repeats),
            "sampling": sampled,
            "projector": _sizes.projectors(*projectors),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Figure 3",
        claims=(
            *(
                _sizes.claim(
                    f"accuracy rises with D, batches: {batches}", measure, "accuracy", Trend("rises"), sampling=batches
                )
                for batches in sampled
            ),
            *(
                _sizes.claim(
                    f"K of the first layer, and with it D/K, does not matter (1 point), batches: {batches}",
                    measure,
                    "accuracy",
                    Flat(tuple({"projector": each} for each in projectors), 1.0),
                    sampling=batches,
                )
                for batches in sampled
            ),
        ),
        notes=(_sizes.NOTE,),
    )
