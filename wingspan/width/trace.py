"""What happens inside a network while it looks at images: which module was called with what, and what was added to what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Call:
    """One call of a module. Tensors are known by `where` they lie, so that views, and what changed in place, are the same."""

    order: int
    path: str
    module: nn.Module
    takes: int  # where its first argument lies
    gives: int
    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class Addition:
    """One sum of two feature maps, in the code of the module `owner`; `values` are the second operand's, then the first's."""

    order: int
    owner: str
    terms: tuple[int, int]  # where the operands lie
    gives: int
    values: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trace:
    """Everything in order. output: what the network gave."""

    calls: Sequence[Call]
    additions: Sequence[Addition]
    output: Any


def where(tensor: Tensor) -> int:
    """A number for the memory that a tensor is in."""
    return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run a network on images (B, 3, S, S) and write down calls and additions of tensors with at least three dimensions.

    Everything is kept in memory until the trace is dropped, so give few images.
    """
    calls: list[Call] = []
    additions: list[Addition] = []
    kept: list[Tensor] = []  # no memory is given back meanwhile, or two tensors could lie at the same place
    stack: list[str] = [""]
    count = iter(range(2**62))

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            pair = [each for each in args[:2] if isinstance(each, Tensor)]
            watched = getattr(func, "__name__", "") in _ADDS and len(pair) == 2 and max(each.ndim for each in pair) >= 3
            terms, values = tuple(map(where, pair)), tuple(each.clone() for each in pair) if watched else ()
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                kept.append(made)
                if watched:
                    additions.append(Addition(next(count), stack[-1], terms, where(made), values))  # type: ignore[arg-type]
            return made

    def enters(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            stack.append(path)
            kept.extend(each for each in inputs if isinstance(each, Tensor))

        return hook

    def leaves(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            stack.pop()
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                kept.append(output)
                calls.append(Call(next(count), path, module, where(inputs[0]), where(output), inputs[0], output))

        return hook

    hooks = []
    for path, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(enters(path)), module.register_forward_hook(leaves(path))]
    try:
        with still(model), Watch():
            output = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(calls, additions, output)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, every block computed as its code stands, then as it was. A streamed block calls no module of its own."""
    modules: list[Any] = list(model.modules())
    modes = [module.training for module in modules]
    streaming = [module for module in modules if isinstance(getattr(module, "streamed", None), str)]
    streamed = [module.streamed for module in streaming]
    model.eval()
    for module in streaming:
        module.streamed = "off"
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, how in zip(streaming, streamed, strict=True):
            module.streamed = how
