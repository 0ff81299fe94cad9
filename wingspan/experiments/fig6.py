"""Figure 6: accuracy against parameters: a wider last block, a deeper network, wider blocks.

    wingspan study fig6 --scale small --data.path cifar10/

Each rival is compared with the last block that has about its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

from wingspan.claims import Claim, Difference
from wingspan.experiments import _sizes
from wingspan.measures.base import Measure
from wingspan.study import Axis, Study, seeds

SCALES = _sizes.SCALES

_SIZES: Mapping[str, tuple[str, tuple[int, ...], Mapping[str, int], tuple[int, ...]]] = {
    # network, its widths D, the rivals and the D that has as many parameters, seeds
    "smoke": ("small", (512, 1536, 2560), {"small_deep": 1536, "small_wide": 2560}, (0,)),
    "small": ("small", (512, 1536, 2560), {"small_deep": 1536, "small_wide": 2560}, (0, 1)),
    "paper": (
        "resnet50",
        (512, 2048, 8192, 16384, 32768),
        {"resnet101": 8192, "resnet152": 16384, "wide_resnet50_2": 16384},
        (0,),
    ),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    network, D, rivals, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale)
    architectures: Axis = {
        **{f"{network} D={width}": {"backbone.arch": network, "backbone.width": width} for width in D},
        **{name: {"backbone.arch": name, "backbone.width": None} for name in rivals},
    }
    return Study(
        name="fig6",
        question="At equal parameters, is a wide last block worth more than a deeper or wider network?",
        base=_sizes.base(scale),
        axes={
            "seed": seeds(*repeats),
            "objective": _sizes.methods(scale, "supervised", "vicreg"),
            "architecture": architectures,
        },
        measures=(measure,),
        source="Figure 6",
        claims=(
            *(_claim("vicreg", "beats", network, rival, width, measure) for rival, width in rivals.items()),
            *(_claim("supervised", "loses to", network, rival, width, measure) for rival, width in rivals.items()),
        ),
        notes=(
            _sizes.NOTE,
            "The paper does not say which networks it drew; those at scale paper are torchvision's deeper and wider ones.",
        ),
    )


def _claim(method: str, verb: str, network: str, rival: str, width: int, measure: Measure) -> Claim:
    return _sizes.claim(
        f"{method}: {network} with D={width} {verb} {rival}, which has as many parameters",
        measure,
        "accuracy",
        Difference(
            {"architecture": f"{network} D={width}"},
            {"architecture": rival},
            "above" if verb == "beats" else "below",
        ),
        objective=method,
    )
