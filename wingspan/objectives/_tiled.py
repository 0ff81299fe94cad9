"""Losses over matrices that need not be held: tiles are computed, folded into what is kept of them, and backward once more.

Inf-CL does so for the contrastive loss (Cheng et al. 2024, arXiv:2410.17243); ours sends no tiles between processes. The matrix
of a process alone is symmetric: half the tiles are enough, which saves what computing them twice costs. All equal the plain
forms up to rounding, and are deterministic: tiles come in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 512  # rows and columns, 1 MiB in fp32: of 256, 512, 1024, 2048 the first two were fastest on a CPU, tied


def large(rows: int, columns: int, like: Tensor, limit: int) -> bool:
    """Whether a matrix of these sizes in `like`'s type takes more than `limit` bytes."""
    return rows * columns * like.element_size() > limit


def contrast(anchors: Tensor, candidates: Tensor | None, first: int, temperature: float, tile: int = TILE) -> Tensor:
    """Mean over anchors of -s(i, pair(i)) + log sum_{k != i} exp s(i, k), s the inner product over the temperature.

    anchors: (2, B, K), both views of the images first ... first + B of candidates (2, N, K); None where they are the anchors.
    """
    loss: Tensor = _Contrast.apply(anchors, candidates, first, temperature, tile)  # type: ignore[no-untyped-call]
    return loss


def off_diagonal(z: Tensor, tile: int = TILE) -> Tensor:
    """sum_{i != j} (z'z)_ij^2 of z (N, K)."""
    squares: Tensor = _OffDiagonal.apply(z, tile)  # type: ignore[no-untyped-call]
    return squares


def product_squares(a: Tensor, b: Tensor, tile: int = TILE) -> Tensor:
    """|a'b|_F^2 of a (N, J) and b (N, K), as the sum of (aa')_ij (bb')_ij: for N smaller than J and K."""
    squares: Tensor = _ProductSquares.apply(a, b, tile)  # type: ignore[no-untyped-call]
    return squares


def spans(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


@dataclass(frozen=True)
class Part:
    """One tile of the scores: anchors `rows` of a view, candidates `columns` of a view."""

    rows: tuple[int, slice]
    columns: tuple[int, slice]
    scores: Tensor  # overwritten by the next tile
    spare: Tensor  # of the same shape
    offset: int  # the diagonal where both are of one image
    twice: bool  # it stands for its mirror image too

    @property
    def pairs(self) -> bool:
        """Whether that diagonal holds the positives; otherwise it is the anchors with themselves."""
        return self.rows[0] != self.columns[0]


def parts(anchors: Tensor, candidates: Tensor | None, first: int, temperature: float, tile: int) -> Iterator[Part]:
    """All scores, tile by tile, minus infinity where an anchor meets itself. Without candidates: the upper triangle."""
    others = anchors if candidates is None else candidates
    lefts, rights = ([(view, span) for view in range(2) for span in spans(x.shape[1], tile)] for x in (anchors, others))
    buffer, spare = (anchors.new_empty(min(tile, anchors.shape[1]) * min(tile, others.shape[1])) for _ in range(2))
    for at, rows in enumerate(lefts):
        for columns in rights if candidates is not None else rights[at:]:
            left, right = anchors[rows], others[columns]
            shape = (len(left), len(right))
            scores, room = (flat[: shape[0] * shape[1]].view(shape) for flat in (buffer, spare))
            torch.mm(left, right.T, out=scores).div_(temperature)
            offset = first + rows[1].start - columns[1].start
            part = Part(rows, columns, scores, room, offset, candidates is None and rows != columns)
            if not part.pairs:
                diagonal(scores, offset).fill_(float("-inf"))
            yield part


def diagonal(x: Tensor, offset: int) -> Tensor:
    """The entries (i, i + offset), none where they lie outside."""
    return x.diagonal(min(max(offset, -len(x)), x.shape[1]))


def fold(part: Part, dim: int, greatest: Tensor, total: Tensor) -> None:
    """Add a tile to the running log-sum-exp, greatest + log total, of its rows (dim 1) or of its columns (dim 0)."""
    most = torch.maximum(greatest, part.scores.amax(dim))
    torch.sub(part.scores, most.unsqueeze(dim), out=part.spare).exp_()
    total.mul_((greatest - most).exp_()).add_(part.spare.sum(dim))
    greatest.copy_(most)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor | None, first: int, temperature: float, tile: int) -> Tensor:
        _, B, _ = anchors.shape
        greatest = anchors.new_full(
            (2, B), torch.finfo(anchors.dtype).min
        )  # finite: a tile may hold an anchor's own score only
        total, positive = torch.zeros_like(greatest), torch.zeros_like(greatest)
        for part in parts(anchors, candidates, first, temperature, tile):
            fold(part, 1, greatest[part.rows], total[part.rows])
            if part.twice:
                fold(part, 0, greatest[part.columns], total[part.columns])
            if part.pairs:
                same = diagonal(part.scores, part.offset)
                positive[part.rows][max(0, -part.offset) :][: len(same)] = same
                if part.twice:
                    positive[part.columns][max(0, part.offset) :][: len(same)] = same
        normaliser = greatest.add_(total.log_())
        ctx.save_for_backward(anchors, candidates, normaliser)
        ctx.first, ctx.temperature, ctx.tile = first, temperature, tile
        return (normaliser - positive).mean()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, normaliser = ctx.saved_tensors
        others = anchors if candidates is None else candidates
        d_anchors = torch.zeros_like(anchors)
        d_others = d_anchors if candidates is None else torch.zeros_like(candidates)
        for part in parts(anchors, candidates, ctx.first, ctx.temperature, ctx.tile):
            share = torch.sub(part.scores, normaliser[part.rows][:, None], out=part.spare).exp_()
            if part.twice:
                share.add_(part.scores.sub_(normaliser[part.columns]).exp_())
            if part.pairs:
                diagonal(share, part.offset).sub_(2 if part.twice else 1)
            d_anchors[part.rows].addmm_(share, others[part.columns])
            d_others[part.columns].addmm_(share.T, anchors[part.rows])
        scale = upstream / (normaliser.numel() * ctx.temperature)
        d_anchors.mul_(scale)
        return d_anchors, None if candidates is None else d_others.mul_(scale), None, None, None


