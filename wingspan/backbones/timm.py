"""Any model of timm whose last block can be given a width: ResNet, ResNeXt, SE, RegNet, ConvNeXt, ViT, DeiT, Swin."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from wingspan import interop
from wingspan.backbones.base import Backbone, check_width
from wingspan.errors import UserError, nearest
from wingspan.width import set_width


@dataclass(frozen=True)
class Timm(Backbone):
    """A model of timm with a last block of width D (needs `pip install 'wingspan[interop]'`)."""

    title: ClassVar[str] = "any ResNet-like model, ConvNeXt, ViT or Swin of timm, with a last block of any width"

    timm: str = "convnext_tiny"
    """The model's name in timm, as `resnet50`, `convnext_tiny`, `vit_small_patch16_224`."""
    width: int | None = None
    """D, the width of the representation: wider keeps more for other tasks, narrower fits the pretraining task.
    Left out: the model's own."""
    gate: Literal["relu", "none"] = "relu"
    """Models whose representation has negative numbers (ConvNeXt, ViT, Swin) get a ReLU before the pooling: sparse and
    nonnegative like a ResNet's, so that it can be stored as bits. none: as the model has it."""
    shortcut: Literal["auto", "projection"] = "auto"
    """The last block's shortcut. auto: as the model has it at its own width; projection: linear at every width, so that a sweep
    over D changes one thing only."""
    side: int = 0
    """Side of the images in pixels, for models built for one side (ViT, Swin), whose position embeddings and windows are made
    for it. 0: the model's own, often 224. Other models take any side."""
    patch: int = 0
    """Patch size of a ViT or Swin, or stride of a ConvNeXt's stem; 2 or 4 suits images of 32 pixels. 0: the model's own."""
    drop_path: float = 0.0
    """Stochastic depth: how often a residual branch is left out of the last block; earlier ones less. Try 0.1 for long runs."""

    def __post_init__(self) -> None:
        if self.width is not None:
            check_width(self.width)
        for name in ("side", "patch"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"--backbone.{name} {getattr(self, name)} must be a number of pixels, or 0 for the model's own."
                )

    @property
    def D(self) -> int:
        return _standard_width(self.timm) if self.width is None else self.width

    @property
    def label_name(self) -> str:
        return self.timm

    def build(self) -> nn.Module:
        # The last block is found by running the model, which takes real tensors, also where only shapes are wanted.
        shapes = torch.get_default_device().type == "meta"
        with unset_fake_temporarily() as mode, torch.device("cpu"):
            model = self.plain()
            made = set_width(model, self.width, keep=False, gate=self.gate, shortcut=self.shortcut, side=self.side or None)
        return _without_storage(made) if shapes or mode is not None else made

    def plain(self, *, pretrained: bool = False) -> nn.Module:
        """timm's own model at its own width, with its classifier. Raises UserError for a name that timm does not have."""
        return _known(self.timm, self.arguments, pretrained)

    @property
    def arguments(self) -> dict[str, Any]:
        """What timm's model is asked for beside its name; `create` says which of it the model takes."""
        given = {"img_size": self.side, "patch_size": self.patch, "drop_path_rate": self.drop_path}
        return {name: value for name, value in given.items() if value}


def _known(name: str, given: dict[str, Any], pretrained: bool = False) -> nn.Module:
    known = interop.timm().list_models()
    if name.partition(".")[0] not in known:
        raise UserError(f"timm has no model '{name}'.{nearest(name, known)}")
    try:
        return create(name, given, pretrained=pretrained)[0]
    except UserError:
        raise
    except Exception as error:  # whatever a model's constructor, or a download, makes of it
        what = f" with {', '.join(f'{key} {value}' for key, value in given.items())}" if given else ""
        raise UserError(f"timm cannot build '{name}'{what}: {error}") from error


def create(name: str, given: dict[str, Any], **more: Any) -> tuple[nn.Module, dict[str, Any]]:
    """timm's model, and those of the arguments `given` that it took: a convolutional net takes images of any side, and no word
    of theirs. Raises UserError where timm cannot be imported, and whatever a model's constructor makes of the rest."""
    timm = interop.timm()
    try:
        return timm.create_model(name, **more, **given), given
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    fewer = {key: value for key, value in given.items() if key != "img_size"}
    return timm.create_model(name, **more, **fewer), fewer


def _without_storage(module: nn.Module) -> nn.Module:
    """For a forecast, whose tensors have shapes only."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            part._parameters[name] = nn.Parameter(torch.empty(value.shape, dtype=value.dtype))
        for name, held in list(part.named_buffers(recurse=False)):
            part._buffers[name] = torch.empty(held.shape, dtype=held.dtype)
    return module


@functools.cache
def _standard_width(name: str) -> int:
    with unset_fake_temporarily(), torch.random.fork_rng(devices=[]):
        return int(_known(name, {}).num_features)  # type: ignore[arg-type]
