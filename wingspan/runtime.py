"""Device, precision, processes: the only file that knows there may be more than one of them. Built on Lightning Fabric."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import platform
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed
import torch.distributed.nn.functional as across
from torch import Tensor

from wingspan.errors import UserError

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Peers:
    """The processes that share a batch: how many they are, which one this is, and a gather that gradients pass through."""

    rank: int = 0
    world: int = 1

    def gather(self, x: Tensor, dim: int = 0) -> Tensor:
        """Concatenate every process's `x` along `dim`, in rank order.

        The backward pass sums the gradient over processes and hands each its own slice, so that a loss averaged over processes
        (as DDP does) has exactly the gradient of one process holding the whole batch.
        """
        if self.world == 1:
            return x
        return torch.cat(list(across.all_gather(x.contiguous())), dim)


class Runtime:
    """Where and how numbers are computed.

    device: "auto" (the first GPU, else the CPU), "cpu", "cuda". precision: "bf16" (autocast), "fp32", or "auto": bf16 wherever
    the hardware multiplies it. Raises UserError for a device this machine does not have.
    """

    def __init__(self, device: str = "auto", precision: Precision = "auto") -> None:
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision at every start
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device '{device}' is not known: use auto, cpu or cuda.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' was asked for, but torch sees no GPU here: use --device cpu.")
        accelerator = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(accelerator))
        self.fabric = Fabric(accelerator=accelerator, devices=1, precision="bf16-mixed" if self.bf16 else "32-true")
        self.fabric.launch()
        self.device: torch.device = self.fabric.device
        self.peers = Peers(self.fabric.global_rank, self.fabric.world_size)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 where chosen; what is computed outside stays in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def multiplies_bf16(accelerator: str) -> bool:
    """Whether bf16 products are faster than fp32 here: AVX512-BF16 or AMX on a CPU, Ampere or newer on a GPU."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def hold_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc; for training on a CPU.

    glibc takes every piece above 32 MiB from the system and gives it back when freed, so a training step spends a sixth of its
    time on having the same pages zeroed again (benchmarks/README.md). Kept, they make the process up to a sixth larger.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, value in ((-4, 0), (-1, -1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD in malloc.h
        mallopt(name, value)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Leave autocast: losses are computed in fp32, since their sums of squares and exponentials lose too much in bf16."""
    return torch.autocast(device.type, enabled=False)
