"""Small networks built as timm's and torchvision's are, for where these libraries cannot be imported, and for speed.

Names and shapes of parameters, the attributes a block has, which module is called with what, and whose code adds what to what
are the libraries'; the code is not, and what no test needs (dropping, other poolings, patch merging) is left out.
`test_stand_ins.py` holds each against the real one. (B, 3, 32, 32) -> logits (B, 10); a forward takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from stand_in_parts import SIDE
from stand_in_resnets import TimmRegNet, TimmResNet, TorchvisionRegNet, TorchvisionResNet
from stand_in_transformers import TimmConvNeXt, TimmSwin, TimmViT, TorchvisionConvNeXt, TorchvisionSwin, TorchvisionViT
from torch import nn


@torch.no_grad()
def lively(made: nn.Module) -> nn.Module:
    """Norms with gains and offsets that are not 1 and 0, and batch norms with statistics of images; evaluation mode."""
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean of what was seen
    made.train()(torch.randn(64, 3, SIDE, SIDE))
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.1
    return made.eval()


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return lively(make())

    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    name: _seeded(make)
    for name, make in {
        "timm-resnet-basic": TimmResNet,
        "timm-resnet-bottleneck": lambda: TimmResNet(narrowing=2),
        "timm-resnet-se": lambda: TimmResNet(narrowing=2, se=True),
        "timm-regnet": TimmRegNet,
        "timm-convnext": TimmConvNeXt,
        "timm-vit-token": TimmViT,
        "timm-vit-pooled": lambda: TimmViT(pooled=True),
        "timm-swin": TimmSwin,
        "torchvision-resnet-basic": TorchvisionResNet,
        "torchvision-resnet-bottleneck": lambda: TorchvisionResNet(narrowing=2),
        "torchvision-regnet": TorchvisionRegNet,
        "torchvision-convnext": TorchvisionConvNeXt,
        "torchvision-vit": TorchvisionViT,
        "torchvision-swin": TorchvisionSwin,
    }.items()
}
"""By name, always with the same weights, in evaluation mode."""
