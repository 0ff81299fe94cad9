"""The three sizes at which a study of the paper runs, and what is the same in all of them.

* smoke: embedded scenes, seconds; shows that a study runs, decides nothing.
* small: CIFAR-10 (`--data.path FOLDER`, or the hub's `uoft-cs/cifar10`), the small net, an hour or two on one modest machine.
* paper: the paper's data, network and recipe, for a cluster.

The last block has a projection shortcut at every width, so that width alone changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from wingspan import augment, spec
from wingspan.backbones.resnet import ResNet
from wingspan.claims import Claim, Extreme, Kind
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes
from wingspan.experiments._objectives import objectives
from wingspan.measures.base import Measure
from wingspan.pretrain import Pretrain
from wingspan.recipes import PAPER, SMALL
from wingspan.results import label_of
from wingspan.study import Axis, Study, seeds, widths

SCALES = ("smoke", "small", "paper")
NOTE = "The last block has a projection shortcut at every width, so that width alone changes."
IMAGENET = Hub(name="ILSVRC/imagenet-1k", split_test="validation", size=224)

# What smoke leaves of a measure: it must run, not tell.
_SMOKE: dict[str, dict[str, Any]] = {
    "linear": {"epochs": 2},
    "backgrounds": {"epochs": 2},
    "few": {"draws": 2},
    "mlp": {"epochs": 1, "hidden": 16, "grid": ()},
    "binary": {"epochs": 1, "hidden": 16, "grid": ()},
    "jacobian": {"images": 4, "exact": 8, "dims": 8},
}


def base(scale: str, data: str = "imagenet") -> Pretrain:
    """The run that a study's axes vary. data: what the paper trained on, "imagenet" or "cifar10", at scale paper."""
    if scale == "smoke":
        run = dataclasses.replace(SMALL, data=Scenes(train=128, test=64, size=16), projector="32-16", epochs=1, batch=32)
    elif scale == "small":
        run = dataclasses.replace(SMALL, data=Hub(name="uoft-cs/cifar10", limit_train=20_000), epochs=8)
    elif data == "imagenet":
        run = dataclasses.replace(PAPER, data=IMAGENET)
    else:
        run = dataclasses.replace(
            PAPER,
            data=Hub(name="uoft-cs/cifar10"),
            backbone=ResNet(stem="cifar"),
            augment=augment.PRESETS["small"],
            epochs=300,
        )
    return spec.override(run, {"backbone.shortcut": "projection"})


def methods(scale: str, *names: str) -> Axis:
    """The axis of objectives: at small with settings that suit short runs, at paper with the paper's own."""
    if scale == "paper":
        return {name: {"objective": name, **({"projector": None} if name == "supervised" else {})} for name in names}
    small = objectives(*names)
    if scale == "small":
        return small
    return {name: {path: item for path, item in changes.items() if path != "projector"} for name, changes in small.items()}


def measure(name: str, scale: str, more: Mapping[str, object] | None = None) -> Measure:
    """A measure as a scale can afford it: cut short at smoke, the fast preset at small, the paper's recipe at paper."""
    fast = f"{name}_fast" if scale != "paper" and f"{name}_fast" in spec.presets(Measure) else name
    found = spec.named(Measure, fast)
    changes = _SMOKE.get(spec.kind_of(found), {}) if scale == "smoke" else {}
    return spec.override(found, {**changes, **(more or {})})


def projectors(*texts: str) -> Axis:
    """The axis of projectors, by their text; "" is none."""
    return {text or "none": {"projector": text} for text in texts}


def extreme(axis: str, label: str, labels: Sequence[str], place: Literal["highest", "lowest"] = "highest") -> Extreme:
    """One label of an axis above all its others, or below."""
    return Extreme({axis: label}, tuple({axis: each} for each in labels if each != label), place)


def claim(text: str, measure: Measure, metric: str, kind: Kind, **where: object) -> Claim:
    """A claim on one metric of one measure on the run's own images, unless `where` says otherwise."""
    return Claim(text, {"measure": label_of(measure), "metric": metric, "role": "in-distribution", **where}, kind)


def sampling(classes: int) -> Axis:
    """Batches as they come, and batches of a few classes (Assran et al. 2022a)."""
    return {"uniform": {}, f"{classes} classes a batch": {"sampling.classes": classes}}


def against_width(
    scale: str,
    name: str,
    question: str,
    source: str,
    measure: Measure,
    objectives: tuple[str, ...],
    claims: tuple[Claim, ...],
    paper: tuple[int, ...] = (512, 2048, 8192, 32768),
) -> Study:
    """The study of one measure by objective and D. paper: the widths at that scale."""
    D, repeats = {"smoke": ((8, 16), (0,)), "small": ((64, 512, 2048), (0, 1)), "paper": (paper, (0,))}[scale]
    return Study(
        name=name,
        question=question,
        base=base(scale),
        axes={"seed": seeds(*repeats), "objective": methods(scale, *objectives), "width": widths(*D)},
        measures=(measure,),
        source=source,
        claims=claims,
        notes=(NOTE,),
    )
