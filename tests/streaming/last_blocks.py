"""A last block, its inputs, and everything one step gives: what tests of the streamed block compare."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan.backbones.resnet import Block
from wingspan.chance import generator
from wingspan.streaming import block

Forward = Callable[[Block, Tensor, Tensor], Tensor]


def made(kind: str, inner: int, inputs: int, D: int, dtype: torch.dtype = torch.float64) -> Block:
    """A last block with nothing left at a neutral value. kind: bottleneck or basic, with projection or identity."""
    shape, shortcut = kind.split()
    built = Block(
        D if shortcut == "identity" else inputs, inner, D, 1, bottleneck=shape == "bottleneck", project=shortcut != "identity"
    )
    chance = generator(0, "block")
    for name, value in built.named_parameters():
        drawn = torch.randn(value.shape, generator=chance)
        value.data = (drawn / value[0].numel() ** 0.5 if value.ndim == 4 else 1.0 * name.endswith("weight") + 0.3 * drawn).to(
            dtype
        )
    return built.to(dtype)


def drawn(built: Block, N: int, side: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """What the last convolution and the shortcut get."""
    chance = generator(1, "input")
    inputs = built.conv1.in_channels
    channels = (built.last_conv.in_channels, inputs)
    h, x = (torch.randn(N, K, *side, generator=chance).relu().add(0.1).to(dtype) for K in channels)
    return h.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)


def plain(built: Block, h: Tensor, x: Tensor) -> Tensor:
    shortcut = x if built.downsample is None else built.downsample(x)
    return F.relu(built.last_norm(built.last_conv(h)) + shortcut).mean((2, 3))


def streamed(**options: object) -> Forward:
    def forward(built: Block, h: Tensor, x: Tensor) -> Tensor:
        parts = () if built.downsample is None else tuple(built.downsample)
        return block.pooled(h, x, built.last_conv, built.last_norm, *parts, **options)  # type: ignore[arg-type]

    return forward


def everything(built: Block, h: Tensor, x: Tensor, forward: Forward, bf16: bool = False) -> dict[str, Tensor]:
    """Output, gradients and buffers after one step, the gradient from above being the same for all."""
    built, h, x = copy.deepcopy(built), h.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        r = forward(built, h, x)
    r.backward(torch.randn(r.shape, generator=generator(2, "above")).to(r.dtype))
    found = {"r": r.detach(), "h": h.grad, "x": x.grad}
    found |= {name: value.grad for name, value in built.named_parameters() if value.grad is not None}
    return {name: value.double() for name, value in (found | dict(built.named_buffers())).items() if value is not None}


def errors(found: dict[str, Tensor], true: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == true.keys()
    return {name: float((found[name] - true[name]).norm() / (true[name].norm() + 1e-30)) for name in true}
