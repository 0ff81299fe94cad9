"""Batch norm over the rows of all processes.

While `synced` is open, every batch norm in training, of whatever library, takes its statistics from the whole batch, forward
and backward: calls of `torch.nn.functional.batch_norm` are taken over, so no module is exchanged and no parameter renamed. On a
GPU PyTorch's own synchronised kernels do it; those refuse a CPU, where the same is computed here (one gather forward, one sum
backward).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_open = False


def is_open() -> bool:
    """Whether statistics are to be those of all processes."""
    return _open


@contextlib.contextmanager
def synced(world: int) -> Iterator[None]:
    """Batch statistics over `world` processes, which must make the same calls in the same order; 1 changes nothing."""
    global _open  # noqa: PLW0603 - like the mode itself, a state of the process
    if world == 1:
        yield
        return
    _open = True
    try:
        with _Takeover():
            yield
    finally:
        _open = False


class _Takeover(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`F.batch_norm`, whose arguments' names these are, with the statistics of all processes when `training`."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.is_cuda:
        from torch.nn.modules._functions import SyncBatchNorm

        group = dist.group.WORLD
        found: Tensor = SyncBatchNorm.apply(  # type: ignore[no-untyped-call]
            input, weight, bias, running_mean, running_var, eps, momentum, group, dist.get_world_size()
        )
        return found
    made, mean, variance, count = _Normalised.apply(input, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var), momentum)
    y: Tensor = made
    return y


class _Normalised(torch.autograd.Function):
    """(y, mean, biased variance, rows) of x (n, C, ...): statistics in fp32 or better, gathered by Chan, Golub and LeVeque.

    All passes over x and its gradient are PyTorch's own kernels for batch norm: written as sums and products over (n, C, h, w),
    statistics took twenty times as long, and a training step twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zeros = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        mean, variance = torch.batch_norm_update_stats(x, zeros, torch.ones_like(zeros), 0.0)
        rows = torch.full((1,), x.numel() // x.shape[1], dtype=zeros.dtype)
        told = torch.cat([rows, mean, variance])
        heard = [torch.empty_like(told) for _ in range(dist.get_world_size())]
        dist.all_gather(heard, told)
        counts, means, variances = torch.stack(heard).split([1, len(mean), len(mean)], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        dy, eps = slopes[0], ctx.eps
        x, weight, mean, variance, count = ctx.saved_tensors
        inverse = (variance + eps).rsqrt()
        ones = torch.ones_like(mean)
        like = ones if weight is None else weight
        # As in evaluation, where mean and variance are constants: the sums over rows of dy (x - mean) / deviation, and of dy.
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, like, mean, variance, mean, inverse, False, eps, [False, True, True]
        )
        both = torch.stack([d_weight, d_bias]).to(mean.dtype)
        dist.all_reduce(both)
        along, level = both / count
        gain = inverse * like
        # dx = gain (dy - level - along (x - mean) / deviation), as two maps a channel
        dx = F.batch_norm(dy, torch.zeros_like(mean), ones, gain, -gain * level, False, 0.0, 0.0)
        dx += F.batch_norm(x, mean, ones, -gain * inverse * along, None, False, 0.0, 0.0)
        return dx, *((None, None) if weight is None else (d_weight.to(weight), d_bias.to(weight))), None
