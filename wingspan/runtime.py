"""Device, precision, processes: the only file that knows there may be more than one of them. Built on Lightning Fabric."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wingspan import processes, sharding
from wingspan.errors import AgreedError, UserError
from wingspan.processes import Place

Precision = Literal["auto", "bf16", "fp32"]
_UNREACHED = re.compile("gloo|NCCL|Connection (closed|reset)|Socket", re.IGNORECASE)


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
        return torch.cat(_Gathered.apply(x.contiguous(), self), dim)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """Every process's x, in rank order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers) -> tuple[Tensor, ...]:
        ctx.rank = peers.rank
        parts = [torch.empty_like(x) for _ in range(peers.world)]
        dist.all_gather(parts, x)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        whole = torch.stack(slopes)
        dist.all_reduce(whole)
        return whole[ctx.rank], None


class Runtime:
    """Where and how numbers are computed.

    device: "auto" (the first GPU, else the CPU), "cpu", "cuda". precision: "bf16" (autocast), "fp32", or "auto": bf16 wherever
    the hardware multiplies it. together: join the processes that a launcher began beside this one (`processes.place`); without,
    this process is alone whatever the environment says. Raises UserError for a device this machine does not have.
    """

    def __init__(self, device: str = "auto", precision: Precision = "auto", *, together: bool = False) -> None:
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision at every start
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device '{device}' is not known: use auto, cpu or cuda.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' was asked for, but torch sees no GPU here: use --device cpu.")
        accelerator = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.place = processes.place() if together else Place()
        if accelerator == "cuda" and self.place.local > torch.cuda.device_count():
            raise UserError(
                f"{self.place.local} processes were begun on a machine with {torch.cuda.device_count()} GPUs: begin one a GPU "
                "(--devices), or use --device cpu."
            )
        self.bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(accelerator))
        self.fabric = Fabric(
            accelerator=accelerator, precision="bf16-mixed" if self.bf16 else "32-true", devices=self.place.local,
            num_nodes=self.place.nodes, strategy="ddp" if self.place.world > 1 else "auto", plugins=[_environment(self.place)],
        )  # fmt: skip
        self.fabric.launch()
        self.device: torch.device = self.fabric.device
        self.peers = Peers(self.place.rank, self.place.world)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.place.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 where chosen; what is computed outside stays in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    # ---------------------------------------------------------------------------------------------------- several processes

    def rows(self, count: int) -> slice:
        """This process's share of `count` rows, which the number of processes divides."""
        share = count // self.place.world
        return slice(self.place.rank * share, (self.place.rank + 1) * share)

    def shared(self, module: nn.Module) -> nn.Module:
        """A module to call for training: its gradients are averaged over processes while they are computed. What is in parts
        (`sharding`) sees to its own."""
        whole = {name: p for name, p in module.named_parameters() if not sharding.in_parts(p)}
        if self.place.world == 1 or not any(p.requires_grad for p in whole.values()):
            return module
        parts = [name for name, _ in module.named_parameters() if name not in whole]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, parts)
        where = None if self.device.type == "cpu" else [self.device]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers is not in every release allowed
            return DistributedDataParallel(module, device_ids=where, broadcast_buffers=False, gradient_as_bucket_view=True)

    @contextlib.contextmanager
    def unshared(self, trained: nn.Module | None) -> Iterator[None]:
        """Let gradients add up in each process: they are shared once a step, with those of the last part of its batch."""
        parts = [] if trained is None else sharding.stacks_and_layers(trained)
        for each in parts:
            each.set_requires_gradient_sync(False, recurse=False)
        with trained.no_sync() if isinstance(trained, DistributedDataParallel) else contextlib.nullcontext():
            yield
        for each in parts:
            each.set_requires_gradient_sync(True, recurse=False)

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """The mean of each number over processes; not a number where one process has none."""
        return (
            list(numbers) if self.place.world == 1 else (self._over_all(numbers, dist.ReduceOp.SUM) / self.place.world).tolist()
        )

    def most(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number over processes."""
        return list(numbers) if self.place.world == 1 else self._over_all(numbers, dist.ReduceOp.MAX).tolist()

    def _over_all(self, numbers: Sequence[float], how: Any) -> Tensor:
        told = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(told, how)
        return told.cpu()

    @contextlib.contextmanager
    def company(self, again: str) -> Iterator[None]:
        """Say plainly, with `again`, what to do then, when another process is gone, and leave the others when done."""
        try:
            yield
        except RuntimeError as error:
            if self.place.world == 1 or not (isinstance(error, dist.DistError) or _UNREACHED.search(str(error))):
                raise
            raise UserError(f"another process is gone, so this one ends too. {again}") from error
        finally:
            if self.place.world > 1:
                dist.destroy_process_group()

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """The first process goes ahead, the others follow when it is through: for checks, and files that are made once.

        Where it fails, the others raise AgreedError, since it has said why.
        """
        if self.place.world == 1:
            yield
            return
        if not self.first and self.most([0.0])[0]:
            raise AgreedError("the first process could not begin.")
        try:
            yield
        except BaseException:
            if self.first:
                self.most([1.0])
            raise
        if self.first:
            self.most([0.0])


def _environment(place: Place) -> Any:
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if place.by == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if place.by else LightningEnvironment()


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
