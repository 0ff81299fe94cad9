"""ResNets whose last block has any width D (paper, section 3.1 and figure 10).

Parameter names, shapes and initialisation are torchvision's (torchvision/models/resnet.py), without its classifier `fc`; at the
standard width its weights load with `strict=False`. "The last block" can be read three ways, all offered as `width_scope`; the
paper's words are `block`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan import synced
from wingspan.backbones.base import Backbone, check_width
from wingspan.errors import UserError
from wingspan.streaming import block, rule
from wingspan.streaming.rule import Streamed

Arch = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "small", "small_deep", "small_wide"
]  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """An architecture in numbers: blocks a stage, bottleneck or basic, first stage's planes, inner width over planes."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    planes: int = 64
    inner: int = 1

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1


PLANS: dict[str, _Plan] = {
    "resnet18": _Plan((2, 2, 2, 2), bottleneck=False),
    "resnet34": _Plan((3, 4, 6, 3), bottleneck=False),
    "resnet50": _Plan((3, 4, 6, 3), bottleneck=True),
    "resnet101": _Plan((3, 4, 23, 3), bottleneck=True),
    "resnet152": _Plan((3, 8, 36, 3), bottleneck=True),
    "wide_resnet50_2": _Plan((3, 4, 6, 3), bottleneck=True, inner=2),
    "small": _Plan((1, 1, 1, 2), bottleneck=True, planes=16),  # standard width 512; minutes on a CPU
    "small_deep": _Plan((3, 4, 6, 3), bottleneck=True, planes=16),  # ResNet-50's blocks
    "small_wide": _Plan((1, 1, 1, 2), bottleneck=True, planes=16, inner=2),  # what Wide-ResNet-50-2 is to ResNet-50
}


