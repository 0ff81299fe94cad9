"""`set_width`: any ResNet-like network, ConvNeXt, ViT or Swin with a last block of another width, new or pretrained."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from wingspan.backbones.base import check_width
from wingspan.errors import UserError
from wingspan.width import anatomy, opening, resize
from wingspan.width.moments import moments
from wingspan.width.rows import Narrow, New, narrower, wider
from wingspan.width.trace import still

__all__ = ["set_width"]


def set_width(
    model: nn.Module,
    D: int | None,
    *,
    keep: bool = True,
    images: Tensor | None = None,
    gate: Literal["relu", "none"] = "relu",
    narrow: Narrow = "channels",
    shortcut: Literal["auto", "projection"] = "auto",
    side: int | None = None,
    seed: int = 0,
    new: New = "random",
) -> nn.Module:
    """A copy of a network whose last block has width D and whose forward gives h (B, D): no classifier, an ordinary module.

    The last block is found by running the network (`anatomy`): what makes the last residual addition. Its last layer, its
    shortcut and the norms behind get D channels. A missing shortcut becomes a linear one; for a transformer that is the last
    block's second half: h = pool(relu(norm(P x + MLP(norm(x))))).

    D: the width; None leaves it, and only takes the classifier off and adds the ReLU.
    keep: whether what the network learnt is to be kept. False draws the last block's layers anew, from torch's global
        generator, for training from nothing.
    images: (N, 3, S, S), normalised as the network wants them; a few hundred are enough. From them it is seen how much the
        block's inputs vary, so that new channels are as active as old ones, and which channels matter. Without, new ones are
        guesses, and a narrower network keeps its first D.
    gate: relu: h is made nonnegative before the pooling where the network does not do so itself (ConvNeXt, ViT, Swin), as
        sparsity and binarisation want it; none: as the network has it. When widened to twice the width or more, nothing is
        lost by it: channels come in pairs relu(v), relu(-v).
    narrow: how a width below the network's is reached: its most telling channels, or principal directions.
    shortcut: projection: a linear shortcut also where the width does not change, so that a sweep over D changes one thing only.
    side: of the images a network wants, where it does not say so itself and 224 is wrong.
    seed: of the new channels.
    new: what new channels are: random features of what the block gets, or their residual after regression on the old channels.

    Raises UserError naming what was not found, or when D is not a positive integer.
    """
    if D is not None:
        check_width(D)
    model = copy.deepcopy(model)
    probe = anatomy.probe(model, side) if images is None else images[:2]
    try:
        return _set(model, D, probe, keep, images, gate, narrow, shortcut, seed, new)
    except UserError:
        raise
    except (RuntimeError, TypeError, AttributeError, IndexError, ValueError, AssertionError) as error:
        raise UserError(
            f"{anatomy.name_of(model)} cannot be run on images {tuple(probe.shape)}, or not be changed: {error}. "
            "If it wants another side, give it (side=...)."
        ) from error


def _set(
    model: nn.Module, D: int | None, probe: Tensor, keep: bool, images: Tensor | None, gate: str, narrow: Narrow, shortcut: str,
    seed: int, new: New,
) -> nn.Module:  # fmt: skip
    probe = anatomy.with_positions(model, probe, anatomy.without_classifier(model, probe))
    found = anatomy.dissect(model, probe)
    signed = gate == "relu" and bool((found.seen.output < 0).any())
    if signed:
        opening.gate(model, probe)
    width = D or found.C
    if width == found.C and shortcut == "auto":
        return model
    opening.open_shortcut(model, probe)
    found = anatomy.dissect(model, probe)
    of = resize.kind(model, found) if keep else "other"  # what is drawn anew keeps its library's first gains
    old = resize.linear(model, found, of)
    if of == "linear" and any(isinstance(model.get_submodule(path), nn.LayerNorm) for path in found.tail):
        old = resize.centred(old)
    seen = None if images is None or not keep else moments(model, found, images, seed)
    if width >= found.C:
        rows = wider(old, width, signed and of == "linear" and keep, seen, seed, new)
    else:
        rows = narrower(old, width, narrow if of != "other" else "channels", seen)
    resize.write(model, found, of, old, rows, seen)
    if not keep:
        resize.renew(model, found)
    _tell(model, found.C, width)
    with torch.no_grad(), still(model):
        h = model(probe)
    if tuple(h.shape) != (len(probe), width):
        raise UserError(f"{anatomy.name_of(model)}: h is {tuple(h.shape)} where {(len(probe), width)} was expected.")
    return model


def _tell(model: nn.Module, C: int, D: int) -> None:
    """What the network says of its own width, to whoever asks it."""
    for module in (model, getattr(model, "head", None)):
        for name in ("num_features", "head_hidden_size", "in_features", "width"):
            if isinstance(module, nn.Module) and getattr(module, name, None) == C:
                setattr(module, name, D)
