"""The matrices above the backbone in parts, one a process: PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

A projector 8192-8192-8192 at D = 32768 has 403 million weights; with gradient and momentum they take 4.8 GB in every process,
and a moving average 1.6 GB more. In parts, each process keeps 1 / n of all that, and has one whole layer at a time. The
backbone, whose last block is small beside them, stays whole in every process (DDP), and so does batch norm.

An optimiser gets plain parameters that share memory with the parts, so that its kernels and its state are those of one process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, which is the tensor itself where it is not in parts."""
    with torch.no_grad():
        return tensor.to_local() if in_parts(tensor) else tensor  # type: ignore[attr-defined,no-any-return]


def in_parts(tensor: Tensor) -> bool:
    """Whether each process has its part of a tensor only."""
    return hasattr(tensor, "to_local")  # no import of DTensor, which costs a second, where nothing is in parts


def shard(stacks: Iterable[nn.Module], device: torch.device, *, bf16: bool) -> None:
    """Leave each process its rows of the matrix and bias of every linear layer in the stacks. Values stay as they are.

    Layers travel in bf16 where they are multiplied in it; gradients are summed in fp32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    settings: dict[str, Any] = {"mesh": init_device_mesh(device.type, (dist.get_world_size(),)), "mp_policy": policy}
    for stack in stacks:
        layers = [each for each in stack.modules() if isinstance(each, nn.Linear)]
        for layer in layers:
            fully_shard(layer, **settings, reshard_after_forward=True)
        if layers and stack is not layers[0]:  # the stack knows the order, and has the next layer fetched ahead
            rest = {p for p in stack.parameters() if not in_parts(p)}
            fully_shard(stack, **settings, ignored_params=rest)


def stacks_and_layers(module: nn.Module) -> list[Any]:
    """What of a module FSDP2 sees to."""
    return [each for each in module.modules() if hasattr(each, "set_requires_gradient_sync")]


class Parts:
    """The trained parameters as an optimiser sees them: `own`, this process's part of each of `whole`, in the same order."""

    def __init__(self, whole: Iterable[nn.Parameter]) -> None:
        self.whole = [p for p in whole if p.requires_grad]
        self.own = [nn.Parameter(local(p)) if in_parts(p) else p for p in self.whole]
        self._cut = {id(own) for own, p in zip(self.own, self.whole, strict=True) if in_parts(p)}
        self._like = {id(own): p for own, p in zip(self.own, self.whole, strict=True)}

    def gradient_norms(self) -> list[Tensor]:
        """The norm of every gradient that the backward pass left; the optimiser's parameters have them from here on."""
        for own, p in zip(self.own, self.whole, strict=True):
            own.grad = None if p.grad is None else local(p.grad)
        moved: list[Tensor] = [own for own in self.own if own.grad is not None]
        return self.norms([own.grad for own in moved if own.grad is not None], moved)

    def norms(self, tensors: list[Tensor], of: list[Tensor]) -> list[Tensor]:
        """The norm of each whole tensor, of which `tensors` are the parts that belong to the parameters `of`."""
        found = list(torch._foreach_norm(tensors))
        cut = [at for at, p in enumerate(of) if id(p) in self._cut]
        if cut:
            squares = torch.stack([found[at] for at in cut]).square()
            dist.all_reduce(squares)
            for at, norm in zip(cut, squares.sqrt(), strict=True):
                found[at] = norm
        return found

    def cut(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimiser's state_dict of whole parameters, as one of this process's parts. The other way: `join`."""

        def part(value: Any, p: Tensor) -> Any:
            if not isinstance(value, Tensor) or not in_parts(p) or value.shape != p.shape:
                return value
            chunks = value.chunk(dist.get_world_size())  # as FSDP2 cuts: the last processes may get fewer rows, or none
            rank = dist.get_rank()
            return chunks[rank].clone() if rank < len(chunks) else value[:0].clone()

        return self._each(state, optimiser, part)

    def join(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """This optimiser's state_dict, of whole parameters, for the first process. All processes must call it."""
        from torch.distributed.tensor import DTensor

        def whole(value: Any, p: Any) -> Any:
            if not isinstance(value, Tensor) or not in_parts(p) or value.shape != local(p).shape:
                return value
            return joined(DTensor.from_local(value, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()))

        return self._each(state, optimiser, whole)

    def _each(self, state: dict[str, Any], optimiser: torch.optim.Optimizer, change: Any) -> dict[str, Any]:
        order = [self._like[id(p)] for group in optimiser.param_groups for p in group["params"]]
        kept = {at: {name: change(value, order[at]) for name, value in own.items()} for at, own in state["state"].items()}
        return {**state, "state": kept}


def joined(tensor: Tensor) -> Tensor:
    """The whole of a tensor; where it was in parts, on the CPU, and in the first process only. All processes must call it."""
    if not in_parts(tensor):
        return tensor
    whole: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0)
