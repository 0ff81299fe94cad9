"""Figure 2: SimCLR with a linear projector on CIFAR-10, widths of backbone and projector, batches of two classes or all.

wingspan study fig2 --scale small --data.path cifar10/
"""

from __future__ import annotations

from wingspan import spec
from wingspan.claims import Flat, Trend
from wingspan.experiments import _sizes
from wingspan.study import Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, K, seeds
    "smoke": ((8, 16), ("4", "8"), (0,)),
    "small": ((64, 512, 2048), ("32", "512"), (0, 1)),
    "paper": ((1024, 2048, 4096, 8192, 16384, 32768), ("32", "128", "512", "2048", "8192", "16384"), (0,)),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, K, repeats = _SIZES[scale]
    measure = _sizes.measure("linear", scale)
    sampled = _sizes.sampling(2)
    few = list(sampled)[1]
    return Study(
        name="fig2",
        question="With a linear projector, does accuracy rise with D at every K, and do unbalanced batches ask for a small K?",
        base=spec.override(_sizes.base(scale, "cifar10"), {"objective": "simclr"}),
        axes={
            "seed": seeds(*repeats),
            "sampling": sampled,
            "projector": _sizes.projectors(*K),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Figure 2",
        claims=(
            *(
                _sizes.claim(
                    f"accuracy rises with D at K={each}, batches: {batches}",
                    measure,
                    "accuracy",
                    Trend("rises"),
                    sampling=batches,
                    projector=each,
                )
                for batches in sampled
                for each in K
            ),
            _sizes.claim(
                "with few classes a batch a small K is better, at the widest D",
                measure,
                "accuracy",
                Trend("falls", "projector"),
                sampling=few,
                width=D[-1],
            ),
            _sizes.claim(
                "with uniform batches K does not matter (1 point)",
                measure,
                "accuracy",
                Flat(tuple({"projector": each} for each in K), 1.0),
                sampling="uniform",
            ),
        ),
        notes=(_sizes.NOTE,),
    )
