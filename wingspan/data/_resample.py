"""Resizing as Pillow's bicubic filter does, to the bit, in less than half its time: `resample.cpp`, compiled on first use.

Pillow itself does it where that cannot be compiled, where the installed Pillow gives other bytes, and for images that are
taller than wide: Pillow 13 resizes the rows of some of these before the columns, and rounds in between.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wingspan import compiled

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom
_SOURCE = Path(__file__).with_name("resample.cpp")
_BITS = 22  # after the point, in Pillow's weights
_compiling = threading.Lock()


def resized(image: Image.Image, side: int, box: Box) -> Pixels:
    """A box of an RGB image -> (3, side, side) uint8: the bytes of `image.resize((side, side), BICUBIC, box)`."""
    with _compiling:  # threads that start together: one compiles
        kernel = _checked() if image.height <= image.width else None
    found = None if kernel is None else _by_kernel(kernel, image, side, box)
    return _by_pillow(image, side, box) if found is None else found


def planes(image: Image.Image) -> Pixels:
    """An RGB image -> (3, H, W) uint8."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _by_pillow(image: Image.Image, side: int, box: Box) -> Pixels:
    return planes(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def _by_kernel(kernel: Callable[..., None], image: Image.Image, side: int, box: Box) -> Pixels | None:
    """None for an image whose pixels do not lie in one piece: one of more than 16 MB, or any before Pillow 11.3."""
    import pyarrow as pa

    try:
        held = pa.array(image)  # the image's own memory, four bytes a pixel
    except (AttributeError, TypeError, ValueError, pa.ArrowException):
        return None
    pixels = held.values if hasattr(held, "values") else None
    if pixels is None or pixels.type != pa.uint8() or len(pixels) != 4 * image.width * image.height:
        return None
    across, down = _weights(image.width, box[0], box[2], side), _weights(image.height, box[1], box[3], side)
    out = np.empty((3, side, side), np.uint8)
    kernel(
        pixels.buffers()[1].address + pixels.offset, image.width,
        *(each.ctypes.data for each in across), across[0].shape[1], *(each.ctypes.data for each in down), down[0].shape[1],
        side, out.ctypes.data,
    )  # fmt: skip
    return out


@functools.cache
def _checked() -> Callable[..., None] | None:
    """The kernel, once it has given Pillow's bytes for an image that is made smaller one way and larger the other."""
    try:
        kernel = compiled.library(_SOURCE).resample
    except compiled.UnavailableError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, number, *([pointer] * 3), number, *([pointer] * 3), number, number, pointer]
    kernel.restype = None
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (29, 97, 3), dtype=np.uint8))
    box = (1.5, 0.0, 96.0, 29.0)
    found = _by_kernel(kernel, image, 41, box)
    return kernel if found is None or np.array_equal(found, _by_pillow(image, 41, box)) else None


@functools.lru_cache(maxsize=1024)
def _weights(size: int, start: float, end: float, side: int) -> tuple[npt.NDArray[np.int32], ...]:
    """Of every output: weights (side, taps) in units of 2^-22, the first input, and how many there are.

    Keys' cubic with a = -1/2, widened when shrinking, cut at the image's edge and scaled to a sum of 1, in double precision and
    in Pillow's order of operations (its `Resample.c`, `precompute_coeffs`).
    """
    scale = (end - start) / side
    widened = max(scale, 1.0)
    support = 2.0 * widened
    taps = math.ceil(support) * 2 + 1
    centre = start + (np.arange(side) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int32), size) - first
    x = np.abs((np.arange(taps) + first[:, None] - centre[:, None] + 0.5) * (1.0 / widened))
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0)) * (np.arange(taps) < count[:, None])
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # one after another, as a loop adds
    whole = np.trunc(weights * (1 << _BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return whole, first.astype(np.int32), count.astype(np.int32)
