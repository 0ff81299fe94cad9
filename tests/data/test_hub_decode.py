"""From encoded bytes to pixels: every kind of picture, and broken ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hub_files import encoded, picture
from PIL import Image, ImageOps

from wingspan.data._decode import BORDER, BrokenImageError, decode


def test_a_picture_of_the_right_size_keeps_its_bytes():
    assert np.array_equal(decode(encoded(picture(1)), 8), picture(1).transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 16), (5, 10)])
def test_the_square_is_the_short_side_resized_then_the_centre(height, width):
    noise = Image.fromarray(picture(3, height, width))
    short = min(height, width)
    whole = noise.resize((width * 8 // short, height * 8 // short), Image.Resampling.BICUBIC)
    left, top = (whole.width - 8) // 2, (whole.height - 8) // 2
    expected = np.asarray(whole.crop((left, top, left + 8, top + 8)), dtype=int).transpose(2, 0, 1)
    assert np.abs(decode(encoded(noise), 8) - expected).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 16), (5, 10), (40, 40), (8, 8)])
def test_a_squashed_picture_is_all_there_out_of_proportion(height, width):
    noise = Image.fromarray(picture(3, height, width))
    expected = np.asarray(noise.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(decode(encoded(noise), 8, "squash"), expected)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(24, 48, 2, 0), (48, 16, 0, 2), (16, 32, 2, 0), (1, 300, 3, 0)])
def test_a_padded_picture_is_all_there_between_grey_borders(height, width, top, left):
    noise = Image.fromarray(picture(3, height, width))
    small = np.asarray(
        noise.resize(
            (max(1, round(width * 8 / max(height, width))), max(1, round(height * 8 / max(height, width)))),
            Image.Resampling.BICUBIC,
        )
    ).transpose(2, 0, 1)
    found = decode(encoded(noise), 8, "pad")
    inside = found[:, top : top + small.shape[1], left : left + small.shape[2]]
    assert np.array_equal(inside, small)
    border = np.ones((8, 8), bool)
    border[top : top + small.shape[1], left : left + small.shape[2]] = False
    assert border.any() and (found[:, border].T == BORDER).all()


@pytest.mark.parametrize("side", [8, 20])
def test_square_pictures_are_the_same_however_they_are_fitted(side):
    data = encoded(picture(9, side, side))
    assert np.array_equal(decode(data, 8, "squash"), decode(data, 8)) and np.array_equal(
        decode(data, 8, "pad"), decode(data, 8)
    )


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_picture_lying_on_its_side_is_turned_before_it_is_fitted(fit):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(picture(5, 12, 30)).transpose(Image.Transpose.ROTATE_270)
    turned = encoded(picture(5, 12, 30), exif=exif.tobytes())
    assert np.array_equal(decode(turned, 8, fit), decode(encoded(upright), 8, fit))


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_large_jpeg_is_fitted_whole_when_it_is_reduced_on_the_way(fit):
    large = Image.fromarray(picture(4, 6, 6)).resize((640, 320), Image.Resampling.BICUBIC)
    found = decode(encoded(large, "JPEG", quality=95), 16, fit).astype(int)
    slow = np.asarray(large.resize((16, 16 if fit == "squash" else 8), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs((found if fit == "squash" else found[:, 4:12]) - slow.transpose(2, 0, 1)).max() <= 8


def test_a_large_jpeg_is_reduced_on_the_way_without_a_visible_difference():
    large = Image.fromarray(picture(4, 6, 6)).resize((640, 480), Image.Resampling.BICUBIC)
    slow = large.crop((80, 0, 560, 480)).resize((16, 16), Image.Resampling.BICUBIC)
    found = decode(encoded(large, "JPEG", quality=95), 16).astype(int)
    assert np.abs(found - np.asarray(slow, dtype=int).transpose(2, 0, 1)).max() <= 8


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(picture(5), exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data, 8), np.asarray(expected).transpose(2, 0, 1))


def test_grey_16_bit_cmyk_palette_and_alpha():
    grey = picture(6)[..., 0]
    assert np.array_equal(decode(encoded(grey), 8), np.stack([grey] * 3))
    assert np.array_equal(decode(encoded(grey.astype(np.uint16) * 257), 8), np.stack([grey] * 3))
    assert np.array_equal(decode(encoded(grey.astype(np.int32) * 257, "TIFF"), 8), np.stack([grey] * 3))
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(encoded(cmyk, "JPEG"), 8)[:, 4, 4].astype(int) - [255, 0, 0]).max() < 8
    palette = Image.fromarray(picture(7)).quantize(4)
    assert np.array_equal(decode(encoded(palette), 8), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.putpixel((2, 1), (10, 20, 30, 255))
    found = decode(encoded(clear), 8)
    assert found[:, 1, 2].tolist() == [10, 20, 30] and (found[:, 0] == 255).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"hello", "not an image"),
        (encoded(picture(1, 64, 64), "JPEG")[:700], "truncated"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "no agreed white"),
        (encoded(np.full((8, 8), 70000, np.int32), "TIFF"), "outside 16 bits"),
    ],
)
def test_broken_pictures_say_why(data, reason):
    with pytest.raises(BrokenImageError, match=reason):
        decode(data, 8)


def test_a_decompression_bomb_is_a_broken_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        decode(encoded(picture(1, 20, 20)), 8)
