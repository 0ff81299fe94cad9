"""V views of every image, made on the images' device in one batch, every image with its own draw.

`draws` decides on the CPU, a few floats an image; `apply` does it where the images are; `plain` is the view without
chance that probes see. Order: crop and flip in one resampling, colour jitter, grey, blur, solarise, normalise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from wingspan import chance, colour
from wingspan.errors import UserError

_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many boxes that stick out
# Pixels worked on at a time. On a CPU: enough for the fixed cost of the ~100 small operations to vanish, few enough for
# the elementwise passes to stay in cache. Elsewhere the bound is memory, about 1 GB of temporaries.
_PART = {"cpu": 2**18}
_PART_ELSEWHERE = 2**24


@dataclass(frozen=True)
class Augment:
    """What is drawn for a view. A probability has one entry a view; the last entry holds for all further views."""

    size: int = 0
    """Side of the views in pixels; 0: the side that the data set states for training (its `size`)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crop: least and greatest share of the image's area. Raise the least to 0.2 for small images."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random resized crop: least and greatest width / height; drawn uniformly in the logarithm."""
    flip: tuple[float, ...] = (0.5,)
    """Probability of a left-right flip, one entry a view. 0 where left and right mean something, as in text."""
    jitter: tuple[float, ...] = (0.8,)
    """Probability of colour jitter, one entry a view. 0 where colour itself is what you study."""
    brightness: float = 0.4
    """Jitter: brightness factor in 1 +- this."""
    contrast: float = 0.4
    """Jitter: contrast factor in 1 +- this."""
    saturation: float = 0.2
    """Jitter: saturation factor in 1 +- this."""
    hue: float = 0.1
    """Jitter: hue turns by up to +- this share of the colour circle; at most 0.5."""
    grey: tuple[float, ...] = (0.2,)
    """Probability of turning grey, one entry a view."""
    blur: tuple[float, ...] = (0.0,)
    """Probability of Gaussian blur, one entry a view. BYOL and VICReg at 224 pixels use 1.0 0.1, the paper none."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Blur: least and greatest standard deviation in pixels of the view."""
    solarise: tuple[float, ...] = (0.0, 0.2)
    """Probability of inverting the bright pixels, one entry a view."""
    threshold: float = 0.5
    """Solarise: values at or above this share of full brightness are inverted."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Normalisation: subtracted from red, green, blue in 0..1. ImageNet's by default."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Normalisation: red, green, blue are divided by this. ImageNet's by default."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            values = getattr(self, name)
            _demand(isinstance(values, tuple), name, values, "write a tuple with one entry a view, such as (0.5,)")
            fine = len(values) > 0 and all(0 <= value <= 1 for value in values)
            _demand(fine, name, values, "give at least one probability, each in 0..1")
        low, high = self.scale
        _demand(0 < low <= high <= 1, "scale", self.scale, "0 < least <= greatest <= 1 is needed")
        for name in ("ratio", "blur_sigma"):
            low, high = getattr(self, name)
            _demand(0 < low <= high < math.inf, name, (low, high), "0 < least <= greatest is needed")
        for name, top in (("brightness", math.inf), ("contrast", math.inf), ("saturation", math.inf), ("hue", 0.5)):
            value = getattr(self, name)
            _demand(0 <= value <= top and value < math.inf, name, value, f"a strength in 0..{top} is needed")
        _demand(self.size >= 0, "size", self.size, "give a side in pixels, or 0 for the images' own")
        _demand(0 <= self.threshold <= 1, "threshold", self.threshold, "give a share of full brightness in 0..1")
        _demand(all(value > 0 for value in self.std), "std", self.std, "every entry must be positive")


def _demand(fine: bool, name: str, value: object, advice: str) -> None:
    if not fine:
        raise UserError(f"augmentation: {name} = {value} cannot be used: {advice}.")


PRESETS: dict[str, Augment] = {
    "paper": Augment(),  # appendix A of the paper, which lists no blur
    "small": Augment(scale=(0.2, 1.0)),  # for 32 x 32 pixels, where 8 % of the area is a blot of 9 x 9
    "none": Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=(0.0,), jitter=(0.0,), grey=(0.0,), solarise=(0.0,)),
}


@dataclass(frozen=True)
class Draws:
    """What chance decided for n images and V views, on the CPU. Indexing takes images: a rank keeps its own rows."""

    box: Tensor  # (n, V, 4) top, left, height, width as shares of the image's side
    flip: Tensor  # (n, V) bool
    jitter: Tensor  # (n, V) bool
    factors: Tensor  # (n, V, 4) factors of brightness, contrast, saturation; hue's turn as a share of the circle
    order: Tensor  # (n, V, 4) int64: the jitter operations, numbered as `factors`, in the order of their turn
    grey: Tensor  # (n, V) bool
    sigma: Tensor  # (n, V) blur's standard deviation in pixels; 0 where there is none
    solarise: Tensor  # (n, V) bool

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    def view_major(self) -> Draws:
        """(n, V, ...) -> (V n, ...): all of view 1, then all of view 2."""
        return Draws(*(getattr(self, field.name).transpose(0, 1).flatten(0, 1) for field in fields(self)))


def draws(augment: Augment, n: int, views: int, seed: int, step: int) -> Draws:
    """The draws of the global batch of `n` images at `step`; each process then takes its own rows.

    Every quantity has its own column of random numbers, so that switching one operation on or off, or a larger `n`,
    changes no other draw. Boxes follow torchvision's RandomResizedCrop (area uniform, log ratio uniform, ten tries,
    then the largest allowed box in the centre) but are not rounded to whole pixels. A jitter factor of strength s is
    uniform in [max(0, 1 - s), 1 + s], hue's turn in [-hue, hue], and every view has its own order of the four.

    Raises UserError when `n` or `views` is below 1.
    """
    if n < 1 or views < 1:
        raise UserError(f"{views} views of {n} images cannot be drawn: give at least one of each.")
    random = torch.rand(n, views, 2 * _TRIES + 16, generator=chance.generator(seed, "augment", step))
    crop, place, coins, strengths, turns, sigma = random.split([2 * _TRIES, 2, 5, 4, 4, 1], dim=-1)
    flip, jitter, grey, blur, solarise = (
        coin < torch.tensor([odds[min(view, len(odds) - 1)] for view in range(views)])
        for coin, odds in zip(
            coins.unbind(-1), (augment.flip, augment.jitter, augment.grey, augment.blur, augment.solarise), strict=True
        )
    )
    reach = torch.tensor([augment.brightness, augment.contrast, augment.saturation, augment.hue])
    lowest = torch.cat([(1 - reach[: colour.HUE]).clamp(min=0), -reach[colour.HUE :]])
    highest = torch.cat([1 + reach[: colour.HUE], reach[colour.HUE :]])
    least, greatest = augment.blur_sigma
    return Draws(
        box=_boxes(augment, crop, place),
        flip=flip,
        jitter=jitter,
        factors=lowest + strengths * (highest - lowest),
        order=turns.argsort(dim=-1, stable=True),
        grey=grey,
        sigma=torch.where(blur, least + sigma[..., 0] * (greatest - least), 0.0),
        solarise=solarise,
    )


def _boxes(augment: Augment, crop: Tensor, place: Tensor) -> Tensor:
    """Uniform numbers, `_TRIES` pairs a view and one place, -> (n, V, 4) top, left, height, width."""
    area = augment.scale[0] + crop[..., :_TRIES] * (augment.scale[1] - augment.scale[0])  # (n, V, tries)
    low, high = math.log(augment.ratio[0]), math.log(augment.ratio[1])
    ratio = torch.exp(low + crop[..., _TRIES:] * (high - low))
    width, height = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    inside = (width <= 1) & (height <= 1)
    first = inside.int().argmax(dim=-1, keepdim=True)
    width, height = width.gather(-1, first)[..., 0], height.gather(-1, first)[..., 0]
    found = inside.any(dim=-1)
    width = torch.where(found, width, min(1.0, augment.ratio[1]))
    height = torch.where(found, height, min(1.0, 1 / augment.ratio[0]))
    place = torch.where(found[..., None], place, 0.5)
    return torch.stack([place[..., 0] * (1 - height), place[..., 1] * (1 - width), height, width], dim=-1)


@torch.no_grad()
def apply(augment: Augment, images: Tensor, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
    """images (B, 3, S, S) uint8 -> views (V B, 3, size, size) of `dtype`: all of view 1, then all of view 2.

    Views are normalised and in channels_last layout, on the images' device. The crop is resampled as Pillow's
    `resize(box=...)` with the bilinear filter, in float: a triangle that widens when shrinking, so nothing aliases.
    Colour follows torchvision's ColorJitter in real numbers: four operations in an order drawn for every image, clamped
    to 0..1 after each; contrast blends with the image's mean grey, saturation with its grey, hue turns in HSV. Then
    grey, blur and solarise. All is computed in float32, under autocast too. On a CPU an image's views do not depend, to
    the bit, on the images beside it.

    Raises UserError when images are not square uint8 RGB or their number is not that of the draws.
    """
    side = _side(images)
    if len(draws) != len(images):
        raise UserError(f"{len(images)} images were given with draws for {len(draws)}: take the same rows of both.")
    size = augment.size or side
    every = draws.view_major()
    out = torch.empty(len(every), size, size, 3, device=images.device, dtype=dtype)
    with torch.autocast(images.device.type, enabled=False):
        for rows, hue_turn in _parts(every, _share(images.device, max(size, side))):
            part = every[rows]
            source = images.index_select(0, (rows % len(images)).to(images.device))
            x = _resample(source, part.box, part.flip, size)
            if hue_turn is not None:
                x = colour.jitter(x, part.factors.to(x.device), part.order.to(x.device), hue_turn)
            _change(x, part.grey, colour.luma)
            _change(x, part.sigma > 0, partial(colour.blur, sigma=part.sigma[part.sigma > 0]))
            _change(x, part.solarise, partial(colour.invert, threshold=augment.threshold))
            out.index_copy_(0, rows.to(x.device), _normalised(augment, x, dtype))
    return out.permute(0, 3, 1, 2)


@torch.no_grad()
def plain(augment: Augment, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The view without chance, for probes: images (B, 3, S, S) uint8 -> (B, 3, size, size), normalised, channels_last.

    The whole square is kept, resized as in `apply` where `size` differs from S. Raises UserError as `apply` does.
    """
    side = _side(images)
    size = augment.size or side
    out = torch.empty(len(images), size, size, 3, device=images.device, dtype=dtype)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    share = _share(images.device, max(size, side))
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), share):
            source = images[start : start + share]
            n = len(source)
            x = _resample(source, whole.expand(n, 4), torch.zeros(n, dtype=torch.bool), size)
            out[start : start + share] = _normalised(augment, x, dtype)
    return out.permute(0, 3, 1, 2)


