"""The functions of `_plain.py` in C++: `_kernels.cpp`, compiled on first use."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from wingspan import compiled
from wingspan.compiled import UnavailableError as UnavailableError

_SOURCE = Path(__file__).with_name("_kernels.cpp")
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_INT, _THREADS = ctypes.c_int64, ctypes.c_int


def library() -> ctypes.CDLL:
    """The compiled kernels. Raises UnavailableError where there are none to be had."""
    return compiled.library(_SOURCE)


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _call(name: str, dtype: torch.dtype, *arguments: object) -> None:
    getattr(library(), f"{name}_{_SUFFIX[dtype]}")(*arguments, _THREADS(torch.get_num_threads()))


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    M, c = y.shape
    mean, spread = torch.empty(2, c).unbind()
    _call("moments", y.dtype, _at(y), _INT(M), _INT(c), _at(mean), _at(spread))
    return mean, spread


def gate(
    y: Tensor, second: Tensor | None, scale: Tensor, scale2: Tensor, shift: Tensor, positions: int, pooled: Tensor, keep: bool
) -> Tensor | None:
    (M, c), P = y.shape, positions
    bits = torch.empty(M // P, -(-P // 8), c, dtype=torch.uint8) if keep else None
    _call(
        "gate", y.dtype, _at(y), _at(second), _INT(0 if second is None else second.stride(0)), _at(scale), _at(scale2),
        _at(shift), _INT(M // P), _INT(P), _INT(c), _at(pooled), _INT(pooled.stride(0)), _at(bits),
    )  # fmt: skip
    return bits


def spread_gradient(bits: Tensor, g: Tensor, positions: int, dz: Tensor) -> Tensor:
    N, _, c = bits.shape
    total = torch.empty(c)
    _call(
        "spread_gradient", dz.dtype, _at(bits), _at(g), _INT(g.stride(0)), _INT(N), _INT(positions), _INT(c), _at(dz),
        _INT(dz.stride(0)), _at(total),
    )  # fmt: skip
    return total


def sums(bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    N, _, c = bits.shape
    total, product = torch.empty(2, c).unbind()
    _call(
        "sums", y.dtype, _at(bits), _at(g), _INT(g.stride(0)), _at(y), _at(mean), _INT(N), _INT(positions), _INT(c), _at(total),
        _at(product),
    )  # fmt: skip
    return total, product


def norm_gradient(
    bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, scale: Tensor, middle: Tensor, slope: Tensor, positions: int, out: Tensor
) -> None:
    N, _, c = bits.shape
    _call(
        "norm_gradient", y.dtype, _at(bits), _at(g), _INT(g.stride(0)), _at(y), _at(mean), _at(scale), _at(middle), _at(slope),
        _INT(N), _INT(positions), _INT(c), _at(out),
    )  # fmt: skip


def accumulate(total: Tensor, part: Tensor) -> None:
    _call("accumulate", part.dtype, _at(total), _at(part), _INT(total.numel()))


def weight_gradient(Q: Tensor, GW: Tensor, scale: Tensor, slope: Tensor, out: Tensor) -> None:
    c, K = Q.shape
    _call("weight_gradient", Q.dtype, _at(Q), _at(GW), _at(scale), _at(slope), _INT(c), _INT(K), _at(out))
