"""Factors -> pixels: signed distance functions on the pixel grid, a whole batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wingspan.data._scenes_factors import DISTRACTORS, PALETTE, SMALL_RADIUS, Factors
from wingspan.data._scenes_patterns import BACKDROPS, SHAPES, SMOOTH, TEXTURES

_SHADOW = 0.3  # how far a shadow falls, in radii of its object
_PERIOD = 0.5  # of a surface texture, in radii of its object


def render(factors: Factors, size: int, foreground: bool = True, background: bool = True) -> Tensor:
    """n scenes -> (n, 3, size, size) uint8.

    The foreground is the main object; the background is the backdrop, the distractors and the shadows. Without a background
    the object lies on black; without a foreground neither the main object nor its shadow is drawn.
    An image's bytes depend on its own factors only, not on the batch it is rendered in.
    """
    window = min(size, math.ceil(size * SMALL_RADIUS[1] * (1.0 + _SHADOW)) + 4)
    pad = window // 2 + 1
    whole = torch.zeros(len(factors), 3, size + 2 * pad, size + 2 * pad)
    canvas = whole[:, :, pad : pad + size, pad : pad + size]
    if background:
        canvas.copy_(_backdrop(factors, size))
        _distractors(whole, factors, size, window, pad)
    if foreground:
        rows, slots = torch.arange(len(factors)), torch.zeros(len(factors), dtype=torch.int64)
        origin = torch.zeros(len(factors), 2, dtype=torch.int64)
        colour, cover, shadow = _objects(factors, rows, slots, size, origin, size)
        if background:
            canvas.mul_(shadow[:, None])
        canvas.mul_(1.0 - cover[:, None]).add_(colour.mul_(cover[:, None]))
    return (canvas * 255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)


def _distractors(whole: Tensor, factors: Factors, size: int, window: int, pad: int) -> None:
    """Paint each distractor into its window of the padded canvas (n, 3, size + 2 pad, size + 2 pad)."""
    slots, rows = (torch.arange(1, DISTRACTORS + 1)[:, None] <= factors.count).nonzero(as_tuple=True)
    slots = slots + 1
    origin = ((factors.centre[rows, slots] + 1.0) * (size / 2) - (window - 1) / 2).floor().long()  # (m, 2) x, y
    colour, cover, shadow = _objects(factors, rows, slots, size, origin, window)
    keep, colour = (shadow * (1.0 - cover))[:, None], colour.mul_(cover[:, None])
    x, y = origin[:, :1] + torch.arange(window) + pad, origin[:, 1:] + torch.arange(window) + pad
    start = 0
    # Slot by slot, as windows of one image may overlap; `slots` is sorted.
    for m in torch.bincount(slots, minlength=DISTRACTORS + 1)[1:].tolist():
        now = slice(start, start + m)
        channel = torch.arange(3)[:, None, None]
        at = (rows[now, None, None, None], channel, y[now, None, :, None], x[now, None, None, :])
        whole[at] = whole[at] * keep[now] + colour[now]
        start += m


def _objects(
    factors: Factors, rows: Tensor, slots: Tensor, size: int, origin: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The objects in `slots` (m,) of the scenes `rows` (m,), each seen in a window of pixels at `origin` (m, 2).

    Returns colour (m, 3, w, w), cover (m, w, w) and what the shadow leaves of the light (m, w, w).
    """
    pixel = 2.0 / size
    centre, radius = factors.centre[rows, slots], factors.radius[rows, slots]
    cos, sin = _direction(factors.angle[rows, slots])
    lx, ly = _direction(factors.light[rows])
    steps = torch.arange(window)
    dx = ((origin[:, 0, None] + steps + 0.5) * pixel - 1.0 - centre[:, :1]) / radius[:, None]  # (m, w)
    dy = (1.0 + centre[:, 1:] - (origin[:, 1, None] + steps + 0.5) * pixel) / radius[:, None]
    # Local coordinates as a row term plus a column term; the shadow is the outline seen from a step towards the light.
    u_x, u_y = (dx * cos[:, None])[:, None], (dy * sin[:, None])[:, :, None]
    v_x, v_y = (dx * -sin[:, None])[:, None], (dy * cos[:, None])[:, :, None]
    shift_u = ((lx * cos + ly * sin) * _SHADOW)[:, None, None]
    shift_v = ((ly * cos - lx * sin) * _SHADOW)[:, None, None]

    def outlines(index: int, at: Tensor) -> Tensor:
        u, v = u_x[at] + u_y[at], v_x[at] + v_y[at]
        outline = list(SHAPES.values())[index]
        return torch.stack([outline(u, v), outline(u + shift_u[at], v + shift_v[at])], 1)

    def inks(index: int, at: Tensor) -> Tensor:
        u, v = u_x[at] + u_y[at], v_x[at] + v_y[at]
        return list(TEXTURES.values())[index](u * (1 / _PERIOD), v * (1 / _PERIOD))

    both = _by_kind(factors.shape[rows, slots], outlines, (2, window, window))
    inside, cast = both[:, 0], both[:, 1]
    ink = _by_kind(factors.texture[rows, slots], inks, (window, window))
    scale = (radius / pixel)[:, None, None]  # pixels a radius
    cover = (0.5 - inside * scale).clamp_(0.0, 1.0)
    shadow = 1.0 - (0.5 - cast * 5.0).clamp_(0.0, 1.0) * 0.6
    # The finite difference towards the light is the slope of the outline's distance along it: a bevel faces the light where
    # it is positive. It fades towards the middle, which is flat.
    bevel = (1.0 + inside * 2.2).clamp_(0.0, 1.0)
    shade = ((cast - inside) * (1 / _SHADOW)).clamp_(-1.0, 1.0).mul_(bevel).mul_(0.45).add_(0.78)
    ink = (ink * (scale * (_PERIOD / 4)).clamp(min=1.0) + 0.5).clamp_(0.0, 1.0)
    albedo = torch.tensor(list(PALETTE.values()))[factors.colour[rows, slots]]
    albedo = albedo * (0.85 + 0.15 * factors.tint[rows, slots])[:, None]
    # The ink is pale on dark objects and dark on bright ones.
    bright = albedo[:, 0] * 0.3 + albedo[:, 1] * 0.6 + albedo[:, 2] * 0.1
    second = torch.where(bright[:, None] > 0.5, albedo * 0.65, albedo * 0.7 + 0.25)
    step = (second - albedo)[:, :, None, None]
    colour = (ink[:, None] * step).add_(albedo[:, :, None, None]).mul_(shade[:, None])
    return colour, cover, shadow


