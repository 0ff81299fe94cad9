"""The last block's weights at another width, written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wingspan.width.anatomy import Anatomy
from wingspan.width.moments import Moments
from wingspan.width.rows import Linear, Rows

Kind = Literal["norm", "linear", "other"]


def kind(model: nn.Module, found: Anatomy) -> Kind:
    """What stands between the layers that make the channels and their sum.

    norm: batch norm on both ways, as in ResNets; linear: nothing but a number a channel; other: what is not linear, such as
    squeeze and excitation, or a layer norm in the branch.
    """
    after, beside = _modules(model, found.after), _modules(model, found.shortcut_after)
    makers = _modules(model, [found.out, found.shortcut])
    plain = all(type(each).forward in (nn.Conv2d.forward, nn.Linear.forward) for each in makers)
    if plain and len(after) == len(beside) == 1 and all(isinstance(each, nn.BatchNorm2d) for each in (*after, *beside)):
        return "norm"
    scales = [each for each in after if [value.numel() for value in each.parameters()] == [found.C]]
    return "linear" if plain and len(scales) == len(after) and not beside else "other"


def linear(model: nn.Module, found: Anatomy, of: Kind) -> Linear:
    """The old channels before the ReLU as rows over the block's inputs (of `other`: without what is not linear)."""
    out, shortcut = _modules(model, [found.out, found.shortcut])
    W, S = _rows(out.weight), _rows(shortcut.weight)
    offset = torch.zeros(found.C, dtype=torch.float64)
    for layer in (out, shortcut):
        if layer.bias is not None:
            offset = offset + layer.bias.detach().double().cpu()
    if of == "norm":
        (norm,), (beside,) = _modules(model, found.after), _modules(model, found.shortcut_after)
        (g, b), (g_s, b_s) = _affine(norm), _affine(beside)
        return Linear(g[:, None] * W, g_s[:, None] * S, offset * g + b + b_s)
    gain = torch.ones(found.C, dtype=torch.float64)
    if of == "linear":
        for value in _scales(model, found):
            gain = gain * value.detach().double().cpu().flatten()
        bias = 0.0 if shortcut.bias is None else shortcut.bias.detach().double().cpu()
        offset = (offset - bias) * gain + bias
    return Linear(gain[:, None] * W, S, offset)


def centred(rows: Linear) -> Linear:
    """Less the mean of all channels, which a layer norm behind takes away anyway: then channels may come and go."""
    return Linear(*(value - value.mean(0) for value in (rows.branch, rows.shortcut, rows.offset)))


def write(model: nn.Module, found: Anatomy, of: Kind, old: Linear, rows: Rows, seen: Moments | None) -> None:
    """Give the last block, and the norms behind it, the channels of `rows`."""
    out, shortcut = _modules(model, [found.out, found.shortcut])
    branch, beside = _both(old.branch, rows.branch, rows), _both(old.shortcut, rows.shortcut, rows)
    offset = _both(old.offset, rows.offset, rows)
    if of == "linear":  # layer scale goes into the weights: it is there for the start of training, which is over
        had = out.bias is not None
        _set(out, branch, offset if had else None)
        _set(shortcut, beside, None)
        for value in _scales(model, found):
            value.data = torch.ones_like(value).flatten()[:1].expand(len(branch)).reshape(-1, *value.shape[1:]).clone()
        _take(model, found.tail, found.C, rows)
        if not had:
            _shift_means(_modules(model, found.tail), rows)
        return
    _take(model, [*found.after, *found.shortcut_after, *found.tail], found.C, rows)
    if found.scale:
        owner, _, name = found.scale.rpartition(".")
        value = getattr(model.get_submodule(owner), name)
        value.data = _index(value.data, rows.take)
    for layer, new in ((out, rows.branch), (shortcut, rows.shortcut)):
        _set(layer, torch.cat([_rows(layer.weight)[rows.old], new]), None if layer.bias is None else layer.bias[rows.take])
    if of == "norm":
        (norm,), (side,) = _modules(model, found.after), _modules(model, found.shortcut_after)
        _settle(norm, rows.branch, rows.offset, seen, 0)
        _settle(side, rows.shortcut, torch.zeros_like(rows.offset), seen, rows.branch.shape[1])


