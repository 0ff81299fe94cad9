"""Encoded bytes -> one square RGB image, the same bytes whoever asks."""

from __future__ import annotations

import functools
import io
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from wingspan.data._resample import planes, resized

Pixels = npt.NDArray[np.uint8]
Fit = Literal["crop", "squash", "pad"]

# Part of every cache file's key: raise it whenever `decode` gives other bytes for the same picture.
VERSION = f"1-pillow{PIL.__version__}"

BORDER = (124, 116, 104)  # the mean of ImageNet: about 0 once normalised, so that a border is no edge of its own

# What is opened, whatever a file is called: Pillow would hand some others, EPS for one, to a program that runs what is in them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF", "ICO")
PIXELS = 2**26  # 0.2 GB in RGB, which every decoding thread may take: a few kilobytes of file can stand for any number

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(Exception):
    """These bytes are no picture; the message says why."""


def decode(data: bytes, side: int, fit: Fit = "crop") -> Pixels:
    """An encoded picture -> (3, side, side) uint8, RGB, resized with antialiasing.

    Of a picture that is not square, `fit` takes the central square ("crop"), all of it whatever its proportions ("squash"),
    or all of it as it is between borders of mean grey ("pad").

    The EXIF orientation is applied. Grey, palette and CMYK pictures become RGB; 16-bit grey is scaled to 8 bits; what
    is transparent shows white; of an animation the first frame is taken. A JPEG much larger than needed is decoded at
    1/2, 1/4 or 1/8 of its size, never below twice `side`.

    Raises BrokenImageError for what cannot be decoded, is of a format that is not opened, or has more than `PIXELS` pixels,
    after the reduction of a JPEG; Pillow's own limit, of twice 89 million, holds before that.
    """
    if not data:
        raise BrokenImageError("no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            image.draft(None, (2 * side, 2 * side))  # None keeps the mode
            if image.width * image.height > PIXELS:
                raise BrokenImageError(f"{image.width} x {image.height} pixels, more than {PIXELS:,}: make it smaller")
            image.load()
            return _square(_rgb(_upright(image)), side, fit)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = "not an image of a known format" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        raise BrokenImageError(reason or type(error).__name__) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with: it fails on any other name."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise BrokenImageError("floating-point pixels have no agreed white; store 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: npt.NDArray[np.generic]) -> Pixels:
    """16-bit grey (H, W) -> 8 bits. Pillow's own conversion clips at 255, which turns such pictures white."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise BrokenImageError(f"grey values {wide.min()}..{wide.max()} lie outside 16 bits")
    return ((wide + 128) // 257).astype(np.uint8)


def _square(image: Image.Image, side: int, fit: Fit) -> Pixels:
    """One resampling, and for "pad" the border: (3, side, side)."""
    if image.size == (side, side):
        return planes(image)
    if fit == "squash":
        return resized(image, side, (0, 0, *image.size))
    if fit == "pad" and image.width != image.height:
        width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
        whole = Image.new("RGB", (side, side), BORDER)
        whole.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
        return planes(whole)
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return resized(image, side, (left, top, left + short, top + short))
