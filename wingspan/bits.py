"""Binary codes: h > 0, eight dimensions a byte.

The binarisation of section 4.3 ("settings all non zeros elements in the representation to one"), stored as numpy.packbits
stores bits, most significant first; a width that is no multiple of 8 is filled up with zeros. D = 32768 takes 4096 bytes an
image, as much as 2048 dimensions in fp16.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

_PART = 2**26  # elements unpacked or compared at a time


def pack(h: Tensor) -> Tensor:
    """h (N, D) of any dtype, on the CPU, maybe memory-mapped -> its code h > 0, uint8 (N, ceil(D / 8)). NaN counts as 0."""
    N, D = h.shape
    packed = torch.empty(N, -(-D // 8), dtype=torch.uint8)
    rows = max(1, _PART // max(D, 1))
    for start in range(0, N, rows):
        packed[start : start + rows] = torch.from_numpy(np.packbits(above(h[start : start + rows]), axis=1))
    return packed


def above(h: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """h > 0. Of halves it compares the bits as integers, ten times as fast: in them numbers above 0 are 1 to infinity's."""
    if h.dtype != torch.float16:
        return (h > 0).numpy()
    raw = h.contiguous().view(torch.int16).numpy()
    return (raw > 0) & (raw <= 0x7C00)


def unpack(bits: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """bits (N, ceil(width / 8)) uint8 on the CPU -> zeros and ones (N, width)."""
    # numpy's take from a table of bytes: two to three times as fast as unpackbits and a cast, or as torch's index_select.
    cells = torch.empty(*bits.shape, 8, dtype=dtype)
    np.take(_table(dtype), bits.numpy(), axis=0, out=cells.view(torch.uint8).numpy(), mode="clip")  # "raise" would buffer
    return cells.flatten(1)[:, :width]


@functools.cache
def _table(dtype: torch.dtype) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(256, 8 * size of dtype): the bytes of the eight zeros and ones in every value of a byte."""
    ones = (torch.arange(256).unsqueeze(1) >> torch.arange(7, -1, -1)) & 1
    return ones.to(dtype).view(torch.uint8).numpy()


def ones(bits: Tensor) -> Tensor:
    """bits (N, bytes) uint8 -> how many bits of each code are set, (N,) int32."""
    counts = torch.from_numpy(_table(torch.int8)).sum(1, dtype=torch.uint8).numpy()
    rows = max(1, _PART // max(bits.shape[1], 1))
    parts = [np.take(counts, part.numpy()).sum(1, dtype=np.int32) for part in bits.split(rows)]
    return torch.from_numpy(np.concatenate(parts))


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Codes a (n, bytes), b (m, bytes) uint8 -> how many bits differ (n, m) int32, exactly.

    |a| + |b| - 2 a.b, by a matrix product of zeros and ones in 8-bit integers, a part of the width at a time: beyond the result
    and the product of one part, memory stays at some 64 MB. On a CPU with 8-bit instructions this took 185 ns a pair at 32768
    bits, XOR with population count 519 (512 at a time), a product in fp32 723.
    """
    product = torch.zeros(len(a), len(b), dtype=torch.int32)
    columns = max(8, _PART // 8 // max(len(a) + len(b), 1))
    for start in range(0, a.shape[1], columns):
        left, right = (unpack(codes[:, start : start + columns], 8 * columns, _EXACT) for codes in (a, b))
        product += _product(left, right)
    return ones(a).unsqueeze(1) + ones(b) - 2 * product


# Where torch comes without oneDNN its 8-bit product is a plain loop; fp32 is exact up to 2^24 bits.
_EXACT = torch.int8 if torch.backends.mkldnn.is_available() else torch.float32


def _product(left: Tensor, right: Tensor) -> Tensor:
    return torch._int_mm(left, right.T) if left.dtype == torch.int8 else (left @ right.T).int()
