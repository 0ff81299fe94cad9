"""Figure 5: pictures drawn from h by a diffusion model (RCDM), and how much of the image that h keeps, against D.

wingspan study fig5 --scale small --data.path cifar10/

The paper reads its figure by eye. Here retention tau, by samples, decides, where they are calibrated: simclr's and the
supervised runs are drawn together, once on the images given and once on scenes, whose true factors are known. Needs the extra
wingspan[rcdm].
"""

from __future__ import annotations

from wingspan import spec
from wingspan.claims import Claim, Difference, Kind, Trend
from wingspan.experiments import _sizes
from wingspan.measures.retention import Retention
from wingspan.study import Axis, Study, seeds, widths

SCALES = _sizes.SCALES

_SIZES = {
    # D, seeds, preset, images a run learns from (0: all)
    "smoke": ((8, 16), (0,), "smoke", 0),
    "small": ((64, 512, 2048), (0,), "cpu32", 10_000),
    "paper": ((512, 2048, 8192, 32768), (0,), "paper128", 0),
}


def study(scale: str) -> Study:
    """The study at one of its scales."""
    D, repeats, preset, limit = _SIZES[scale]
    measure = Retention("samples", preset)

    base = _sizes.base(scale)
    images: Axis = {"own": {}}
    if scale == "small":
        images = {"own": {}, "scenes": {"data": "scenes"}}
    return Study(
        name="fig5",
        question="Does a wide representation keep more of its image, and a narrow supervised one least?",
        base=spec.override(base, {"data.limit_train": limit}) if limit else base,
        axes={
            "seed": seeds(*repeats),
            "images": images,
            "objective": _sizes.methods(scale, "simclr", "supervised"),
            "width": widths(*D),
        },
        measures=(measure,),
        source="Figure 5",
        claims=_claims(measure, str(D[0])),
        notes=(
            _sizes.NOTE,
            "tau stands only where samples keep the trust rule; else it is told as that of an under-trained decoder.",
            "Numbers of runs drawn together share a trunk: a further seed or width draws all anew.",
        ),
    )


def _claims(measure: Retention, narrowest: str) -> tuple[Claim, ...]:
    """What the paper's text reads off its figure, on the images given: scenes are there to see true factors."""
    rises = Trend("rises")
    simclr, supervised = {"objective": "simclr"}, {"objective": "supervised"}

    def claim(text: str, kind: Kind, factor: str, **where: object) -> Claim:
        return _sizes.claim(text, measure, "tau", kind, series=factor, images="own", **where)

    return (
        claim("simclr keeps more of the picture the wider it is", rises, "pixels", **simclr),
        claim("simclr keeps more of the pose (its mirror image) the wider it is", rises, "flip asymmetry", **simclr),
        claim("simclr keeps more of the colour the wider it is", rises, "colour", **simclr),
        claim("supervised keeps more of the picture the wider it is", rises, "pixels", **supervised),
        claim("supervised keeps more of the layout, and so of the background, the wider it is", rises, "layout", **supervised),
        claim(
            "the narrowest simclr keeps more of the picture than the narrowest supervised",
            Difference(simclr, supervised),
            "pixels",
            width=narrowest,
        ),
    )