def _side(images: Tensor) -> int:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        found = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise UserError(f"augmentation takes images (B, 3, S, S) uint8, found {found}: crop them square, keep uint8.")
    return images.shape[-1]


def _share(device: torch.device, side: int) -> int:
    return max(1, _PART.get(device.type, _PART_ELSEWHERE) // side**2)


def _parts(every: Draws, share: int) -> Iterator[tuple[Tensor, int | None]]:
    """Rows, at most `share` at a time, that have hue at the same turn (None: no jitter), so that hue is done once."""
    turn = torch.where(every.jitter, (every.order == colour.HUE).int().argmax(dim=-1), -1)
    for at in (None, 0, 1, 2, 3):
        for rows in (turn == (-1 if at is None else at)).nonzero()[:, 0].split(share):
            if len(rows):
                yield rows, at


def _resample(images: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """images (n, 3, S, S) uint8, box (n, 4) in shares of S -> (n, 3, size, size) float32 in 0..1, **columns first**.

    The filter is separable: rows are weighted and summed, then columns, which lie as rows for it. Nothing after it
    minds which axis is which, so the turn back waits for the copy to channels_last.
    """
    top, left, height, width = (box * images.shape[-1]).unbind(-1)
    across = torch.where(flip, -width, width) / size
    x = _filter(images.float(), top, height / size, size)
    return _filter(x.mT, torch.where(flip, left + width, left), across, size).div_(255)


def _filter(x: Tensor, start: Tensor, step: Tensor, size: int) -> Tensor:
    """x (n, 3, S, W) -> (n, 3, size, W): row r is the triangle-filtered row of x at start + (r + 1/2) step.

    `start` and `step` (n,) are in pixels; a negative step flips. An embedding bag is a weighted sum of a few rows of a
    matrix, which is just what an output row is; it does that work many times faster than a dense product on a CPU.
    """
    n, channels, side, wide = x.shape
    reach = step.abs().clamp(min=1)
    taps = math.ceil(2 * float(reach.max()))
    start, step, reach = (values.to(x.device)[:, None] for values in (start, step, reach))
    centre = start + (torch.arange(size, device=x.device) + 0.5) * step  # (n, size)
    first = torch.ceil(centre - reach - 0.5)[:, None]
    pixel = first + torch.arange(taps, device=x.device)[:, None]  # (n, taps, size): a short last axis would be slow
    weights = (1 - (pixel + 0.5 - centre[:, None]).abs_() / reach[:, None]).clamp_(min=0)
    weights *= (pixel >= 0) & (pixel < side)
    weights /= weights.sum(dim=1, keepdim=True)
    planes = torch.arange(n * channels, device=x.device, dtype=torch.int32).view(n, channels, 1) * side
    index = pixel.clamp_(0, side - 1).int().mT.flatten(1)[:, None] + planes  # (n, 3, size taps)
    weights = weights.mT.flatten(1)[:, None].expand(index.shape).reshape(-1, taps)
    rows = functional.embedding_bag(index.view(-1, taps), x.reshape(-1, wide), per_sample_weights=weights, mode="sum")
    return rows.view(n, channels, size, wide)


def _change(x: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Replace in place the images that `chosen` (n,) marks."""
    rows = chosen.nonzero()[:, 0].to(x.device)
    if len(rows):
        x.index_copy_(0, rows, change(x.index_select(0, rows)))


def _normalised(augment: Augment, x: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, 3, size, size) in 0..1, columns first -> (n, size, size, 3), rows first."""
    mean, std = (x.new_tensor(values)[:, None, None] for values in (augment.mean, augment.std))
    return x.sub_(mean).div_(std).to(dtype).permute(0, 3, 2, 1).contiguous()
