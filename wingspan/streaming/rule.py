"""When the wide block is streamed. The figures behind every number here stand in benchmarks/README.md."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from wingspan.progress import tell
from wingspan.streaming import _native, _plain

Streamed = Literal["auto", "on", "off"]


def chosen(mode: Streamed, x: Tensor, D: int, *, training: bool) -> bool:
    """Whether a block of width D with input x is streamed.

    auto: where it was measured to win. That is on a CPU, in training and where no gradient is asked for. In evaluation with
    gradients (a few images, many gradients) the plain block has nothing to recompute. Tensors without storage are forecasts,
    which count the plain block unless told otherwise.
    """
    if mode != "auto":
        return mode == "on"
    if x.device.type != "cpu" or isinstance(x, FakeTensor) or torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and not training:
        return False
    return (2048 if compiled() else 8192) <= D


def kernels(x: Tensor, dtype: torch.dtype) -> ModuleType:
    """The compiled kernels where they apply, else PyTorch's."""
    fast = x.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and not isinstance(x, FakeTensor)
    return _native if fast and compiled() else _plain


def engine(x: Tensor, convolutions: Sequence[nn.Conv2d]) -> ModuleType | None:
    """The module that computes a block of 1x1 convolutions as fused products (`fused.py`), or None where there is none."""
    wanted = x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    pointwise = all(each.kernel_size == (1, 1) for each in convolutions)
    if not wanted or not pointwise or x.dtype == torch.float64 or isinstance(x, FakeTensor) or find_spec("triton") is None:
        return None
    from wingspan.streaming import _triton

    return _triton


@functools.cache
def compiled() -> bool:
    """Whether the kernels could be compiled; says once where they could not."""
    try:
        _native.library()
    except _native.UnavailableError as error:
        tell([f"The wide block runs without its compiled kernels, about 1.5 times slower: {error}."])
        return False
    return True


def room(D: int) -> int:
    """Bytes of outputs that may be kept for the backward pass, to save forming them again.

    Up to 8192 channels time comes first: what is kept is about a quarter of what the plain block keeps. Above, memory does: a
    block must fit before it can be fast.
    """
    return 2**62 if D <= 8192 else 0
