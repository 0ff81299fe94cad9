"""A linear layer whose matrix is too large to copy: the projector's first, D x 8192.

Under autocast PyTorch keeps a bf16 copy of the whole matrix until the backward pass, and forms its whole gradient in bf16
before it is one in fp32: at D = 32768 and 8192 outputs 0.5 GB each. Here both are formed a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**24  # weights from which it is worth it: a copy of 32 MB
_PART = 2**24  # weights copied at a time


class LargeLinear(nn.Linear):
    """`nn.Linear` in parameters and values, without whole copies of the matrix under autocast. (B, inputs) -> (B, outputs)."""

    def forward(self, h: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(h.device.type):
            return super().forward(h)
        dtype = torch.get_autocast_dtype(h.device.type)
        found: Tensor = _Product.apply(h.to(dtype), self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


def linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """A linear layer, of the kind that its size asks for; the same initial weights either way."""
    return (LargeLinear if inputs * outputs >= LARGE else nn.Linear)(inputs, outputs, bias=bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.bias = None if bias is None else bias.dtype
        y = h.new_empty(len(h), len(weight))
        with torch.autocast(h.device.type, enabled=False):
            for rows in _parts(len(weight), weight.shape[1]):
                y[:, rows] = F.linear(h, weight[rows].to(h.dtype), None if bias is None else bias[rows].to(h.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = outer
        h, weight = ctx.saved_tensors
        dh = dw = None
        if ctx.needs_input_grad[0]:
            dh = torch.empty_like(h)
            for columns in _parts(weight.shape[1], len(weight)):  # by columns no sum goes over parts
                dh[:, columns] = dy @ weight[:, columns].to(h.dtype)
        if ctx.needs_input_grad[1]:
            dw = torch.empty_like(weight)
            for rows in _parts(len(weight), weight.shape[1]):
                dw[rows] = dy[:, rows].t() @ h
        return dh, dw, None if ctx.bias is None else dy.sum(0, dtype=ctx.bias)


def _parts(count: int, length: int) -> Iterator[slice]:
    """Slices of `count` rows of `length` weights, each of at most _PART weights."""
    size = max(1, _PART // length)
    return (slice(at, at + size) for at in range(0, count, size))
