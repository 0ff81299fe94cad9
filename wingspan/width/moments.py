"""What the last block sees on images: mean and covariance of its inputs s = (what the branch's last layer gets, what the
shortcut gets) at one position, and the representation h. Everything before the ReLU is linear in s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.width.anatomy import Anatomy
from wingspan.width.trace import still

_POSITIONS = 16  # looked at in an image: neighbours say much the same; more where images are few for a covariance
_AT_ONCE = 32


@dataclass(frozen=True)
class Moments:
    """mean (n,) and covariance (n, n) of s in fp64, n = n_u + n_x; `split` is n_u. h: (N, C) in fp32."""

    mean: Tensor
    covariance: Tensor
    split: int
    h: Tensor


@torch.no_grad()
def moments(model: nn.Module, found: Anatomy, images: Tensor, seed: int) -> Moments:
    """Look at normalised images (N, 3, S, S), in evaluation mode. Only positions that h depends on count: of a ViT with a class
    token that token alone."""
    heard = positions(model, found, images[:2])
    drawn = generator(seed, "width positions")
    got: dict[str, Tensor] = {}
    rows: list[Tensor] = []
    pooled: list[Tensor] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            got[name] = inputs[0]

        return hook

    layers = {"branch": model.get_submodule(found.out), "shortcut": model.get_submodule(found.shortcut)}
    count = min(len(heard), max(_POSITIONS, 4 * sum(map(_size, layers.values())) // len(images)))
    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    try:
        with still(model):
            for part in images.split(_AT_ONCE):
                pooled.append(model(part).float().cpu())
                some = heard[torch.randperm(len(heard), generator=drawn)[:count]]
                both = [_at(layers[name], got[name], some) for name in layers]
                rows.append(torch.cat(both, 2).flatten(0, 1).float().cpu())
    finally:
        for each in hooks:
            each.remove()
    s = torch.cat(rows)
    mean = s.mean(0)
    centred = s - mean
    covariance = (centred.T @ centred).double() / max(1, len(s) - 1)
    return Moments(mean.double(), covariance, _size(layers["branch"]), torch.cat(pooled))


def _size(layer: nn.Module) -> int:
    return layer.weight[0].numel()  # type: ignore[index]


def _at(layer: nn.Module, x: Tensor, some: Tensor) -> Tensor:
    """A layer's input -> what it multiplies its weights with, at some output positions: (B, P, n)."""
    some = some.to(x.device)
    if isinstance(layer, nn.Conv2d):
        if layer.kernel_size == (1, 1):
            down, across = layer.stride
            return x[:, :, ::down, ::across].flatten(2)[:, :, some].mT
        sides: Any = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        return F.unfold(x, **sides)[:, :, some].mT
    return x.flatten(1, -2)[:, some]


def positions(model: nn.Module, found: Anatomy, images: Tensor) -> Tensor:
    """Output positions of the branch's last layer that h depends on (P,), from h's gradient."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[-1].clone()  # what follows may change it in place

    layer = model.get_submodule(found.out)
    handle = layer.register_forward_hook(hook)
    try:
        with torch.enable_grad(), still(model):
            h = model(images)
            (slope,) = torch.autograd.grad(h.square().sum() + h.sum(), kept[-1])
    finally:
        handle.remove()
    by_position = slope.flatten(2).abs().sum((0, 1)) if isinstance(layer, nn.Conv2d) else slope.flatten(1, -2).abs().sum((0, 2))
    heard = by_position.nonzero().flatten().cpu()
    return heard if len(heard) else torch.arange(len(by_position))
