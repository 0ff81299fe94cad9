"""Appendix C: images whose binary codes h > 0 collide, observed and expected, at several widths of SimCLR.

wingspan study appc --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study

SCALES = _sizes.SCALES


def study(scale: str) -> Study:
    """The study at one of its scales."""
    measure = _sizes.measure("collisions", scale)
    return _sizes.against_width(
        scale,
        "appc",
        "Do the binary codes of different images stop colliding as D grows?",
        "Appendix C",
        measure,
        ("simclr",),
        claims=(
            _sizes.claim("fewer images share their binary code as D grows", measure, "images sharing a code", Trend("falls")),
        ),
    )