def grams(x: Tensor, tile: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """The upper triangle of xx' of x (n, k), tile by tile in one buffer: rows, columns, tile."""
    side = min(tile, len(x))
    buffer = x.new_empty(side * side)
    cut = spans(len(x), tile)
    for at, rows in enumerate(cut):
        for columns in cut[at:]:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            yield rows, columns, torch.mm(x[rows], x[columns].T, out=buffer[: shape[0] * shape[1]].view(shape))


def times_gram(x: Tensor, y: Tensor, tile: int) -> Tensor:
    """(xx')y of x (n, k) and y (n, m)."""
    found = torch.zeros_like(y)  # in y's strides, so that a transposed y gets a transposed gradient
    for rows, columns, gram in grams(x, tile):
        found[rows].addmm_(gram, y[columns])
        if rows != columns:
            found[columns].addmm_(gram.T, y[rows])
    return found


def gram_product(a: Tensor, b: Tensor, tile: int) -> Tensor:
    """sum_ij (aa')_ij (bb')_ij."""
    value = a.new_zeros(())
    pairs = zip(grams(a, tile), grams(b, tile), strict=True) if b is not a else ((each, each) for each in grams(a, tile))
    for (rows, columns, one), (_, _, other) in pairs:
        value += one.mul_(other).sum() * (1 if rows == columns else 2)
    return value


class _OffDiagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, tile: int) -> Tensor:
        N, K = z.shape
        own: Tensor = torch.linalg.vector_norm(z, dim=0).square()  # (K,) without a squared copy of z
        ctx.save_for_backward(z, own)
        ctx.tile = tile
        rows = z if N < K else z.T
        return gram_product(rows, rows, tile) - own.square().sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, own = ctx.saved_tensors
        N, K = z.shape
        found = times_gram(z, z, ctx.tile) if N < K else times_gram(z.T, z.T, ctx.tile).T
        found.addcmul_(z, own, value=-1).mul_(4 * upstream)
        return found, None


class _ProductSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, tile: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.tile = tile
        return gram_product(a, b, tile)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        return times_gram(b, a, ctx.tile).mul_(2 * upstream), times_gram(a, b, ctx.tile).mul_(2 * upstream), None
