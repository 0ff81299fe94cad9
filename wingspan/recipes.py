"""Whole runs to start from, by name: `wingspan pretrain --recipe small`."""

from __future__ import annotations

from wingspan import augment
from wingspan.backbones.resnet import PRESETS as BACKBONES
from wingspan.errors import UserError, nearest
from wingspan.optim import Optim
from wingspan.pretrain import Pretrain

PAPER = Pretrain()
"""The paper's appendix A: ResNet-50, projector 8192-8192-8192, LARS 0.5, batch 512, 100 epochs. For GPUs."""

SMALL = Pretrain(
    augment=augment.PRESETS["small"],
    backbone=BACKBONES["small"],
    projector="512-128",
    optim=Optim(name="adamw", lr=2e-3, weight_decay=1e-2),
    epochs=20,
    batch=256,
)
"""Minutes on a CPU: a small bottleneck net on 32 x 32 images, a narrow projector, AdamW."""

RECIPES = {"paper": PAPER, "small": SMALL}


def recipe(name: str) -> Pretrain:
    """A recipe by name. Raises UserError naming the nearest."""
    if name not in RECIPES:
        raise UserError(f"recipe '{name}' is not known.{nearest(name, RECIPES)}")
    return RECIPES[name]
