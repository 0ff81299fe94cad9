"""What a batch norm's mode says."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def of_batch(norm: nn.BatchNorm2d) -> bool:
    """Whether it normalises with the batch's own statistics."""
    return norm.training or norm.running_mean is None


def check_rows(norms: tuple[nn.BatchNorm2d, ...], rows: int, shape: torch.Size) -> None:
    """Raises ValueError, as torch's batch norm does, where one row would be normalised by itself."""
    if rows == 1 and any(of_batch(norm) for norm in norms):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(shape)}")


def update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics toward the batch's, once; `variance` is the unbiased one."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)
