"""Stand-ins for the batch-normed networks of timm and torchvision: ResNet and RegNet (`stand_ins.py`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from stand_in_parts import CLASSES, Head, Mean, Timm, chain, conv
from torch import Tensor, nn


class TimmSE(nn.Module):
    def __init__(self, C: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.bn, self.act = nn.Conv2d(C, inner, 1), nn.Identity(), nn.ReLU(inplace=True)
        self.fc2, self.gate = nn.Conv2d(inner, C, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True))))))


class TorchvisionSE(nn.Module):
    def __init__(self, C: int, inner: int) -> None:
        super().__init__()
        self.avgpool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, inner, 1), nn.Conv2d(inner, C, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


# --------------------------------------------------------------------------------------------------------------------- ResNet


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    changed = stride != 1 or inputs != outputs
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changed else None


class Layers(nn.Module):
    """What both libraries' blocks begin with: three convolutions where it is a bottleneck (outputs / `narrowing`), else two."""

    def __init__(self, inputs: int, outputs: int, stride: int, narrowing: int) -> None:
        super().__init__()
        inner = outputs // max(narrowing, 1)
        plan = [(inner, 1, 1), (inner, 3, stride), (outputs, 1, 1)] if narrowing else [(outputs, 3, stride), (outputs, 3, 1)]
        self.count, C = len(plan), inputs
        for n, (width, kernel, step) in enumerate(plan, 1):
            setattr(self, f"conv{n}", conv(C, width, kernel, step))
            setattr(self, f"bn{n}", nn.BatchNorm2d(width))
            C = width
        self.downsample = shortcut(inputs, outputs, stride)

    def layer(self, n: int, x: Tensor) -> Tensor:
        return getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(x))


class TimmBlock(Layers):
    def __init__(self, inputs: int, outputs: int, stride: int, narrowing: int, se: bool) -> None:
        super().__init__(inputs, outputs, stride, narrowing)
        for n in range(1, self.count + 1):
            setattr(self, f"act{n}", nn.ReLU(inplace=True))
        self.drop_block, self.aa, self.drop_path = nn.Identity(), nn.Identity(), None
        self.se = TimmSE(outputs, max(8, (outputs // 16 + 4) // 8 * 8)) if se else None

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for n in range(1, self.count):
            x = self.layer(n, x)
            x = self.drop_block(x) if n == self.count - 1 else x
            x = getattr(self, f"act{n}")(x)
        x = self.layer(self.count, self.aa(x))
        x = x if self.se is None else self.se(x)
        x = x if self.drop_path is None else self.drop_path(x)
        x += before if self.downsample is None else self.downsample(before)
        return getattr(self, f"act{self.count}")(x)


class TorchvisionBlock(Layers):
    def __init__(self, inputs: int, outputs: int, stride: int, narrowing: int) -> None:
        super().__init__(inputs, outputs, stride, narrowing)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for n in range(1, self.count):
            out = self.relu(self.layer(n, out))
        out = self.layer(self.count, out)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


DIMS, DEPTHS = (8, 16, 24, 32), (1, 1, 1, 2)


class TimmResNet(Timm):
    """dims: the stages' outputs; narrowing: how much narrower bottlenecks are inside, 0 for basic blocks."""

    classifier = "fc"

    def __init__(
        self, dims: Sequence[int] = DIMS, narrowing: int = 0, *, se: bool = False, stem: int = 8,
        strides: Sequence[int] = (1, 2, 2, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1, self.bn1, self.act1 = conv(3, stem, 7, 2), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        made = chain(lambda *sizes: TimmBlock(*sizes, narrowing, se), stem, dims, DEPTHS, strides)
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in made)
        self.num_features, self.global_pool, self.fc = dims[-1], Mean((2, 3)), nn.Linear(dims[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.fc(self.global_pool(self.layer4(self.layer3(self.layer2(self.layer1(x))))))


class TorchvisionResNet(nn.Module):
    """As `TimmResNet`."""

    def __init__(
        self, dims: Sequence[int] = DIMS, narrowing: int = 0, *, stem: int = 8, strides: Sequence[int] = (1, 2, 2, 1)
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(3, stem, 7, 2), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        made = chain(lambda *sizes: TorchvisionBlock(*sizes, narrowing), stem, dims, DEPTHS, strides)
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*blocks) for blocks in made)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(dims[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


# --------------------------------------------------------------------------------------------------------------------- RegNet


class NormAct(nn.BatchNorm2d):
    def __init__(self, C: int, act: bool) -> None:
        super().__init__(C)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def timm_conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    layer = conv(inputs, outputs, kernel, stride, groups)
    return nn.Sequential(OrderedDict(conv=layer, bn=NormAct(outputs, act), aa=nn.Identity()))


def torchvision_conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers = [conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class TimmRegNetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, group: int) -> None:
        super().__init__()
        self.conv1 = timm_conv(inputs, outputs)
        self.conv2 = timm_conv(outputs, outputs, 3, stride, outputs // group)
        self.se = TimmSE(outputs, round(inputs / 4))
        self.conv3, self.act3 = timm_conv(outputs, outputs, act=False), nn.ReLU()
        changed = stride != 1 or inputs != outputs
        self.downsample = timm_conv(inputs, outputs, stride=stride, act=False) if changed else nn.Identity()
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv3(self.se(self.conv2(self.conv1(x))))
        return self.act3(self.drop_path(branch) + self.downsample(x))


class TorchvisionRegNetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, group: int) -> None:
        super().__init__()
        changed = stride != 1 or inputs != outputs
        self.proj = torchvision_conv(inputs, outputs, stride=stride, act=False) if changed else None
        self.f = nn.Sequential(OrderedDict(
            a=torchvision_conv(inputs, outputs),
            b=torchvision_conv(outputs, outputs, 3, stride, outputs // group),
            se=TorchvisionSE(outputs, round(inputs / 4)),
            c=torchvision_conv(outputs, outputs, act=False),
        ))  # fmt: skip
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.f(x) if self.proj is None else self.proj(x) + self.f(x))


class TimmRegNet(Timm):
    def __init__(
        self, dims: Sequence[int] = DIMS, depths: Sequence[int] = DEPTHS, *, stem: int = 8, group: int = 8,
        strides: Sequence[int] = (2, 1, 2, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = timm_conv(3, stem, 3, 2)
        made = chain(lambda *sizes: TimmRegNetBlock(*sizes, group), stem, dims, depths, strides)
        for n, blocks in enumerate(made, 1):
            setattr(self, f"s{n}", nn.Sequential(OrderedDict((f"b{at}", block) for at, block in enumerate(blocks, 1))))
        self.num_features, self.final_conv, self.head = dims[-1], nn.Identity(), Head(dims[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.final_conv(self.s4(self.s3(self.s2(self.s1(self.stem(x)))))))


class TorchvisionRegNet(nn.Module):
    def __init__(
        self, dims: Sequence[int] = DIMS, depths: Sequence[int] = DEPTHS, *, stem: int = 8, group: int = 8,
        strides: Sequence[int] = (2, 1, 2, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem, self.trunk_output = torchvision_conv(3, stem, 3, 2), nn.Sequential()
        made = chain(lambda *sizes: TorchvisionRegNetBlock(*sizes, group), stem, dims, depths, strides)
        for n, blocks in enumerate(made, 1):
            named = OrderedDict((f"block{n}-{at}", block) for at, block in enumerate(blocks))
            self.trunk_output.add_module(f"block{n}", nn.Sequential(named))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(dims[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.trunk_output(self.stem(x))).flatten(start_dim=1))
