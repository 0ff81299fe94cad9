"""The wide block of 1x1 convolutions as fused products: one forward, two backward, nothing of size rows x channels but bits.

Batch statistics come from the inputs alone: with U = x - mu and G = U'U, the variance of channel c is w_c' G w_c over the
number of rows. Then both branches are one product of [U_h, U_x] with their scaled weights, whose epilogue adds, clips and
averages; the backward pass needs the bits of ReLU, and again only products with U and G. An engine computes the three products:
`_triton` on a GPU, or any module with its `forward` and `backward`. docs/wide_block.md has the algebra.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wingspan.streaming._branch import as_images, as_rows
from wingspan.streaming._norms import check_rows, of_batch, update
from wingspan.streaming._plain import wide
from wingspan.streaming._together import Together

_CHANNELS = 4096  # weights whose fp32 products with G are held at a time


class Fused(torch.autograd.Function):
    """`apply(engine, together, norms, save, h, x, *(weight, gamma, beta of each branch))` -> (N, D), as `block.pooled`."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: ModuleType,
        together: Together,
        norms: tuple[nn.BatchNorm2d, ...],
        save: bool,
        h: Tensor,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        weights, gammas, betas = tensors[0::3], tensors[1::3], tensors[2::3]
        positions = h.shape[2] * h.shape[3]
        rows = [as_rows(source) for source in (h, x)]
        total = together.rows(len(rows[0]), h.device)
        check_rows(norms, total, h.shape)
        parts = [
            _Part(source, weight, gamma, norm, together, total)
            for source, weight, gamma, norm in zip(rows, weights, gammas, norms, strict=False)
        ]
        U, V = torch.cat([part.U for part in parts], 1), torch.cat([part.scaled for part in parts], 1)
        bias = torch.stack([beta.to(part.mu.dtype) - part.scale * part.mean for beta, part in zip(betas, parts, strict=True)])
        r, bits = engine.forward(U, V, bias.sum(0), positions, rows[1] if len(parts) == 1 else None, save)
        if save:
            ctx.engine, ctx.together, ctx.norms, ctx.total, ctx.shapes = engine, together, norms, total, (h.shape, x.shape)
            facts = [torch.stack((part.mean, part.scale, part.std)) for part in parts]
            squares = [tensor for part in parts for tensor in (part.G, part.S, part.mu)]
            ctx.save_for_backward(U, V, bits, *facts, *weights, *squares)
        answer: Tensor = r.to(h.dtype)
        return answer

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        count, positions = len(ctx.norms), ctx.shapes[0][2] * ctx.shapes[0][3]
        U, V, bits, *rest = ctx.saved_tensors
        facts, weights, squares = rest[:count], rest[count : 2 * count], rest[2 * count :]
        dU, Q, total, dadd = ctx.engine.backward(U, V, bits, outer[0].to(facts[0].dtype), positions, count == 1)
        splits = [weight.shape[1] for weight in weights]
        products, alongs = Q.split(splits, 1), []
        for (mean, _, std), weight, product in zip(facts, weights, products, strict=True):
            alongs.append((torch.linalg.vecdot(product, weight.flatten(1).to(product.dtype)) - mean * total) / std)
        over_all = ctx.together.total(torch.stack([total, *alongs])) / ctx.total
        images, answers = [], []
        for index, (part, gradient) in enumerate(zip(U.split(splits, 1), dU.split(splits, 1), strict=True)):
            (mean, scale, std), (G, S, mu) = facts[index], squares[3 * index : 3 * index + 3]
            if of_batch(ctx.norms[index]):
                slope = over_all[1 + index] / std
                left = scale * (over_all[0] - slope * mean)
                dw, back, constant = _through_norm(weights[index].flatten(1), products[index], G, scale, slope, left)
                dw.addr_(left, S, alpha=-1)
                dx = gradient - (part @ back.to(part.dtype)).to(gradient.dtype) - constant
            else:
                dw, dx = scale[:, None] * torch.addr(products[index], total, mu), gradient
            images.append(as_images(dx.to(U.dtype).contiguous(), ctx.shapes[index]))
            answers += [dw.view(weights[index].shape), alongs[index], total]
        if dadd is not None:
            images.append(as_images(dadd, ctx.shapes[1]))
        return (None, None, None, None, *images, *answers)


class _Part:
    """A branch before its product: centred rows U (M, K), weights times gamma / std, and what normalises its channels.

    x (M, K) is this process's, `total` the number of all processes' rows. G (K, K) and S (K) are U'U and U's column sums here.
    """

    def __init__(self, x: Tensor, weight: Tensor, gamma: Tensor, norm: nn.BatchNorm2d, together: Together, total: int) -> None:
        stat, w = wide(x.dtype), weight.flatten(1)
        self.mu = together.total(x.sum(0, dtype=stat)) / total
        self.U = (x - self.mu).to(x.dtype)
        self.G = self.S = self.mu.new_empty(0)
        away = torch.mv(w.to(stat), self.mu)  # what centring takes from every channel
        if of_batch(norm):
            self.G, self.S = _square(self.U), self.U.sum(0, dtype=stat)
            self.mean = torch.mv(w.to(stat), together.total(self.S) / total)
            whole, variance = together.total(self.G) / total, torch.empty_like(self.mean)
            for at in range(0, len(w), _CHANNELS):
                some = w[at : at + _CHANNELS].to(stat)
                variance[at : at + _CHANNELS] = torch.linalg.vecdot(some @ whole, some)
            variance = (variance - self.mean.square()).clamp_(min=0)
            update(norm, self.mean + away, variance * (total / (total - 1)))
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            self.mean, variance = norm.running_mean.to(stat) - away, norm.running_var.to(stat)
        self.std = (variance + norm.eps).sqrt()
        self.scale = gamma.to(stat) / self.std
        self.scaled = (w * self.scale[:, None]).to(x.dtype)


def _square(U: Tensor) -> Tensor:
    """U'U, summed in `wide`."""
    if U.is_cuda and U.dtype in (torch.bfloat16, torch.float16):
        found: Tensor = torch.mm(U.t(), U, out_dtype=torch.float32)  # type: ignore[call-overload]
        return found
    wider = U.to(wide(U.dtype))
    return wider.t() @ wider


def _through_norm(w: Tensor, Q: Tensor, G: Tensor, scale: Tensor, slope: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights' gradient scale (Q - slope w G) (D, K); A (K, K) = sum of scale slope w w', which takes U to what batch norm
    takes from its gradient; and the sum of left w (K)."""
    found, back, constant = torch.empty_like(Q), torch.zeros_like(G), torch.zeros_like(G[0])
    for at in range(0, len(w), _CHANNELS):
        here = slice(at, at + _CHANNELS)
        some = w[here].to(Q.dtype)
        found[here] = scale[here, None] * (Q[here] - slope[here, None] * (some @ G))
        back += ((scale * slope)[here, None] * some).t() @ some
        constant += torch.mv(some.t(), left[here])
    return found, back, constant
