"""Figure 9: probes on continuous and on binary features (h > 0), in distribution and in transfer.

wingspan study fig9 --scale small --data.path cifar10/ --transfers flowers/ rsscn7/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study

SCALES = _sizes.SCALES


def study(scale: str) -> Study:
    """The study at one of its scales."""
    measure = _sizes.measure("binary", scale)
    return _sizes.against_width(
        scale,
        "fig9",
        "Does keeping only h > 0 lose less the wider the representation is?",
        "Figure 9",
        measure,
        ("simclr",),
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
        paper=(2048, 32768),
    )
