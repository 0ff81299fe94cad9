"""Models of timm and torchvision, small ones, with random weights, norms and statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from wingspan import interop
from wingspan.errors import UserError

_NARROW = {"channels": (16, 32, 64, 128)}
_SHORT = {"layers": (1, 1, 1, 2), **_NARROW}
_SWIN = {"img_size": 64, "depths": (1, 1, 1, 2), "embed_dim": 24, "num_heads": (1, 2, 2, 4)}
_VIT = {"img_size": 64, "depth": 2}
TIMM: dict[str, dict[str, object]] = {
    "resnet18": _NARROW, "resnext50_32x4d": _SHORT, "seresnet50": _SHORT, "resnet50d": _SHORT, "resnet10t": _NARROW,
    "resnetv2_18": {"channels": (32, 64, 128, 256)}, "regnetx_002": {}, "regnety_002": {}, "convnext_atto": {},
    "convnextv2_atto": {}, "vit_tiny_patch16_224": _VIT, "deit3_small_patch16_224": _VIT,
    "swin_tiny_patch4_window7_224": _SWIN, "swinv2_tiny_window8_256": _SWIN,
}  # fmt: skip
POOLED = ("vit_tiny_patch16_224", {**_VIT, "global_pool": "avg"})
SIDE = 64


def _timm(name: str, options: dict[str, object]) -> nn.Module:
    return interop.timm().create_model(name, num_classes=10, **options)


def _convnext() -> nn.Module:
    models = interop.torchvision().models
    setting = models.convnext.CNBlockConfig
    return models.ConvNeXt([setting(24, 48, 1), setting(48, 96, 1), setting(96, None, 2)], num_classes=10)


def _swin() -> nn.Module:
    kind = interop.torchvision().models.SwinTransformer
    return kind([4, 4], 24, [1, 1, 1, 2], [1, 2, 2, 4], [7, 7], stochastic_depth_prob=0.1, num_classes=10)


def _vit() -> nn.Module:
    return interop.torchvision().models.VisionTransformer(SIDE, 16, 2, 3, 96, 192, num_classes=10)


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: interop.torchvision().models.resnet18(num_classes=10),
    "regnet": lambda: interop.torchvision().models.regnet_y_400mf(num_classes=10),
    "convnext": _convnext,
    "swin": _swin,
    "vit": _vit,
}
MAKERS: dict[str, Callable[[], nn.Module]] = {
    **{f"timm-{name}": lambda name=name, options=options: _timm(name, options) for name, options in TIMM.items()},
    "timm-vit-pooled": lambda: _timm(*POOLED),
    **{f"torchvision-{name}": make for name, make in TORCHVISION.items()},
}


def model(name: str) -> nn.Module:
    """A model by name, in evaluation mode; skips where its library cannot be imported."""
    torch.manual_seed(0)
    try:
        made = MAKERS[name]()
    except UserError as error:
        pytest.skip(str(error))
    return lively(made)


def lively(made: nn.Module) -> nn.Module:
    """Norms with gains, offsets and statistics that are not 1 and 0, as after training."""
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    for name, value in made.named_parameters():
        if name.rpartition(".")[2] in ("gamma", "layer_scale"):  # 1e-6 at first, which hides the branch
            nn.init.uniform_(value, 0.2, 1)
    return made.eval()


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
