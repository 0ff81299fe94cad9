"""Figure 8: linear against MLP probe on SimCLR at several widths.

wingspan study fig8 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study

SCALES = _sizes.SCALES


def study(scale: str) -> Study:
    """The study at one of its scales."""
    measure = _sizes.measure("mlp", scale)
    return _sizes.against_width(
        scale,
        "fig8",
        "Is what a representation holds more linearly separable the wider it is?",
        "Figure 8",
        measure,
        ("simclr",),
        claims=(_sizes.claim("the MLP's lead over a linear probe closes with D", measure, "accuracy gap", Trend("falls")),),
    )