def _backdrop(factors: Factors, size: int) -> Tensor:
    """(n, 3, size, size): two tones laid out by a pattern, a little brighter towards the light."""
    p = factors.backdrop
    per_unit = 1.4 + 1.2 * p[:, 2]  # periods a unit of length; the image is two units wide
    cos, sin = _direction((p[:, 3] - 0.5) * (math.pi / 3))
    axis = (torch.arange(size) + 0.5) * (2.0 / size) - 1.0
    dx, dy = axis[None, :] * per_unit[:, None], axis[None, :] * per_unit[:, None]
    x_x, x_y = (dx * cos[:, None] + p[:, :1] * 2)[:, None], (dy * sin[:, None])[:, :, None]
    y_x, y_y = (dx * -sin[:, None])[:, None], (dy * cos[:, None] + p[:, 1:2] * 2)[:, :, None]
    sharpness = (size / (8.0 * per_unit)).clamp(min=1.0)[:, None, None]  # edges one pixel wide

    def patterns(index: int, at: Tensor) -> Tensor:
        name, pattern = list(BACKDROPS.items())[index]
        made = pattern(x_x[at] + x_y[at], y_x[at] + y_y[at], factors.key[at][:, None, None])
        return made * 0.5 if name in SMOOTH else made * sharpness[at]

    mix = _by_kind(factors.background, patterns, (size, size)).add_(0.5).clamp_(0.0, 1.0)
    first = _hue(p[:, 4], 0.08 + 0.3 * p[:, 5], 0.35 + 0.55 * p[:, 6])
    darker = (0.35 + 0.55 * p[:, 6] > 0.6).float() * 2.0 - 1.0
    value = 0.35 + 0.55 * p[:, 6] - darker * (0.08 + 0.1 * p[:, 7])
    second = _hue(p[:, 4] + 0.3 * (p[:, 8] - 0.5), 0.08 + 0.3 * p[:, 5], value)
    lx, ly = _direction(factors.light)
    glow = (axis * (lx * 0.14)[:, None])[:, None] + (axis * (ly * -0.14)[:, None] + 0.92)[:, :, None]
    return (mix[:, None] * (second - first)[:, :, None, None]).add_(first[:, :, None, None]).mul_(glow[:, None])


def _by_kind(kinds: Tensor, paint: Callable[[int, Tensor], Tensor], shape: Sequence[int]) -> Tensor:
    """(n,) kinds -> (n, *shape): `paint(kind, rows)` for the rows of each kind."""
    out = torch.empty(len(kinds), *shape)
    for kind in kinds.unique().tolist():
        rows = (kinds == kind).nonzero()[:, 0]
        out[rows] = paint(kind, rows)
    return out


def _direction(angle: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, computed in double: torch's float versions may differ in the last bit with the place in the batch."""
    return angle.double().cos().float(), angle.double().sin().float()


def _hue(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV (n,) each, hue in turns -> RGB (n, 3). Smith (1978)."""
    sector = (hue[:, None] * 6.0 + torch.tensor([0.0, 4.0, 2.0])) % 6.0
    return value[:, None] * (1.0 - saturation[:, None] * (1.0 - ((sector - 3.0).abs() - 1.0).clamp(0.0, 1.0)))
