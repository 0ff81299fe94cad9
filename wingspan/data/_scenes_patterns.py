"""The vocabulary of `scenes`: outlines, surface textures and backdrops as functions of plane coordinates.

Only operations that IEEE 754 rounds exactly are used on pixels (no sin, no exp, no fused multiply-add), so that a pixel's
value cannot depend on where in a batch, or on which thread, it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _disc(u: Tensor, v: Tensor, radius: float) -> Tensor:
    return (u * u + v * v).sqrt_() - radius


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(u.abs() - half_width, v.abs() - half_height)


def _drop(u: Tensor, v: Tensor) -> Tensor:
    tip = torch.maximum(u.abs() * 0.888 + (v - 1.0) * 0.459, -0.065 - v)
    return torch.minimum(_disc(u, v + 0.35, 0.62), tip)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    a = u.abs()
    tip = torch.maximum(a * 0.752 - (v + 0.95) * 0.659, v - 0.05)
    return torch.minimum(_disc(a - 0.43, v - 0.3, 0.5), tip)


def _arrow(u: Tensor, v: Tensor) -> Tensor:
    head = torch.maximum(u.abs() * 0.794 + (v - 0.98) * 0.608, -v)
    return torch.minimum(head, _box(u, v + 0.4, 0.24, 0.55))


def _moon(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_disc(u, v, 0.92), -_disc(u - 0.46, v, 0.68))


def _corner(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u + 0.36, v, 0.25, 0.78), _box(u - 0.03, v + 0.53, 0.64, 0.25))


def _tee(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u, v - 0.46, 0.72, 0.25), _box(u, v + 0.2, 0.25, 0.72))


def _key(u: Tensor, v: Tensor) -> Tensor:
    ring = _disc(u, v - 0.48, 0.35).abs_() - 0.16
    teeth = torch.minimum(_box(u - 0.2, v + 0.8, 0.22, 0.13), _box(u - 0.22, v + 0.4, 0.22, 0.13))
    return torch.minimum(torch.minimum(ring, _box(u, v + 0.4, 0.14, 0.55)), teeth)


def _mushroom(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(_disc(u, v, 0.9), -v), _box(u, v + 0.4, 0.28, 0.5))


def _fish(u: Tensor, v: Tensor) -> Tensor:
    b = v.abs()
    tail = torch.maximum(u * 0.625 + b * 0.781 + 0.187, -0.86 - u)
    return torch.minimum(_disc(u - 0.2, b + 0.42, 0.9), tail)


def _pie(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_disc(u, v, 0.92), u * 0.616 - v.abs() * 0.788)


def _horseshoe(u: Tensor, v: Tensor) -> Tensor:
    low = v.clamp(max=0.0)
    return torch.maximum(((u * u + low * low).sqrt_() - 0.56).abs_() - 0.22, v - 0.64)


def _chevron(u: Tensor, v: Tensor) -> Tensor:
    a = u.abs()
    return torch.maximum((a * 0.66 + (v - 0.32) * 0.75).abs_() - 0.26, a - 0.76)


Outline = Callable[[Tensor, Tensor], Tensor]

# name -> signed distance (negative inside) to an outline within the unit circle; u right, v up. None has a rotation symmetry.
SHAPES: dict[str, Outline] = {
    "drop": _drop,
    "heart": _heart,
    "arrow": _arrow,
    "moon": _moon,
    "corner": _corner,
    "tee": _tee,
    "key": _key,
    "mushroom": _mushroom,
    "fish": _fish,
    "pie": _pie,
    "horseshoe": _horseshoe,
    "chevron": _chevron,
}


def _wave(x: Tensor) -> Tensor:
    """Triangle wave of period 1 between -1 (at integers) and 1."""
    return 1.0 - ((x - x.floor()) * 2.0 - 1.0).abs_() * 2.0


def _dot(u: Tensor, v: Tensor, radius: float) -> Tensor:
    """Positive within `radius` of the centre of each unit cell; slope 4, as `_wave`."""
    return _disc(u - u.floor() - 0.5, v - v.floor() - 0.5, radius) * -4.0


Pattern = Callable[[Tensor, Tensor], Tensor]

# name -> ink where positive; u and v in periods, slope about 4 a period at the edges, so that one factor antialiases them all.
TEXTURES: dict[str, Pattern] = {
    "plain": lambda u, v: torch.full_like(u, -8.0),
    "stripes": lambda u, v: _wave(v),
    "checks": lambda u, v: _wave(u * 0.5) * _wave(v * 0.5) * 2.0,
    "dots": lambda u, v: _dot(u, v, 0.32),
    "rings": lambda u, v: _wave((u * u + v * v).sqrt_()),
}


def _hash(i: Tensor, j: Tensor, key: Tensor) -> Tensor:
    """Integer lattice points and a key an image -> noise in [0, 1)."""
    h = i * 374761393 + j * 668265263 + key * 2147483647
    h = (h ^ (h >> 13)) * 1274126177
    h = (h ^ (h >> 16)) * 974634593
    return ((h ^ (h >> 15)) & 0xFFFF).float() / 65536.0


def _clouds(x: Tensor, y: Tensor, key: Tensor) -> Tensor:
    """Value noise (smoothly interpolated lattice noise), stretched to spread over about [-2, 2]."""
    fx, fy = x.floor(), y.floor()
    i, j = fx.long(), fy.long()
    s, t = x - fx, y - fy
    s, t = s * s * (3.0 - s * 2.0), t * t * (3.0 - t * 2.0)
    low, high = _hash(i, j, key), _hash(i, j + 1, key)
    low = low + (_hash(i + 1, j, key) - low) * s
    high = high + (_hash(i + 1, j + 1, key) - high) * s
    return (low + (high - low) * t) * 4.0 - 2.0


def _bricks(x: Tensor, y: Tensor, key: Tensor) -> Tensor:
    row = y.floor()
    along = x * 0.5 + row * 0.5
    tone = _hash(along.floor().long(), row.long(), key) * 0.9 - 0.6
    mortar = torch.maximum(_wave(along) * -2.0 - 1.5, _wave(y) * -1.0 - 0.55) * 4.0
    return torch.maximum(tone, mortar)


Backdrop = Callable[[Tensor, Tensor, Tensor], Tensor]

# name -> second tone where positive, first where negative; x and y in periods, key (n, 1, 1) int64 seeds an image's noise.
BACKDROPS: dict[str, Backdrop] = {
    "slope": lambda x, y, key: y * 0.5,
    "planks": lambda x, y, key: _wave(x * 0.8),
    "tiles": lambda x, y, key: _wave(x * 0.5) * _wave(y * 0.5) * 2.0,
    "bricks": _bricks,
    "waves": lambda x, y, key: _wave(y + _wave(x * 0.5) * (2.0 - _wave(x * 0.5).abs()) * 0.2),
    "spots": lambda x, y, key: _dot(x, y, 0.34),
    "ripples": lambda x, y, key: _wave(((x - 1.0) * (x - 1.0) + y * y).sqrt_()),
    "clouds": _clouds,
    "mosaic": lambda x, y, key: _hash((x * 1.4).floor().long(), (y * 1.4).floor().long(), key) * 2.0 - 1.0,
    "zigzag": lambda x, y, key: _wave(y + _wave(x).abs() * 0.5) * 0.6,
}
# Backdrops whose grey levels are the pattern itself and must not be sharpened into two tones.
SMOOTH = ("slope", "clouds", "mosaic", "bricks")
