"""After pretraining: a classifier from a run and labelled images, as one more run.

It begins with what another learnt, and with the linear probe of its features as classifier (Kumar et al. 2022,
arXiv:2202.10054), so a small rate is enough. What it is worth in the end is `finetuned`'s matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wingspan import spec
from wingspan.augment import Augment
from wingspan.data.base import Data, ImageSet
from wingspan.data.subset import Subset
from wingspan.errors import UserError, nearest
from wingspan.objectives.supervised import Supervised
from wingspan.optim import Optim
from wingspan.pretrain import Pretrain, load_run
from wingspan.results import is_store
from wingspan.runs import RunFolder
from wingspan.sampling import Sampling, steps_per_epoch
from wingspan.start import Start

What = Literal["whole", "head"]

BATCH, LEAST_BATCH = 128, 16
EPOCHS, STEPS = 20, 200


@dataclass(frozen=True)
class Wish:
    """What is asked for. Zeros, and a width of None, leave the choice to `plan`."""

    data: Data
    what: What = "whole"
    labels: str = ""  # "100" images in all, "10%" of them, "" all
    width: int | None = None
    epochs: int = 0
    batch: int = 0
    lr: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """A run to carry out; its labelled images by class; and what the user should know of it."""

    run: Pretrain
    counts: tuple[int, ...]  # (C,) of every class, 0 where there is none
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(self.counts)

    @property
    def steps(self) -> int:
        return self.run.epochs * steps_per_epoch(self.images, self.run.batch)


def source(path: Path) -> tuple[RunFolder, Pretrain]:
    """The run to begin with. Raises UserError naming the nearest folder for one that is none, or has learnt nothing yet."""
    folder = RunFolder(path)
    if is_store(folder):
        raise UserError(f"{path} is a store of features, which has no network: fine-tune the run that it was made from.")
    if not folder.started():
        places = dict.fromkeys((path, path.parent, Path("runs")))
        known = {str(file.parent) for place in places for file in place.glob("*/run.json")}
        said = nearest(str(path), known) if known else " Give the folder that wingspan pretrain wrote."
        raise UserError(f"'{path}' is no run: it holds no run.json.{said}")
    run = load_run(folder)
    if not folder.checkpoints():
        raise UserError(f"{path} holds no checkpoint yet: wingspan pretrain --resume {path}")
    return folder, run


def plan(path: Path, wish: Wish) -> Plan:
    """The run that fine-tunes another. Raises UserError for whatever the user can mend, before anything is written."""
    _, before = source(path)
    images = wish.data.load("train")
    labels, names = _task(images)
    wish.data.load("test").task()
    count = labelled(wish.labels, len(images))
    data = wish.data if count == len(images) else Subset(wish.data, count, wish.seed)
    if count < len(images):
        labels = data.load("train").task()[0]
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    batch, epochs = schedule(count, wish.batch, wish.epochs)
    peak = wish.lr or rate(before, wish.what)
    run = Pretrain(
        data=data,
        sampling=Sampling(),
        augment=views(before.augment, wish.what),
        backbone=before.backbone,
        projector="",
        objective=Supervised(),
        optim=Optim(name="adamw", lr=peak * 256 / batch, weight_decay=0.01),
        epochs=epochs,
        batch=batch,
        seed=wish.seed,
        precision=before.precision,
        start=Start(weights=str(path), head=True, frozen=wish.what == "head"),
    )
    if wish.width not in (None, before.backbone.D):
        run = spec.override(run, {"backbone.width": wish.width})
        if hasattr(run.backbone, "shortcut"):  # the only form of the last block that two widths share
            run = spec.override(run, {"backbone.shortcut": "projection"})
    return Plan(run, tuple(counts), tuple(_notes(before, run, names, counts)))


def _task(images: ImageSet) -> tuple[Tensor, tuple[str, ...]]:
    labels, names = images.task()
    if len(found := labels.unique()) < 2:
        only = f"'{names[int(found[0])]}'" if len(found) else "none"
        raise UserError(
            f"the {len(images)} images to train with show a single class ({only}): there is nothing to tell apart. A "
            "classifier needs a folder a class, or a column of labels (--data.label)."
        )
    return labels, names


def labelled(text: str, images: int) -> int:
    """How many of `images` are meant by "100", "10%" or "" (all). Raises UserError for what is no such number."""
    if not text:
        return images
    try:
        count = round(float(text.removesuffix("%")) / 100 * images) if text.endswith("%") else int(text)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"--labels '{text}' is no number of images: write --labels 100, or a share such as --labels 10%."
        ) from error
    if not 1 <= count <= images:
        raise UserError(
            f"--labels {text} is {count} of {images} training images: give from one a class to {images}, or leave it out."
        )
    return count


def schedule(images: int, batch: int = 0, epochs: int = 0) -> tuple[int, int]:
    """(batch, epochs) for so many labelled images; what is given is kept.

    A batch is a quarter of few images, so that batch norm and the gradient see others each time, and at most BATCH. Many images
    get EPOCHS passes; few get more of them, since a network moves by steps: at least STEPS.
    """
    if not batch:
        wanted = min(BATCH, max(LEAST_BATCH, images // 4))
        batch = min(images, 2 ** int(math.log2(wanted)))
    if batch > images:
        raise UserError(f"--batch {batch} is larger than the {images} labelled images: use a smaller one, or leave it out.")
    return batch, epochs or max(EPOCHS, math.ceil(STEPS / steps_per_epoch(images, batch)))


def rate(before: Pretrain, what: What) -> float:
    """AdamW's peak rate. whole: half the one of pretraining, within 1e-4 to 1e-3; 3e-4 where that was not AdamW's.

    On CIFAR-10 (docs/finetune.md) 1e-3 after a peak of 2e-3 was better than 3e-4 with 5,000 labels, and no worse with fewer. A
    head begins at its optimum, so it gets 1e-4.
    """
    if what == "head":
        return 1e-4
    return max(1e-4, min(1e-3, before.optim.lr * before.batch / 512)) if before.optim.name == "adamw" else 3e-4


def views(augment: Augment, what: What) -> Augment:
    """Views to learn labels from. What pretraining left out (flip or jitter 0: left and right, or colour, mean something) stays
    out; grey, blurred and solarised images are not what comes in later.

    whole: crops of half the image or more, flips, half the jitter; crops of a fifth, as in pretraining, were no better on
    CIFAR-10. head: the whole image and flips. A frozen network cannot get used to crops, so a head that learns from them is off
    for whole images (as in Touvron et al. 2019, arXiv:1906.06423): it lost 1.9 points there, and none without.
    """
    light = replace(augment, flip=augment.flip[:1], grey=(0.0,), blur=(0.0,), solarise=(0.0,))
    if what == "head":
        return replace(light, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=(0.0,))
    return replace(
        light,
        scale=(max(augment.scale[0], 0.5), 1.0),
        jitter=augment.jitter[:1],
        brightness=augment.brightness / 2,
        contrast=augment.contrast / 2,
        saturation=augment.saturation / 2,
        hue=augment.hue / 2,
    )


def _notes(before: Pretrain, run: Pretrain, names: tuple[str, ...], counts: list[int]) -> list[str]:
    notes = []
    seen, now = before.views.size, run.views.size
    if seen != now:
        notes.append(
            f"the run saw images of {seen} pixels a side and will now see {now}: what it learnt may fit them less. "
            f"--data.size {seen} brings them to what it knows."
        )
    if before.backbone.D != run.backbone.D:
        how = "new channels are added" if run.backbone.D > before.backbone.D else "the less needed channels are left out"
        notes.append(f"the run has D = {before.backbone.D}, and {run.backbone.D} is asked for: {how} (docs/any_backbone.md).")
    lacking = [name for name, count in zip(names, counts, strict=True) if not count]
    if lacking:
        some = ", ".join(f"'{name}'" for name in lacking[:3])
        notes.append(f"{len(lacking)} of {len(names)} classes have no labelled image and will not be found: {some}.")
    return notes