def renew(model: nn.Module, found: Anatomy) -> None:
    """Draw the layers that make the channels anew, as their libraries do (from torch's global generator)."""
    for layer in _modules(model, [found.out, found.shortcut]):
        if isinstance(layer, nn.Conv2d) and found.after:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for norm in _modules(model, [*found.after, *found.shortcut_after]):
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    for norm in _modules(model, found.shortcut_after):
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_parameters()


# ------------------------------------------------------------------------------------------------------------------ in parts


def _settle(norm: Any, new: Tensor, offset: Tensor, seen: Moments | None, at: int) -> None:
    """Make a batch norm the identity on its new channels (the last ones), but for an offset, on the images that were seen."""
    E, n = new.shape
    if not E:
        return
    mean, variance = torch.zeros(E, dtype=new.dtype), torch.ones(E, dtype=new.dtype)
    if seen is not None:
        here = slice(at, at + n)
        mean = new @ seen.mean[here]
        variance = ((new @ seen.covariance[here, here]) * new).sum(1).clamp_min(0)
    with torch.no_grad():
        norm.running_mean[-E:] = mean.to(norm.running_mean)
        norm.running_var[-E:] = variance.to(norm.running_var)
        norm.weight[-E:] = (variance + norm.eps).sqrt().to(norm.weight)
        norm.bias[-E:] = (mean + offset).to(norm.bias)


def _shift_means(norms: Sequence[Any], rows: Rows) -> None:
    """Without a bias new channels lack their offset; a batch norm behind can expect it."""
    E = len(rows.offset)
    for norm in norms:
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and E:
            norm.running_mean[-E:] -= rows.offset.to(norm.running_mean)


def _both(old: Tensor, new: Tensor, rows: Rows) -> Tensor:
    sign = rows.sign.to(old.dtype).view(-1, *[1] * (old.ndim - 1))
    return torch.cat([old[rows.old] * sign, new])


def _set(layer: Any, rows: Tensor, bias: Tensor | None) -> None:
    like = layer.weight
    made = rows.reshape(len(rows), *like.shape[1:]).to(like)
    layer.weight = nn.Parameter(made.contiguous(), like.requires_grad)
    if layer.bias is not None:
        given = torch.zeros(len(rows)) if bias is None else bias.detach()
        layer.bias = nn.Parameter(given.to(like).contiguous(), like.requires_grad)
    name = "out_channels" if isinstance(layer, nn.Conv2d) else "out_features"
    setattr(layer, name, len(rows))


def _take(model: nn.Module, paths: Sequence[str], C: int, rows: Rows) -> None:
    """Norms and gates take each channel's settings from an old one. Where a channel is an input, a new one begins at 0."""
    D, K = len(rows.take), len(rows.old)
    for module in _modules(model, paths):
        mixes = isinstance(module, nn.Conv2d | nn.Linear)
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            made = value.data
            if value.ndim and value.shape[0] == C:
                made = _index(made, rows.take)
                if not mixes and name in ("bias", "running_mean"):
                    made[:K] *= rows.sign.to(made).view(-1, *[1] * (made.ndim - 1))
            if mixes and value.ndim > 1 and value.shape[1] == C:
                made = made[:, rows.take.to(made.device)].contiguous()
                made[:, K:] = 0
            value.data = made
        for attribute in ("num_features", "in_channels", "out_channels", "in_features", "out_features"):
            if getattr(module, attribute, None) == C:
                setattr(module, attribute, D)
        if getattr(module, "normalized_shape", None) == (C,):
            module.normalized_shape = (D,)


def _index(value: Tensor, rows: Tensor) -> Tensor:
    return value[rows.to(value.device)].clone()


def _modules(model: nn.Module, paths: Sequence[str]) -> list[Any]:
    """Modules of other libraries, known by what they hold."""
    return [model.get_submodule(path) for path in paths]


def _scales(model: nn.Module, found: Anatomy) -> list[nn.Parameter]:
    """Numbers a channel that the branch is multiplied with: modules of its own, and the block's parameter."""
    values = [value for module in _modules(model, found.after) for value in module.parameters(recurse=False)]
    if found.scale:
        owner, _, name = found.scale.rpartition(".")
        values.append(getattr(model.get_submodule(owner), name))
    return values


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """A frozen batch norm as gain and offset."""
    mean, variance, weight, bias = (
        value.detach().double().cpu() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gain = weight / (variance + norm.eps).sqrt()
    return gain, bias - gain * mean


def _rows(weight: Tensor) -> Tensor:
    return weight.detach().double().cpu().flatten(1)
