"""Table 6 and Figure 12: projector architectures at a large D, every layer probed.

wingspan study tab6 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan import spec
from wingspan.experiments import _paper, _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, projectors (the best in Table 6 last), seeds
    "smoke": (16, ("", "4", "8-8-4"), (0,)),
    "small": (2048, ("", "32", "512", "128-128-128", "32-512", "32-512-512", "512-512-32"), (0, 1)),
    "paper": (
        32768,
        ("", "32", "8192", "16384", "128-128-128", "32-8192", "32-8192-8192", "8192-8192-32"),
        (0,),
    ),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, projectors, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale, {"layers": True})
    labels = [text or "none" for text in projectors]
    best = labels[-1]

    return Study(
        name="tab6",
        question="At a large D, which projector leaves the best representation behind, and what does each of its layers keep?",
        base=spec.override(_sizes.base(scale), {"objective": "simclr"}),
        axes={"seed": seeds(*repeats), "projector": _sizes.projectors(*projectors), "width": widths(D)},
        measures=(measure,),
        source="Table 6",
        claims=(
            _sizes.claim(
                f"wide layers and a narrow last one ({best}) are best",
                measure,
                "accuracy",
                _sizes.extreme("projector", best, labels),
                series="h",
            ),
            _sizes.claim(
                "no projector is worst",
                measure,
                "accuracy",
                _sizes.extreme("projector", "none", labels, "lowest"),
                series="h",
            ),
        ),
        notes=(_sizes.NOTE,),
    )


def published() -> _paper.Published:
    """Table 6: h alone, on ImageNet."""
    rows = (
        _paper.results("tab6", _sizes.measure("linear", "paper", {"layers": True})).drop(columns="setting").assign(series="h")
    )
    return _paper.Published(rows, rows)
