"""Figures 1 and 4, Tables 4 and 7: in distribution, with few labels and in transfer, by method and D.

wingspan study tab4 --scale small --data.path cifar10/ --transfers flowers/ rsscn7/ mnist/
"""

from __future__ import annotations

from wingspan.claims import Claim, Trend
from wingspan.experiments import _paper, _sizes
from wingspan.measures.base import Measure
from wingspan.results import label_of
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, seeds
    "smoke": ((8, 16), (0,)),
    "small": ((64, 512, 2048), (0, 1)),
    "paper": ((512, 2048, 4096, 8192, 12288, 15360, 20480, 32768), (0,)),
}
_SSL = ("simclr", "vicreg", "byol")
_TRANSFER = {"role": "transfer"}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats = _SIZES[scale]
    linear, few, *unlabelled = (_sizes.measure(name, scale) for name in ("linear", "few", "spectrum", "sparsity"))
    return Study(
        name="tab4",
        question="Where does a wider last block help: on the task itself, with few labels, on other tasks?",
        base=_sizes.base(scale),
        axes={
            "seed": seeds(*repeats),
            "objective": _sizes.methods(scale, "supervised", *_SSL),
            "width": widths(*D),
        },
        measures=(linear, few, *unlabelled),  # what advice without labels goes by
        source="Tables 4 and 7",
        claims=_claims(linear, few),
        notes=(_sizes.NOTE,),
    )


def _claims(linear: Measure, few: Measure) -> tuple[Claim, ...]:
    rises, falls = Trend("rises"), Trend("falls")
    ssl = [
        claim
        for name in _SSL
        for claim in (
            _sizes.claim(f"{name} rises with D in distribution", linear, "accuracy", rises, objective=name),
            _sizes.claim(f"{name} rises with D with 1 % of the labels", few, "accuracy", rises, objective=name, series="1 %"),
            _sizes.claim(f"{name} rises with D in transfer", linear, "accuracy", rises, objective=name, **_TRANSFER),
        )
    ]
    own = {"objective": "supervised"}
    return (
        *ssl,
        _sizes.claim("supervised falls with D in distribution", linear, "accuracy", falls, **own),
        _sizes.claim("supervised falls with D with 1 % of the labels", few, "accuracy", falls, series="1 %", **own),
        _sizes.claim("supervised rises with D in transfer", linear, "accuracy", rises, **own, **_TRANSFER),
    )


def published() -> _paper.Published:
    """Table 7, which holds Table 4: shares of the labels are those of `few`."""
    linear, few = (_sizes.measure(name, "paper") for name in ("linear", "few"))
    rows = _paper.results("tab7", linear).drop(columns=["projector", "setting"])
    name, _, share = (rows["data"].str.partition("-")[part] for part in range(3))
    shares = (rows["role"] == "in-distribution") & (share != "")
    rows.loc[shares, "measure"] = label_of(few)
    rows.loc[shares, "series"] = share[shares].str.replace("%", " %")
    rows.loc[shares, "data"] = name[shares]
    return _paper.Published(rows, rows)
