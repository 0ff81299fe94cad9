"""Table 2: what batches of few classes cost, by method and D.

    wingspan study tab2 --scale small --data.path cifar10/

A batch holds 2 of CIFAR-10's classes (the paper: 8 of ImageNet's 1,000).
"""

from __future__ import annotations

import pandas as pd

from wingspan.claims import Shrinks
from wingspan.experiments import _paper, _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, classes a batch, seeds
    "smoke": ((8, 16), 2, (0,)),
    "small": ((64, 512, 2048), 2, (0, 1)),
    "paper": ((512, 2048, 8192, 32768), 8, (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, classes, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale)
    methods = _sizes.methods(scale, "supervised", "simclr", "vicreg")
    few = list(_sizes.sampling(classes))[1]
    return Study(
        name="tab2",
        question="Does a wider last block lose less by batches of few classes?",
        base=_sizes.base(scale),
        axes={
            "seed": seeds(*repeats),
            "objective": methods,
            "sampling": _sizes.sampling(classes),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Table 2",
        claims=(
            *(
                _sizes.claim(
                    f"{method} loses less by batches of {classes} classes the wider it is",
                    measure,
                    "accuracy",
                    Shrinks({"sampling": "uniform"}, {"sampling": few}),
                    objective=method,
                )
                for method in methods
            ),
        ),
        notes=(_sizes.NOTE,),
    )


def published() -> _paper.Published:
    """Table 2, which gives differences only: judged as if uniform batches had 0, and drawn as differences."""
    rows = _paper.results("tab2", _sizes.measure("linear", "paper")).drop(columns=["projector", "setting"])
    few = list(_sizes.sampling(_SIZES["paper"][1]))[1]
    table = pd.concat([rows.assign(sampling=few), rows.assign(sampling="uniform", value=0.0)], ignore_index=True)
    return _paper.Published(table, rows.assign(metric="accuracy difference to uniform batches"))
