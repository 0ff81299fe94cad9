"""Figure 13: SimCLR's temperature, sparsity and what binarising loses.

wingspan study fig13 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan import spec
from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, temperatures, seeds
    "smoke": (16, (0.1, 0.5), (0,)),
    "small": (2048, (0.1, 0.2, 0.5), (0, 1)),
    "paper": (10240, (0.05, 0.1, 0.15, 0.2, 0.5), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, temperatures, repeats = _SIZES[scale]
    sparsity, binary = _sizes.measure("sparsity", scale), _sizes.measure("binary", scale)
    return Study(
        name="fig13",
        question="Does a high temperature make a representation less sparse and harder to binarise?",
        base=spec.override(_sizes.base(scale), {"objective": "simclr"}),
        axes={
            "seed": seeds(*repeats),
            "temperature": {str(each): {"objective.temperature": each} for each in temperatures},
            "width": widths(D),
        },
        measures=(sparsity, binary),
        source="Figure 13",
        claims=(
            _sizes.claim(
                "a higher temperature makes h less sparse", sparsity, "zeros per image", Trend("falls", "temperature")
            ),
            _sizes.claim(
                "a higher temperature makes h harder to binarise",
                binary,
                "accuracy lost to binarising",
                Trend("rises", "temperature"),
                series="linear",
            ),
        ),
        notes=(_sizes.NOTE, "Figure 13 gives no temperatures in the text; those at scale paper are ours."),
    )
