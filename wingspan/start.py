"""What a run begins with: nothing, or weights that something else learnt, at any width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wingspan.errors import UserError


@dataclass(frozen=True)
class Start:
    """Where the weights come from before the first step."""

    weights: str = ""
    """What the backbone begins with. Left out: fresh weights. A run's folder: what that run learnt, at any width. A file
    (.safetensors, .pth): weights with torchvision's or timm's names, at the architecture's standard width. `pretrained`: the
    weights timm publishes for `--backbone.timm`. Where the width differs, old channels are kept and new ones added to them, or
    the less needed ones left out (docs/any_backbone.md)."""
    images: int = 1024
    """Training images looked at to place new channels, or to see which ones matter. 0: none, so that new channels are random
    and those left out are the last ones."""
    narrow: Literal["channels", "projection"] = "channels"
    """How a representation is made narrower. channels: keep those from which the others can best be predicted; projection:
    mix all into the principal directions."""
    new: Literal["random", "residual"] = "random"
    """What a wider representation's new channels begin as. random: random features of what the last block gets; residual: those
    less what old channels predict of them, which measured worse."""
    frozen: bool = False
    """Keep the backbone as it began, and train only what stands above it."""
    head: bool = False
    """With the supervised objective and no projector: begin with the classifier that fits the frozen representation best,
    instead of a random one, so that its first steps do not harm the backbone."""

    def __post_init__(self) -> None:
        if self.images < 0:
            raise UserError(f"--start.images {self.images} must be a number of images, or 0 for none.")
