"""Room for another width: a shortcut that may change it, and a ReLU before the pooling, where a network lacks them.

The network computes the same as before (checked on a probe every time), but for the ReLU.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.width.anatomy import Anatomy, children, dissect, last_call, name_of, put, shortcut_child, stream
from wingspan.width.plain import Halves, Nothing, Residual, Scale
from wingspan.width.trace import Call, still, trace


def open_shortcut(model: nn.Module, images: Tensor) -> None:
    """Give the last block a linear layer as shortcut, in place, unless it has one. At first it is the identity.

    Where the block has a place for it (torchvision's `downsample` and `proj`, timm's `shortcut`), it goes there; where the code
    adds the block's input as it is (transformers, torchvision's ConvNeXt), the block's second half moves out into a `Residual`.
    """
    found = dissect(model, images)
    if found.shortcut:
        return
    before = found.seen.output
    slot = _slot(model, found, images)
    if slot:
        put_or_set(model, slot, _identity(found, model))
    else:
        _split(model, found)
    with torch.no_grad(), still(model):
        after = model(images)
    if not torch.allclose(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
        told = f"block '{found.block}' computes something else than shortcut plus branch, so its width cannot be set."
        raise UserError(f"{name_of(model)}: {told}")


def _slot(model: nn.Module, found: Anatomy, images: Tensor) -> str:
    """The path of the child of the last block that stands on the shortcut: an identity, or None. "": there is no such place.

    Found by trial: put something there, and look whether its output is what the last addition adds.
    """
    block = model.get_submodule(found.block)
    bare = stream(found.seen, found.call)
    empty = [name for name, value in vars(block).items() if value is None and not name.startswith("_")]
    empty += [name for name, value in block._modules.items() if value is None]
    identities = [c for c in children(found.seen, found.call) if isinstance(c.module, nn.Identity) and c.takes in bare]
    for name in [*empty, *(call.path.rpartition(".")[2] for call in identities)]:
        path, kept = f"{found.block}.{name}", getattr(block, name)
        put_or_set(model, path, Scale(torch.ones((), device=images.device, dtype=images.dtype)))
        try:
            seen = trace(model, images)
            marked = [call for call in seen.calls if call.path == path]
            if marked and seen.additions[-1].owner == found.block and marked[-1].gives in seen.additions[-1].terms:
                again = last_call(seen, found.block)
                if marked[-1].takes in stream(seen, again) and shortcut_child(seen, seen.additions[-1], again) == name:
                    return path
        except (RuntimeError, TypeError, AttributeError, ValueError):
            pass  # something else belongs there
        finally:
            if isinstance(kept, nn.Module):
                block._modules[name] = kept
            else:
                block._modules.pop(name, None)
                setattr(block, name, kept)
    return ""


def put_or_set(model: nn.Module, path: str, module: nn.Module) -> None:
    """As `put`, also where the attribute is None, which is no child yet."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    owner.__dict__.pop(name, None)
    put(model, path, module)


def _identity(found: Anatomy, model: nn.Module) -> nn.Module:
    """A linear shortcut that changes nothing yet, with batch norm where the branch ends in it."""
    C, like = found.C, next(model.parameters())
    if found.last == -1:
        linear = nn.Linear(C, C, bias=False)
        linear.weight.data.copy_(torch.eye(C))
        return linear.to(like)
    conv = nn.Conv2d(C, C, 1, bias=False)
    conv.weight.data.copy_(torch.eye(C)[:, :, None, None])
    norms = [model.get_submodule(path) for path in found.after]
    norm = next((each for each in norms if isinstance(each, nn.BatchNorm2d)), None)
    if norm is None:
        return conv.to(like)
    beside = nn.BatchNorm2d(C, norm.eps, norm.momentum)
    beside.weight.data.fill_((1 + norm.eps) ** 0.5)  # as a frozen norm it is the identity
    return nn.Sequential(conv, beside).to(like)


def _split(model: nn.Module, found: Anatomy) -> None:
    """Move the last residual half of a block out of it."""
    block = model.get_submodule(found.block)
    chain = _chain(model, found)
    whole = chain[0][1] is not None and chain[0][1].takes == found.call.takes
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    emptied = ""
    for name, call in chain:
        if call is None:
            parts[name] = Scale(getattr(block, name).detach().clone())
        elif sum(each.path == call.path for each in found.seen.calls) > 1:
            parts[name] = copy.deepcopy(call.module)  # torchvision's Swin drops paths of both halves by one module
        else:
            parts[name], emptied = call.module, call.path
            put(model, call.path, nn.Identity())
    half = Residual(nn.Sequential(parts), _identity(found, model))
    if not whole:
        put(model, emptied, Nothing())
    put(model, found.block, half if whole else Halves(block, half))


def _chain(model: nn.Module, found: Anatomy) -> list[tuple[str, Call | None]]:
    """The branch's children from the residual stream to the last addition, by name; without a call: the block's own scale."""
    seen, block = found.seen, found.call
    addition, bare = seen.additions[-1], stream(seen, block)
    sides = [side for side, term in enumerate(addition.terms) if term not in bare]
    if len(sides) != 1:
        raise UserError(f"{name_of(model)}: what block '{block.path}' adds last cannot be told apart from its shortcut.")
    at, value = addition.terms[sides[0]], addition.values[sides[0]]
    chain: list[tuple[str, Call | None]] = []
    for call in reversed(children(seen, block)):
        if at in bare:
            break
        if call.gives == at:
            chain.append((call.path.rpartition(".")[2], call))
            at = call.takes
        elif found.scale and not any(step is None for _, step in chain):
            name = found.scale.rpartition(".")[2]
            if torch.equal(call.output * getattr(block.module, name), value):  # before it: dropped paths, which are still now
                chain += [(name, None), (call.path.rpartition(".")[2], call)]
                at = call.takes
    if at not in bare or not chain:
        raise UserError(f"{name_of(model)}: the branch of block '{block.path}' was not found among its children.")
    return chain[::-1]


def gate(model: nn.Module, images: Tensor) -> None:
    """A ReLU before the pooling, in place, unless the representation has no negative number already.

    A norm behind the block comes before it: one that stood behind the pooling moves, since the ReLU of what was not
    normalised would be mostly on or mostly off.
    """
    found = dissect(model, images)
    if bool((found.seen.output >= 0).all()):
        return
    if not found.tail:
        put(model, found.block, Halves(model.get_submodule(found.block), nn.ReLU()))
        return
    call = last_call(found.seen, found.tail[-1])
    if call.input.numel() == found.call.output.numel():
        put(model, call.path, nn.Sequential(OrderedDict(norm=call.module, gate=nn.ReLU())))
        return
    put(model, call.path, nn.Identity())
    behind = nn.Sequential(OrderedDict(norm=call.module, gate=nn.ReLU()))
    put(model, found.block, Halves(model.get_submodule(found.block), behind))
