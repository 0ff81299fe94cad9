"""Figure 11: the mean norm of one dimension's Jacobian, by method and D.

wingspan study fig11 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan.claims import Trend
from wingspan.experiments import _sizes
from wingspan.study import Study

SCALES = _sizes.SCALES


def study(scale: str) -> Study:
    """The study at one of its scales."""
    measure = _sizes.measure("jacobian", scale)
    return _sizes.against_width(
        scale,
        "fig11",
        "Does a single dimension answer less to the image the more of them there are?",
        "Figure 11",
        measure,
        (
            "supervised",
            "simclr",
            "vicreg",
        ),
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
    )
