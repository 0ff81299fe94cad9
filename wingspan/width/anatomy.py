"""Where the last block of a network is, found by running it: by what is added to what, not by names or classes.

The last residual addition of feature maps belongs to the last block. Its one side is the shortcut (the block's input, or what a
child made of it), the other is the branch, whose last convolution or linear layer over all positions makes the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from wingspan.errors import UserError
from wingspan.width.trace import Addition, Call, Trace, trace

MIXERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Anatomy:
    """A network whose forward gives h (B, C), and the places in it that know C, as paths of modules.

    block: what carries out the last residual addition. out: the layer that makes the branch's channels. after: what follows it
    in the branch and has weights of size C. scale: the block's own parameter of size C, or "". shortcut: the layer on the
    shortcut, "" where the block's input is added as it is; shortcut_after: as `after`. tail: norms behind the block. last:
    dimension of channels in the block's output, 1 or -1. seen: what was traced.
    """

    C: int
    block: str
    out: str
    after: Sequence[str]
    scale: str
    shortcut: str
    shortcut_after: Sequence[str]
    tail: Sequence[str]
    last: int
    seen: Trace

    @property
    def call(self) -> Call:
        return last_call(self.seen, self.block)


def last_call(seen: Trace, path: str) -> Call:
    return [call for call in seen.calls if call.path == path][-1]


def without_classifier(model: nn.Module, images: Tensor) -> Trace:
    """Take the classifier off, in place: timm's own way where there is one, else linear layers on vectors become identities.

    Gives what is then seen. Raises UserError when the network does not give one vector an image afterwards.
    """
    if callable(getattr(model, "reset_classifier", None)):
        model.reset_classifier(0)  # type: ignore[operator]
    else:
        seen = trace(model, images)
        behind = seen.additions[-1].order if seen.additions else -1
        for call in seen.calls:
            if call.order > behind and isinstance(call.module, nn.Linear) and call.input.ndim == 2:
                put(model, call.path, nn.Identity())
    seen = trace(model, images)
    found = seen.output
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"{name_of(model)} gives {shape} without its classifier; one vector (B, D) an image is needed: build it with "
            "pooling (in timm: global_pool='avg')."
        )
    return seen


def with_positions(model: nn.Module, images: Tensor, seen: Trace) -> Tensor:
    """Images whose last map has more than one position, where the network takes such: on a single one, a layer that looks at
    the pooled map (squeeze and excitation) has the shape of one that makes the map."""
    last = max(
        (call.output[0].numel() for call in seen.calls if seen.additions and call.path == seen.additions[-1].owner), default=0
    )
    if last != seen.output.shape[1]:
        return images
    larger = functional.interpolate(images, scale_factor=2)
    try:
        trace(model, larger)
    except (RuntimeError, ValueError, AssertionError):  # built for one side
        return images
    return larger


def dissect(model: nn.Module, images: Tensor) -> Anatomy:
    """Find the last block of a network without classifier. Raises UserError naming what was not found."""
    seen = trace(model, images)
    what = name_of(model)
    C = seen.output.shape[1]
    if not seen.additions:
        raise UserError(
            f"{what}: no residual addition of feature maps was found, so there is no last block to set the width of."
        )
    addition = seen.additions[-1]
    if not addition.owner:
        raise UserError(f"{what}: its last residual addition stands in the network's own code, not in a block: {_ABLE}")
    block = last_call(seen, addition.owner)
    behind = [call for call in seen.calls if call.order > block.order and not _is_in(block.path, call.path) and call.path]
    mixer = next((call for call in behind if isinstance(call.module, MIXERS)), None)
    if mixer is not None or C not in block.output.shape[1:]:
        told = f"layer '{mixer.path}' mixes channels" if mixer else f"the representation has {C} channels"
        raise UserError(
            f"{what}: behind its last residual block '{block.path}' ({tuple(block.output.shape)}) {told}, so its width is not "
            f"the representation's: {_ABLE}"
        )
    inside = [call for call in within(seen, block.path) if call.order < addition.order]
    shortcut = shortcut_child(seen, addition, block)
    beside = f"{block.path}.{shortcut}" if shortcut else None
    branch = [call for call in inside if beside is None or not _is_in(call.path, beside)]
    positions = block.output.numel() // C
    makers = [call for call in branch if isinstance(call.module, MIXERS) and call.output.numel() == positions * C]
    if not makers:
        raise UserError(f"{what}: no convolution or linear layer of block '{block.path}' makes its {C} channels: {_ABLE}")
    out = makers[-1]
    if getattr(out.module, "groups", 1) != 1:
        raise UserError(f"{what}: '{out.path}', which makes the last channels, is a grouped convolution: {_ABLE}")
    own = [name for name, value in block.module.named_parameters(recurse=False) if value.numel() == C]
    side = [call for call in inside if beside is not None and _is_in(call.path, beside)]
    mixers = [call.path for call in side if isinstance(call.module, MIXERS)]
    return Anatomy(
        C=C,
        block=block.path,
        out=out.path,
        after=_of_size([call for call in branch if call.order > out.order], C),
        scale=f"{block.path}.{own[-1]}" if own else "",
        shortcut=mixers[-1] if mixers else "",
        shortcut_after=_of_size([call for call in side if not isinstance(call.module, MIXERS)], C),
        tail=_of_size(behind, C),
        last=1 if block.output.ndim == 4 and block.output.shape[1] == C else -1,
        seen=seen,
    )


_ABLE = "ResNet-like networks, ConvNeXt, ViT and Swin can be widened; of your own network widen the block itself, by hand."


def stream(seen: Trace, block: Call) -> set[int]:
    """Where the block's residual stream lies: its input, and the sums it makes before the last one."""
    sums = [each.gives for each in seen.additions[:-1] if each.owner == block.path]
    return {block.takes, *sums}


def shortcut_child(seen: Trace, addition: Addition, block: Call) -> str:
    """The child that the shortcut goes through, "" where it is the stream itself."""
    bare = stream(seen, block)
    if any(term in bare for term in addition.terms):
        return ""
    able = [call for call in children(seen, block) if call.gives in addition.terms and call.takes in bare]
    weight = {call.path: sum(isinstance(each, MIXERS) for each in call.module.modules()) for call in able}
    return min(weight, key=weight.__getitem__).rpartition(".")[2] if able else ""


def children(seen: Trace, block: Call) -> list[Call]:
    """Calls of a block's direct children, in order."""
    return [call for call in within(seen, block.path) if "." not in call.path[len(block.path) + 1 :]]


def within(seen: Trace, path: str) -> list[Call]:
    return [call for call in seen.calls if call.path.startswith(f"{path}.")]


def _is_in(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def _of_size(calls: Sequence[Call], C: int) -> list[str]:
    """Modules with parameters or buffers of their own in which a dimension is C."""
    found = []
    for call in calls:
        own = [*call.module.named_parameters(recurse=False), *call.module.named_buffers(recurse=False)]
        if any(C in value.shape for _, value in own):
            found.append(call.path)
    return found


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module.train(model.training)


def name_of(model: nn.Module) -> str:
    return type(model).__name__


def probe(model: nn.Module, side: int | None) -> Tensor:
    """Two random images (2, 3, S, S) of a side that the network takes: `side`, or what it says of itself, or 224."""
    facts = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    said = [side, patches, getattr(model, "image_size", None), dict(facts).get("input_size"), 224]
    first = next(value for value in said if value)
    S = first if isinstance(first, int) else first[-1]
    like = next(model.parameters())
    drawn = torch.randn(2, 3, S, S, generator=torch.Generator().manual_seed(0))
    return drawn.to(like.device, like.dtype)
