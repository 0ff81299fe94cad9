"""Colour operations on batches of float images in 0..1, every image with its own numbers. No chance in here.

Semantics are torchvision's in real numbers, without its rounding to bytes. Which spatial axis comes first does not
matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma


def jitter(x: Tensor, factors: Tensor, order: Tensor, hue_turn: int) -> Tensor:
    """Brightness, contrast, saturation and hue of (n, 3, size, size) in 0..1, clamped after each.

    `factors` (n, 4) has a column an operation: three factors, and hue's turn as a share of the circle. `order` (n, 4)
    int64 is each image's order of the operations; hue is at turn `hue_turn` for all of them.
    """
    flat = x.flatten(2)  # (n, 3, P)
    for turn in range(4):
        if turn == hue_turn:
            flat = _hue(flat, factors[:, HUE])
        else:
            flat = _blend(flat, factors.gather(1, order[:, turn : turn + 1])[:, 0], order[:, turn])
    return flat.view_as(x)


def _blend(x: Tensor, factor: Tensor, operation: Tensor) -> Tensor:
    """factor x + (1 - factor) y, clamped; by `operation` (n,) y is black, the mean grey or the grey of x (n, 3, P)."""
    rest = 1 - factor
    luma = x.new_tensor(GREY)
    level = rest * (operation == CONTRAST) * (x.mean(dim=-1) * luma).sum(dim=-1)  # (n,)
    saturation = (rest * (operation == SATURATION))[:, None, None] * luma
    matrix = factor[:, None, None] * torch.eye(3, device=x.device) + saturation  # (n, 3, 3)
    return torch.baddbmm(level[:, None, None], matrix, x).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of (n, 3, P) in HSV by `turn` (n,) of the circle; value and saturation stay."""
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Sextant times chroma, by which channel is the highest. The sign is a mask in float: torch.where is slow on a CPU.
    if_red = green - blue
    if_green = (blue - red).add_(chroma, alpha=2)
    angle = (red - green).add_(chroma, alpha=4)
    angle = angle.sub_(if_green).mul_((high - green).sign_()).add_(if_green)
    angle = angle.sub_(if_red).mul_((high - red).sign_()).add_(if_red)
    angle = angle.div_(chroma.clamp(min=1e-8).mul_(6)).add_(turn[:, None])
    share = angle[:, None] + x.new_tensor([2, 5 / 3, 4 / 3])[:, None]  # positive, so that frac is the remainder
    share = share.frac_().sub_(0.5).abs_().mul_(6).sub_(1).clamp_(0, 1)  # of the chroma that each channel carries
    return share.mul_(chroma[:, None]).add_(low[:, None])


def luma(x: Tensor) -> Tensor:
    """(n, 3, size, size) -> its grey in all three channels."""
    return (x * x.new_tensor(GREY)[:, None, None]).sum(dim=1, keepdim=True).expand_as(x)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (n, 3, size, size) with its own sigma (n,) in pixels for every image.

    The kernel is as wide as the image; the border reflects without repeating the edge pixel.
    """
    place = torch.arange(x.shape[-1], device=x.device)
    last = x.shape[-1] - 1
    weights = torch.zeros(len(x), last + 1, last + 1, device=x.device)
    for mirrored, real in ((place, place >= 0), (-place, place > 0), (2 * last - place, place < last)):
        away = (place[:, None] - mirrored).float() / sigma.to(x.device)[:, None, None]
        weights += torch.exp(-0.5 * away.square()) * real
    weights = (weights / weights.sum(dim=-1, keepdim=True))[:, None]
    return weights @ x @ weights.mT


def invert(x: Tensor, threshold: float) -> Tensor:
    """Solarise: values at or above `threshold` become 1 - value."""
    return torch.where(x >= threshold, 1 - x, x)