class _Conv(nn.Conv2d):
    """A convolution without bias whose weights the network draws, in order, once it is whole.

    Drawn by each constructor as usual, the draws would depend on D from the last block on backwards; so the same seed gives the
    same trunk at every width, and a sweep over D changes the last block alone.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def reset_parameters(self) -> None:
        pass


class Block(nn.Module):
    """A residual block: basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1), with torchvision's parameter names."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, *, bottleneck: bool, project: bool) -> None:
        super().__init__()
        if bottleneck:
            self.conv1 = _Conv(inputs, inner, 1)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv2 = _Conv(inner, inner, 3, stride)
            self.bn2 = nn.BatchNorm2d(inner)
            self.conv3 = _Conv(inner, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = _Conv(inputs, inner, 3, stride)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv2 = _Conv(inner, outputs, 3)
            self.bn2 = nn.BatchNorm2d(outputs)
        self.bottleneck = bottleneck
        self.downsample: nn.Sequential | None = None
        if project or stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_Conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3 if self.bottleneck else self.bn2

    @property
    def last_conv(self) -> nn.Conv2d:
        return self.conv3 if self.bottleneck else self.conv2

    def _inner(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> what the last convolution gets."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True) if self.bottleneck else x

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.last_norm(self.last_conv(self._inner(x)))
        x += shortcut  # in place: another tensor of this size costs time
        return F.relu(x, inplace=True)

    def streams(self, mode: Streamed, x: Tensor) -> bool:
        """Whether `pooled` is to be used as the last block, for a network whose input is like x."""
        able = self.last_conv.stride == (1, 1)
        return able and rule.chosen(mode, x, self.last_norm.num_features, training=self.training)

    def pooled(self, x: Tensor) -> Tensor:
        """The mean of `forward` over positions, (B, outputs), whose every position is never stored."""
        conv, norm = self.last_conv, self.last_norm
        if self.downsample is None:
            return block.pooled(self._inner(x), x, conv, norm, together=synced.is_open())
        shortcut: nn.Conv2d = self.downsample[0]  # type: ignore[assignment]
        shortcut_norm: nn.BatchNorm2d = self.downsample[1]  # type: ignore[assignment]
        across, down = shortcut.stride
        thinned = x[:, :, ::across, ::down]
        return block.pooled(self._inner(x), thinned, conv, norm, shortcut, shortcut_norm, together=synced.is_open())


class ResNetModule(nn.Module):
    """(B, 3, H, W) -> h (B, D): stem, four stages, mean over positions."""

    def __init__(self, spec: ResNet) -> None:
        super().__init__()
        plan = PLANS[spec.arch]
        self.width, self.streamed = spec.D, spec.streamed
        if spec.stem == "imagenet":
            self.conv1 = _Conv(3, plan.planes, 7, stride=2)
        else:
            self.conv1 = _Conv(3, plan.planes, 3, stride=2 if spec.stem == "half" else 1)
        self.bn1 = nn.BatchNorm2d(plan.planes)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem == "imagenet" else nn.Identity()
        inputs = plan.planes
        for stage in range(4):
            blocks = []
            for index in range(plan.blocks[stage]):
                inner, outputs, project = spec.block_widths(stage, index)
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(inputs, inner, outputs, stride, bottleneck=plan.bottleneck, project=project))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self._initialise(zero=spec.zero_init)

    def _initialise(self, *, zero: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero and isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
        stage: nn.Sequential = self.layer4  # type: ignore[assignment]
        last: Block = stage[-1]  # type: ignore[assignment]
        if last.streams(self.streamed, x):
            return last.pooled(stage[:-1](x))
        return torch.mean(stage(x), (2, 3))  # (B, D, H', W') -> (B, D)


@dataclass(frozen=True)
class ResNet(Backbone):
    """A ResNet with a last block of width D."""

    title: ClassVar[str] = "ResNet 18 to 152, Wide-ResNet-50-2, and a small one for CPUs, with a last block of any width"

    arch: Arch = "resnet50"
    """Depth and kind of blocks. `small` (bottlenecks, base width 16) trains in minutes on a CPU; `small_deep` has more blocks,
    `small_wide` wider ones."""
    width: int | None = None
    """D, the width of the representation: wider keeps more for other tasks, narrower fits the pretraining task.
    Left out: the architecture's standard width."""
    width_scope: Literal["block", "stage", "planes"] = "block"
    """What is widened. block: the last block's output only, as the paper says; stage: the output of every block of the last
    stage; planes: their inner width too (dear: parameters grow with the square)."""
    shortcut: Literal["auto", "projection"] = "auto"
    """The last block's shortcut. auto: identity at the standard width, as torchvision; projection: a 1x1 convolution at every
    width, so that a sweep over D changes one thing only."""
    stem: Literal["imagenet", "cifar", "half"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1 (for 32 x 32 images); half: 3x3 stride 2 (faster, for CPUs)."""
    streamed: Streamed = "auto"
    """Whether the last block is computed in channel chunks whose output is never stored, to save memory and time; the result is
    the same up to rounding. auto: wherever that was measured to win, which is on CPUs; on: always, for instance on a GPU whose
    memory does not hold a wide block; off: never."""
    zero_init: bool = False
    """Start every residual branch at zero, as facebookresearch/vicreg does."""

    def __post_init__(self) -> None:
        if self.width is not None:
            check_width(self.width)
        expansion = PLANS[self.arch].expansion
        if self.width_scope == "planes" and self.D % expansion:
            raise UserError(
                f"width {self.D} with --backbone.width-scope planes: a bottleneck's width must be a multiple of {expansion}; "
                f"the nearest is {max(1, round(self.D / expansion)) * expansion}."
            )

    @property
    def D(self) -> int:
        return self.standard_width if self.width is None else self.width

    @property
    def standard_width(self) -> int:
        """The width torchvision gives this architecture: 2048 for ResNet-50, 512 for ResNet-18."""
        plan = PLANS[self.arch]
        return plan.planes * 8 * plan.expansion

    @property
    def label_name(self) -> str:
        return self.arch

    def block_widths(self, stage: int, index: int) -> tuple[int, int, bool]:
        """(inner width, output width, forced projection) of a block; stages count from 0."""
        plan = PLANS[self.arch]
        planes = plan.planes * 2**stage
        outputs = planes * plan.expansion
        last = stage == 3 and index == plan.blocks[3] - 1
        if stage == 3 and self.width_scope == "planes":
            planes, outputs = self.D // plan.expansion, self.D
        elif (stage == 3 and self.width_scope == "stage") or last:
            outputs = self.D
        return planes * plan.inner, outputs, last and self.shortcut == "projection"

    def build(self) -> nn.Module:
        return ResNetModule(self)


PRESETS = {
    **{name: ResNet(arch=name) for name in PLANS if not name.startswith("small")},  # type: ignore[arg-type]
    **{name: ResNet(arch=name, stem="half") for name in PLANS if name.startswith("small")},  # type: ignore[arg-type]
}
