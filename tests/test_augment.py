from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wingspan import augment, colour
from wingspan.augment import PRESETS, Augment, Draws
from wingspan.errors import UserError

RAW = replace(PRESETS["none"], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # no chance, values stay in 0..1
BUSY = Augment(blur=(0.5, 0.3), grey=(0.3,), solarise=(0.3,), mean=RAW.mean, std=RAW.std)  # everything happens often


def pictures(n: int, side: int, seed: int = 0) -> Tensor:
    """Smooth colours with noise, some pixels grey, black and white: (n, 3, side, side) uint8."""
    chance = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 4, 4, generator=chance)
    smooth = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    images = (smooth * 255 + 20 * torch.randn(n, 3, side, side, generator=chance)).clamp(0, 255).to(torch.uint8)
    images[:, :, 0, :3] = torch.tensor([0, 128, 255], dtype=torch.uint8)
    return images


def slow_crop(image: Tensor, box: Tensor, flip: bool, size: int) -> Tensor:
    """Pillow's resampling of one uint8 image (3, S, S) in float."""
    top, left, height, width = (box.double() * image.shape[-1]).clamp(0, image.shape[-1]).tolist()
    edges = (left, top, min(left + width, image.shape[-1]), min(top + height, image.shape[-1]))
    bilinear = Image.Resampling.BILINEAR
    channels = [Image.fromarray(channel).resize((size, size), bilinear, box=edges) for channel in image.float().numpy()]
    out = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])) / 255
    return out.flip(-1) if flip else out


def slow_grey(x: Tensor) -> Tensor:
    return 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def slow_hue(x: Tensor, turn: float) -> Tensor:
    out = []
    for pixel in x.flatten(1).T.tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        out.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    return torch.tensor(out).T.reshape(x.shape).clamp(0, 1)


SLOW: tuple[Callable[[Tensor, float], Tensor], ...] = (  # brightness, contrast, saturation, hue
    lambda x, factor: (factor * x).clamp(0, 1),
    lambda x, factor: (factor * x + (1 - factor) * slow_grey(x).mean()).clamp(0, 1),
    lambda x, factor: (factor * x + (1 - factor) * slow_grey(x)).clamp(0, 1),
    slow_hue,
)


def slow_blur(x: Tensor, sigma: float) -> Tensor:
    """One kernel cut at 8 sigma, run along both axes of an image padded by reflection."""
    radius = min(math.ceil(8 * sigma), x.shape[-1] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = torch.nn.functional.pad(x[None], (radius,) * 4, mode="reflect")[0]
    rows = torch.stack([weight * padded[:, k : k + x.shape[1]] for k, weight in enumerate(kernel)]).sum(0)
    return torch.stack([weight * rows[:, :, k : k + x.shape[2]] for k, weight in enumerate(kernel)]).sum(0)


def slow_view(config: Augment, image: Tensor, draw: Draws, view: int, size: int) -> Tensor:
    """One view of one image, operation by operation; `draw` holds one image."""
    x = slow_crop(image, draw.box[0, view], bool(draw.flip[0, view]), size)
    if draw.jitter[0, view]:
        for operation in draw.order[0, view].tolist():
            x = SLOW[operation](x, float(draw.factors[0, view, operation]))
    if draw.grey[0, view]:
        x = slow_grey(x).expand(3, -1, -1)
    if draw.sigma[0, view] > 0:
        x = slow_blur(x, float(draw.sigma[0, view]))
    if draw.solarise[0, view]:
        x = torch.where(x >= config.threshold, 1 - x, x)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return (x - mean[:, None, None]) / std[:, None, None]


def close(found: Tensor, wanted: Tensor, share: float = 1.0) -> bool:
    """Equal to a few roundings in at least this share of the values."""
    return float(((found - wanted).abs() < 2e-5).float().mean()) >= share


@pytest.mark.parametrize(("side", "size"), [(32, 0), (48, 20), (17, 40)])
def test_views_equal_the_slow_version_image_by_image(side: int, size: int) -> None:
    config = replace(BUSY, size=size, mean=Augment().mean, std=Augment().std)
    images = pictures(24, side)
    drawn = augment.draws(config, 24, 2, seed=3, step=5)
    views = augment.apply(config, images, drawn)
    wanted = [slow_view(config, images[i], drawn[i : i + 1], v, size or side) for v in range(2) for i in range(24)]
    # A value within a rounding of the solarise threshold may fall on either side of it.
    assert close(views, torch.stack(wanted), share=0.9995)


@pytest.mark.parametrize(("side", "size"), [(32, 32), (60, 16), (13, 50)])
def test_crop_and_flip_equal_pillows_resampling(side: int, size: int) -> None:
    config = replace(RAW, size=size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=(0.5,))
    images = pictures(16, side)
    drawn = augment.draws(config, 16, 1, seed=0, step=0)
    wanted = [slow_crop(images[i], drawn.box[i, 0], bool(drawn.flip[i, 0]), size) for i in range(16)]
    assert drawn.flip.any() and not drawn.flip.all()
    assert close(augment.apply(config, images, drawn), torch.stack(wanted))


@pytest.mark.parametrize(
    ("operation", "amount"),
    [(operation, amount) for operation in range(3) for amount in (0.0, 0.6, 1.0, 2.5)]
    + [(colour.HUE, turn) for turn in (-0.5, -0.1, 0.0, 0.3, 0.5)],
)
def test_each_colour_operation_equals_the_slow_version(operation: int, amount: float) -> None:
    x = pictures(3, 12) / 255
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(3, 1)
    factors[:, operation] = amount
    wanted = torch.stack([SLOW[operation](image, amount) for image in x])
    assert close(colour.jitter(x, factors, torch.arange(4).expand(3, 4), hue_turn=3), wanted)


def test_order_of_the_jitter_matters_and_is_kept() -> None:
    x = pictures(1, 12) / 255
    factors = torch.tensor([[1.4, 0.6, 1.2, 0.1]])
    results = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        wanted = x[0]
        for operation in order:
            wanted = SLOW[operation](wanted, float(factors[0, operation]))
        found = colour.jitter(x, factors, torch.tensor([order]), order.index(colour.HUE))
        assert close(found[0], wanted)
        results.append(found)
    assert not close(results[0], results[1], share=0.5)


def test_blur_equals_the_slow_version_for_every_sigma() -> None:
    x = pictures(4, 24) / 255
    sigma = torch.tensor([0.1, 0.7, 1.3, 2.0])
    assert close(colour.blur(x, sigma), torch.stack([slow_blur(x[i], float(sigma[i])) for i in range(4)]))


def test_solarise_inverts_from_the_threshold_on() -> None:
    assert colour.invert(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), 0.5).tolist() == [0.0, 0.25, 0.5, 0.25, 0.0]


