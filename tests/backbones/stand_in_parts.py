"""What the stand-ins for timm's and torchvision's networks are put together from (`stand_ins.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, SIDE = 10, 32


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def chain(
    make: Callable[[int, int, int], nn.Module], C: int, dims: Sequence[int], depths: Sequence[int], strides: Sequence[int]
):
    """The blocks of every stage, made from (inputs, outputs, stride), beginning with C channels."""
    for width, depth, stride in zip(dims, depths, strides, strict=True):
        yield [make(C, width, stride), *(make(width, width, 1) for _ in range(depth - 1))]
        C = width


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class StochasticDepth(nn.Module):
    """torchvision's, which drops nothing here, and is no nn.Identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Mean(nn.Module):
    def __init__(self, positions: tuple[int, ...], keep: bool = False) -> None:
        super().__init__()
        self.positions, self.keep = positions, keep

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.positions, keepdim=self.keep)


class Timm(nn.Module):
    """A network of timm, which can take off its classifier itself."""

    classifier = "head.fc"

    def reset_classifier(self, num_classes: int) -> None:
        owner, _, name = self.classifier.rpartition(".")
        made = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        setattr(self.get_submodule(owner), name, made)


class Head(nn.Module):
    """timm's, without a norm of its own (RegNet, Swin)."""

    def __init__(self, C: int, positions: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.in_features = self.num_features = C
        self.global_pool, self.drop = Mean(positions), nn.Dropout(0.0)
        self.fc, self.flatten = nn.Linear(C, CLASSES), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.fc(self.drop(self.global_pool(x))))


class NormHead(nn.Module):
    """timm's with a norm behind the pooling (ConvNeXt)."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.in_features = self.num_features = C
        self.global_pool, self.norm, self.flatten = Mean((2, 3), keep=True), LayerNorm2d(C, 1e-6), nn.Flatten(1)
        self.pre_logits, self.drop, self.fc = nn.Identity(), nn.Dropout(0.0), nn.Linear(C, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pre_logits(self.flatten(self.norm(self.global_pool(x))))))


class Mlp(nn.Module):
    """timm's, of transformers and ConvNeXt."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.fc1, self.act, self.drop1 = nn.Linear(C, 4 * C), nn.GELU(), nn.Dropout(0.0)
        self.norm, self.fc2, self.drop2 = nn.Identity(), nn.Linear(4 * C, C), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


def torchvision_mlp(C: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(C, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, C), nn.Dropout(0.0))
