"""The wide block, streamed: its output is averaged over positions at once, so it is never stored.

Batch norm, ReLU and the average over positions act on every channel alone. So the last block of a network goes through its
output channels in chunks, keeps h (N, D) and one bit an element (did ReLU let it through?), and forms a chunk again in the
backward pass where it must. Batch statistics are exact: a chunk holds all rows of its channels. docs/wide_block.md has the
algebra, what was measured, and what decides when this is used. Parameters are those of the plain block: checkpoints are
interchangeable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wingspan.streaming import rule
from wingspan.streaming._branch import Branch, Patches, Rows, as_images, as_rows
from wingspan.streaming._norms import check_rows, of_batch, update
from wingspan.streaming._plain import wide
from wingspan.streaming._together import Together
from wingspan.streaming.fused import Fused

CHUNK = 896  # channels; smaller chunks make matrix products less efficient, larger ones take memory and fall out of the cache


@dataclass(frozen=True)
class Plan:
    """All that is not a tensor. keep: the most bytes of outputs kept for the backward pass instead of forming them again."""

    norms: tuple[nn.BatchNorm2d, ...]
    save: bool
    keep: int
    kernels: ModuleType
    together: Together
    chunk: int = CHUNK

    def chunks(self, D: int) -> Iterator[slice]:
        count = -(-D // self.chunk)
        size = -(-D // count)
        size += -size % 64 if size < self.chunk else 0
        return (slice(at, min(at + size, D)) for at in range(0, D, size))


def pooled(
    h: Tensor,
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d,
    shortcut: nn.Conv2d | None = None,
    shortcut_norm: nn.BatchNorm2d | None = None,
    *,
    kernels: ModuleType | None = None,
    keep: int | None = None,
    together: bool = False,
    chunk: int = CHUNK,
) -> Tensor:
    """mean over positions of relu(norm(conv(h)) + shortcut), (N, D), where shortcut is shortcut_norm(shortcut(x)), or x itself.

    h (N, Kh, H, W), x (N, Kx, H, W) or (N, D, H, W). Convolutions have stride 1 and no bias. Under autocast everything between
    h and the result is of autocast's type, as in the plain block; sums are fp32 (float64 for float64). `together` takes batch
    statistics over all processes. `kernels` and `keep` (bytes) are what `rule` says, unless given. Raises ValueError in
    training on a single value a channel, as torch's batch norm does.
    """
    kind = h.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h.dtype
    norms = (norm,) if shortcut_norm is None else (norm, shortcut_norm)
    convs = (conv,) if shortcut is None else (conv, shortcut)
    tensors = [t for c, n in zip(convs, norms, strict=True) for t in (c.weight, n.weight, n.bias)]
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (h, x, *tensors))
    keep = rule.room(norm.num_features) if keep is None else keep
    engine = rule.engine(h, convs)
    if engine is not None:
        with torch.autocast(kind, enabled=False):
            fused: Tensor = Fused.apply(  # type: ignore[no-untyped-call]
                engine, Together(together), norms, save, h.to(dtype), x.to(dtype), *tensors
            )
        return fused
    plan = Plan(norms, save, keep if save else 0, kernels or rule.kernels(h, dtype), Together(together), chunk)
    with torch.autocast(kind, enabled=False):
        found: Tensor = _Pooled.apply(  # type: ignore[no-untyped-call]
            plan, h.to(dtype), x.to(dtype), *tensors
        )
    return found


class _Block:
    """What forward and backward share: the branches and their sizes. `total` is the number of all processes' rows."""

    def __init__(self, plan: Plan, h: Tensor, x: Tensor, weights: list[Tensor], mus: list[Tensor], total: int) -> None:
        self.plan = plan
        self.branches: list[Branch] = []
        self.add = as_rows(x) if len(weights) == 1 else None
        for source, weight, mu in zip((h, x), weights, mus, strict=False):
            if weight.shape[2:] == (1, 1):
                self.branches.append(Rows(source, weight, plan.kernels, mu))
            else:
                self.branches.append(Patches(source, weight, plan.kernels))
        self.N, self.P, self.D = h.shape[0], h.shape[2] * h.shape[3], weights[0].shape[0]
        self.M = self.N * self.P
        self.all = total

    def kept(self) -> tuple[int, int]:
        """(branch, chunks) whose output is kept: of the branch that is dearest to do without, as many as there is room for."""
        cost = [self.price(branch) for branch in self.branches]
        of = cost.index(max(cost))
        if not of_batch(self.plan.norms[of]) and isinstance(self.branches[of], Rows):
            return of, 0
        width = max(here.stop - here.start for here in self.plan.chunks(self.D))
        return of, self.plan.keep // (self.M * width * self.branches[of].x.element_size())

    @staticmethod
    def price(branch: Branch) -> int:
        return min(branch.flops, branch.gram_flops) if isinstance(branch, Rows) else branch.flops

    def by_gram(self, index: int) -> bool:
        """Whether a branch's gradient is formed without its output."""
        branch = self.branches[index]
        return isinstance(branch, Rows) and (not of_batch(self.plan.norms[index]) or branch.gram_flops < branch.flops)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, h: Tensor, x: Tensor, *tensors: Tensor) -> Tensor:
        weights, gammas, betas = list(tensors[0::3]), tensors[1::3], tensors[2::3]
        stat, kernels = wide(h.dtype), plan.kernels
        rows = h.shape[0] * h.shape[2] * h.shape[3]
        total = plan.together.rows(rows, h.device)
        check_rows(plan.norms, total, h.shape)
        mus = [
            plan.together.total(as_rows(source).sum(0, dtype=stat)) / total for source, _ in zip((h, x), weights, strict=False)
        ]
        block = _Block(plan, h, x, weights, mus, total)
        r = torch.empty(block.N, block.D, dtype=stat, device=h.device)
        facts = torch.empty(len(weights), 3, block.D, dtype=stat, device=h.device)  # mean, scale, std of every branch
        spreads = torch.empty(len(weights), 2, block.D, dtype=stat, device=h.device)
        of, room = block.kept()
        bits, kept = [], []
        spare: dict[int, Tensor] = {}
        for number, here in enumerate(plan.chunks(block.D)):
            ys, shift = [], torch.zeros(here.stop - here.start, dtype=stat, device=h.device)
            for index, branch in enumerate(block.branches):
                keep = index == of and number < room
                y = branch.output(here, None if keep else _buffer(spare, index, h, block.M, here))
                ys.append(y)
                if keep:
                    kept.append(y.view(block.N, -1))  # images first, as in everything that grows with their number
                mean, scale, std = _normaliser(block, index, here, y, gammas[index], spreads[index])
                facts[index, :, here] = torch.stack((mean, scale, std))
                shift = shift + (betas[index][here].to(stat) - scale * mean)
            scale = facts[0, 1, here]
            second, scale2 = (ys[1], facts[1, 1, here]) if len(ys) > 1 else (block.add[:, here], torch.ones_like(scale))  # type: ignore[index]
            found = kernels.gate(ys[0], second, scale, scale2, shift, block.P, r[:, here], plan.save)
            if found is not None:
                bits.append(found)
        for norm, spread in zip(plan.norms, spreads, strict=True):
            update(norm, *spread)
        if plan.save:
            ctx.plan, ctx.total, ctx.counts = plan, total, (len(weights), len(bits), len(kept))
            ctx.save_for_backward(h, x, facts, *weights, *mus, *bits, *kept)
        return r.to(h.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        count, bit_count, kept_count = ctx.counts
        h, x, facts, *rest = ctx.saved_tensors
        weights, mus, rest = rest[:count], rest[count : 2 * count], rest[2 * count :]
        bits, kept = rest[:bit_count], rest[bit_count : bit_count + kept_count]
        block = _Block(plan, h, x, weights, mus, ctx.total)
        of, _ = block.kept()
        gradients = [torch.empty(w.shape, dtype=facts.dtype, device=w.device) for w in weights]
        dgamma, dbeta = torch.empty(2, count, block.D, dtype=facts.dtype, device=h.device)
        dadd = torch.empty(block.M, block.D, dtype=x.dtype, device=x.device) if block.add is not None else None
        spare: dict[int, Tensor] = {}
        for number, here in enumerate(plan.chunks(block.D)):
            known = {of: kept[number].view(block.M, -1)} if number < kept_count else {}
            chunk = _Chunk(
                block, here, bits[number], outer[0][:, here].to(facts.dtype) / block.P, facts[:, :, here], known, spare
            )
            if dadd is not None:
                plan.kernels.spread_gradient(chunk.bits, chunk.g, block.P, dadd[:, here])
            chunk.backward([w[here] for w in gradients], dgamma[:, here], dbeta[:, here])
        inputs = [branch.input_gradient() for branch in block.branches]
        if dadd is not None:
            inputs.append(as_images(dadd, x.shape))
        answers = [t for triple in zip(gradients, dgamma, dbeta, strict=True) for t in triple]
        return (None, *inputs, *answers)


class _Chunk:
    """The gradients of one chunk of channels. g (N, c) is the gradient of h over the number of positions."""

    def __init__(
        self,
        block: _Block,
        here: slice,
        bits: Tensor,
        g: Tensor,
        facts: Tensor,
        known: dict[int, Tensor],
        spare: dict[int, Tensor],
    ) -> None:
        self.block, self.here, self.bits, self.g, self.facts = block, here, bits, g, facts
        self.known, self.spare, self.kernels = known, spare, block.plan.kernels

    def backward(self, weight_gradients: list[Tensor], dgamma: Tensor, dbeta: Tensor) -> None:
        block, plan = self.block, self.block.plan
        dz, total, alongs = None, None, []
        outputs: dict[int, Tensor] = {}
        products: dict[int, Tensor] = {}
        for index, branch in enumerate(block.branches):
            mean, _, std = self.facts[index]
            if index not in self.known and block.by_gram(index):
                assert isinstance(branch, Rows)
                if dz is None:
                    dz = _buffer(self.spare, -1, branch.x, block.M, self.here)
                    total = self.kernels.spread_gradient(self.bits, self.g, block.P, dz)
                products[index], along = branch.product(dz, self.here)
                alongs.append((along - mean * total) / std)
            else:
                known = self.known.get(index)
                outputs[index] = y = known if known is not None else self._output(branch, index)
                total, along = self.kernels.sums(self.bits, self.g, y, mean, block.P)
                alongs.append(along / std)
        assert total is not None
        dgamma.copy_(torch.stack(alongs))
        dbeta.copy_(total.expand_as(dbeta))
        over_all = plan.together.total(torch.stack([total, *alongs])) / block.all
        for index, branch in enumerate(block.branches):
            mean, scale, std = self.facts[index]
            batch = of_batch(plan.norms[index])
            middle, slope = (over_all[0], over_all[1 + index] / std) if batch else (torch.zeros_like(mean),) * 2
            if index in outputs:
                y = outputs[index]
                dy = y if index not in self.known else _buffer(self.spare, index, branch.x, block.M, self.here)
                self.kernels.norm_gradient(self.bits, self.g, y, mean, scale, middle, slope, block.P, dy)
                branch.explicit(dy, self.here, weight_gradients[index])
            elif batch:
                assert isinstance(branch, Rows) and dz is not None
                branch.gram(dz, products[index], self.here, scale, middle, slope, mean, weight_gradients[index])
            else:
                assert isinstance(branch, Rows) and dz is not None
                branch.frozen(dz, products[index], self.here, scale, total, weight_gradients[index])

    def _output(self, branch: Branch, index: int) -> Tensor:
        return branch.output(self.here, _buffer(self.spare, index, branch.x, self.block.M, self.here))


def _buffer(spare: dict[int, Tensor], name: int, like: Tensor, rows: int, here: slice) -> Tensor:
    """(rows, c), the same memory for every chunk; the last chunk may be smaller."""
    size = rows * (here.stop - here.start)
    if name not in spare:
        spare[name] = torch.empty(size, dtype=like.dtype, device=like.device)
    return spare[name][:size].view(rows, -1)


def _normaliser(
    block: _Block, index: int, here: slice, y: Tensor, gamma: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and std that a branch's output y (M, c), less its offset, is normalised with. Keeps the batch's own, for the
    running statistics, in spread (2, D)."""
    plan, norm, offset = block.plan, block.plan.norms[index], block.branches[index].offset(here)
    if of_batch(norm):
        mean, square = plan.together.moments(plan.kernels.moments(y), block.M, block.all)
        variance = square / block.all
        spread[0, here] = mean + offset
        spread[1, here] = square / (block.all - 1)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean = norm.running_mean[here].to(spread.dtype) - offset
        variance = norm.running_var[here].to(spread.dtype)
    std = (variance + norm.eps).sqrt()
    return mean, gamma[here].to(std.dtype) / std, std