def test_no_chance_gives_back_the_picture() -> None:
    images = pictures(5, 20)
    views = augment.apply(RAW, images, augment.draws(RAW, 5, 2, seed=0, step=0))
    assert torch.allclose(views, images.repeat(2, 1, 1, 1) / 255, atol=1e-6)
    assert torch.allclose(augment.plain(RAW, images), images / 255, atol=1e-6)


def test_plain_normalises_and_resizes_without_aliasing() -> None:
    images = pictures(3, 64)
    config = Augment(size=16)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    small = torch.stack([slow_crop(image, whole, False, 16) for image in images])
    wanted = (small - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
    assert close(augment.plain(config, images), wanted)
    stripes = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    inner = augment.plain(replace(RAW, size=16), stripes)[..., 1:-1]
    assert torch.allclose(inner, torch.full_like(inner, 0.5), atol=1e-3)


def test_views_are_view_major_channels_last_and_of_the_asked_type() -> None:
    images = pictures(6, 16)
    drawn = augment.draws(BUSY, 6, 3, seed=1, step=1)
    views = augment.apply(BUSY, images, drawn)
    assert views.shape == (18, 3, 16, 16)
    assert views.is_contiguous(memory_format=torch.channels_last)
    second = Draws(*(getattr(drawn, field.name)[:, 1:2] for field in fields(drawn)))
    assert torch.equal(views[6:12], augment.apply(BUSY, images, second))
    half = augment.apply(BUSY, images, drawn, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, views.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment.apply(BUSY, images, drawn), views)
    assert augment.plain(BUSY, images).is_contiguous(memory_format=torch.channels_last)


def test_identical_images_get_different_draws() -> None:
    images = pictures(1, 16).expand(8, 3, 16, 16)
    views = augment.apply(Augment(), images, augment.draws(Augment(), 8, 2, seed=0, step=0)).flatten(1)
    apart = torch.cdist(views, views) + 1e3 * torch.eye(16)
    assert float(apart.min()) > 1


@pytest.mark.parametrize(("side", "size"), [(32, 0), (33, 0), (224, 0), (40, 96)])
def test_slices_of_a_batch_give_the_batch_to_the_bit(side: int, size: int) -> None:
    config = replace(BUSY, size=size)
    n = 6 if side == 224 else 24
    images = pictures(n, side)
    drawn = augment.draws(config, n, 2, seed=2, step=9)
    whole = augment.apply(config, images, drawn).unflatten(0, (2, n))
    for share in (1, 3, n // 2):
        parts = [
            augment.apply(config, images[i : i + share], drawn[i : i + share]).unflatten(0, (2, share))
            for i in range(0, n, share)
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_draws_depend_on_seed_and_step_alone() -> None:
    first, again = (augment.draws(Augment(), 16, 2, seed=0, step=0) for _ in range(2))
    assert all(torch.equal(getattr(first, field.name), getattr(again, field.name)) for field in fields(first))
    more = augment.draws(Augment(), 40, 2, seed=0, step=0)
    assert torch.equal(more.box[:16], first.box) and torch.equal(more.factors[:16], first.factors)
    assert not torch.equal(first.box, augment.draws(Augment(), 16, 2, seed=0, step=1).box)
    assert not torch.equal(first.box, augment.draws(Augment(), 16, 2, seed=1, step=0).box)
    blurred = augment.draws(Augment(blur=(1.0,), flip=(0.0,)), 16, 2, seed=0, step=0)
    assert torch.equal(blurred.box, first.box) and torch.equal(blurred.solarise, first.solarise)


def test_boxes_keep_scale_and_ratio_and_lie_inside() -> None:
    config = Augment(scale=(0.08, 0.5))
    box = augment.draws(config, 20_000, 1, seed=0, step=0).box[:, 0].double()
    (height, width), corner, end = box[:, 2:].unbind(-1), box[:, :2], box[:, :2] + box[:, 2:]
    assert float(corner.min()) >= 0 and float(end.max()) <= 1 + 1e-6
    area, ratio = height * width, torch.log(width / height)
    assert 0.08 - 1e-6 <= float(area.min()) < 0.081 and 0.499 < float(area.max()) <= 0.5 + 1e-6
    # Uniform, because no box of half the area sticks out.
    assert abs(float(area.mean()) - 0.29) < 5 * 0.42 / math.sqrt(12 * 20_000)
    assert abs(float(ratio.mean())) < 5 * 2 * math.log(4 / 3) / math.sqrt(12 * 20_000)


def test_a_box_that_never_fits_falls_back_to_the_largest_in_the_centre() -> None:
    box = augment.draws(Augment(scale=(1.0, 1.0), ratio=(2.0, 2.0)), 4, 1, seed=0, step=0).box[0, 0]
    assert torch.allclose(box, torch.tensor([0.25, 0.0, 0.5, 1.0]))


def test_probabilities_hold_for_their_view_and_the_last_for_all_further_views() -> None:
    n = 20_000
    config = Augment(flip=(0.5,), jitter=(0.8, 0.3), grey=(0.2,), blur=(1.0, 0.1), solarise=(0.0, 0.2, 0.6))
    drawn = augment.draws(config, n, 4, seed=0, step=0)
    rates = {
        "flip": (drawn.flip, (0.5, 0.5, 0.5, 0.5)),
        "jitter": (drawn.jitter, (0.8, 0.3, 0.3, 0.3)),
        "grey": (drawn.grey, (0.2, 0.2, 0.2, 0.2)),
        "blur": (drawn.sigma > 0, (1.0, 0.1, 0.1, 0.1)),
        "solarise": (drawn.solarise, (0.0, 0.2, 0.6, 0.6)),
    }
    for name, (happened, wanted) in rates.items():
        for view, p in enumerate(wanted):
            found = float(happened[:, view].double().mean())
            assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / n), (name, view, found)


def test_factors_fill_their_ranges_and_orders_are_all_drawn() -> None:
    drawn = augment.draws(Augment(contrast=1.5), 5_000, 1, seed=0, step=0)
    low, high = drawn.factors[:, 0].amin(0), drawn.factors[:, 0].amax(0)
    assert torch.allclose(low, torch.tensor([0.6, 0.0, 0.8, -0.1]), atol=5e-3)
    assert torch.allclose(high, torch.tensor([1.4, 2.5, 1.2, 0.1]), atol=5e-3)
    orders, counts = torch.unique(drawn.order[:, 0], dim=0, return_counts=True)
    assert len(orders) == 24 and int(counts.min()) > 5_000 / 24 / 2


def test_presets_hold_the_papers_numbers() -> None:
    paper = PRESETS["paper"]
    assert paper == Augment()
    assert (paper.scale, paper.flip, paper.grey) == ((0.08, 1.0), (0.5,), (0.2,))
    assert (paper.jitter, paper.brightness, paper.contrast, paper.saturation, paper.hue) == ((0.8,), 0.4, 0.4, 0.2, 0.1)
    assert (paper.solarise, paper.threshold, paper.blur) == ((0.0, 0.2), 0.5, (0.0,))
    assert PRESETS["small"] == replace(paper, scale=(0.2, 1.0))
    assert set(PRESETS) == {"paper", "small", "none"}


WRONG: dict[str, list[object]] = {
    "flip": [(1.5,), (-0.1,), (), (math.nan,), 0.5],
    "scale": [(0.0, 1.0), (0.5, 0.2), (0.5, 1.2)],
    "ratio": [(-1.0, 1.0), (2.0, 1.0)],
    "blur_sigma": [(0.0, 1.0)],
    "hue": [0.6],
    "contrast": [-0.5],
    "size": [-3],
    "threshold": [128.0],
    "std": [(0.2, 0.0, 0.2)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_values_are_quoted(name: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        replace(Augment(), **{name: value})  # type: ignore[arg-type]
    assert f"{name} = {value}" in str(caught.value)


def test_wrong_images_are_quoted() -> None:
    drawn = augment.draws(RAW, 2, 1, seed=0, step=0)
    with pytest.raises(UserError, match=r"\(2, 3, 8, 9\) uint8"):
        augment.apply(RAW, torch.zeros(2, 3, 8, 9, dtype=torch.uint8), drawn)
    with pytest.raises(UserError, match="float32"):
        augment.plain(RAW, torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="3 images were given with draws for 2"):
        augment.apply(RAW, torch.zeros(3, 3, 8, 8, dtype=torch.uint8), drawn)
    with pytest.raises(UserError, match="0 views"):
        augment.draws(RAW, 2, 0, seed=0, step=0)
