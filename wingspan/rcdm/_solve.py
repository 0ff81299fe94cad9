"""The linear algebra of a cross-fitted ridge: one problem for each fold, primal by D x D or dual by n x n products."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wingspan.inputs import Inputs
from wingspan.progress import bar
from wingspan.runtime import multiplies_bf16

DUAL_ROWS = 4096  # training rows that a map of wide h is fitted on
WIDE = torch.bfloat16  # what the dual holds features and weights in
_AT_ONCE, _BLOCK = 2048, 1024  # rows of a pass, rows and columns of a block of products

Targets = Callable[[Tensor], Tensor]


class Problem(Protocol):
    """One fold: the regression on the rows of all others."""

    def factor(self, penalty: float) -> Tensor | None:
        """The Cholesky factor of the regularised matrix, None where rounding makes it indefinite."""

    def solved(self, factor: Tensor, columns: Tensor) -> Tensor:
        """The solution for some columns."""

    def lost(self, solution: Tensor, columns: Tensor) -> Tensor:
        """Squared errors (p,) float64 that it makes on the rows left out."""

    def write(self, solution: Tensor, columns: Tensor, weights: Tensor, offsets: Tensor) -> None:
        """Put it into weights (D, P) and offsets (P,) as a map from h."""


def _cholesky(matrix: Tensor, penalty: float, directions: int) -> Tensor | None:
    """Of a centred product with `penalty` times its mean eigenvalue added, of as many as can differ from 0."""
    scale = float(matrix.diagonal().double().sum()) / max(1, directions)
    ridged = matrix.clone()
    ridged.diagonal().add_(penalty * scale or 1.0)
    factor, wrong = torch.linalg.cholesky_ex(ridged)
    return None if wrong.any() else factor


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (n, m) times b (m, p) -> fp32, in bf16 where b is held in it and the machine is faster so."""
    if b.dtype == torch.bfloat16 and multiplies_bf16("cpu"):
        return (a.to(b.dtype) @ b).float()
    return a.float() @ b.float()


# ------------------------------------------------------------------------------------------------------------------ primal


@dataclass
class _Sums:
    """Over the rows of one fold: H'H (D, D) and H'Y (D, P) in fp32; sums of h, of y, of y squared in float64; how many."""

    hh: Tensor
    hy: Tensor
    h: Tensor
    y: Tensor
    yy: Tensor
    n: int = 0

    @classmethod
    def none(cls, D: int, P: int) -> _Sums:
        wide = functools.partial(torch.zeros, dtype=torch.float64)
        return cls(torch.zeros(D, D), torch.zeros(D, P), wide(D), wide(P), wide(P))

    def take(self, h: Tensor, y: Tensor) -> None:
        self.hh.addmm_(h.T, h)
        self.hy.addmm_(h.T, y)
        self.h += h.sum(0)
        self.y += y.sum(0)
        self.yy += y.square().sum(0)
        self.n += len(h)


class Primal:
    """Sums over every fold, from which each fold's problem follows."""

    def __init__(self, train: Inputs, targets: Targets, rows: int, folds: int, label: str) -> None:
        self.sums: list[_Sums] = []
        parts = torch.arange(rows).split(_AT_ONCE)
        with bar(label, len(parts), per_unit=_AT_ONCE, things="images") as shown:
            for part in parts:
                h, y = train.rows(part), targets(part)
                if not self.sums:
                    self.shift = y.mean(0)  # sums about it lose fewer digits
                    self.sums = [_Sums.none(train.D, y.shape[1]) for _ in range(folds)]
                y = y - self.shift
                for number, sums in enumerate(self.sums):
                    mine = part % folds == number
                    sums.take(h[mine], y[mine])
                shown.advance()
        self.P = len(self.shift)

    def problem(self, fold: int) -> _Normal:
        others = [sums for number, sums in enumerate(self.sums) if number != fold]
        return _Normal(others, self.sums[fold], self.shift)


class _Normal:
    """The normal equations of a fold: (H'H + penalty) W = H'Y over the rows of the others, about their means."""

    def __init__(self, others: Sequence[_Sums], left: _Sums, shift: Tensor) -> None:
        self.left, self.shift, self.n = left, shift, sum(each.n for each in others)
        self.mean_h = torch.stack([each.h for each in others]).sum(0) / self.n
        self.mean_y = torch.stack([each.y for each in others]).sum(0) / self.n
        self.matrix = others[0].hh.double()
        for each in others[1:]:
            self.matrix += each.hh
        self.matrix -= self.n * torch.outer(self.mean_h, self.mean_h)
        self.others = others

    def factor(self, penalty: float) -> Tensor | None:
        return _cholesky(self.matrix, penalty, min(len(self.matrix), self.n - 1))

    def solved(self, factor: Tensor, columns: Tensor) -> Tensor:
        crossed = self.others[0].hy[:, columns].double()
        for each in self.others[1:]:
            crossed += each.hy[:, columns]
        crossed -= self.n * torch.outer(self.mean_h, self.mean_y[columns])
        return torch.cholesky_solve(crossed, factor)

    def _offsets(self, solution: Tensor, columns: Tensor) -> Tensor:
        return self.mean_y[columns] - self.mean_h @ solution

    def lost(self, solution: Tensor, columns: Tensor) -> Tensor:
        left, offsets = self.left, self._offsets(solution, columns)
        around = left.yy[columns] - 2 * offsets * left.y[columns] + left.n * offsets.square()
        crossed = left.hy[:, columns] - torch.outer(left.h, offsets)
        squares = (left.hh @ solution.float()).double()
        return around + (solution * (squares - 2 * crossed)).sum(0)

    def write(self, solution: Tensor, columns: Tensor, weights: Tensor, offsets: Tensor) -> None:
        weights[:, columns] = solution.float()
        offsets[columns] = (self._offsets(solution, columns) + self.shift[columns]).float()


# -------------------------------------------------------------------------------------------------------------------- dual


class Dual:
    """Products of the rows taken with each other, from which each fold's problem follows."""

    def __init__(self, train: Inputs, targets: Targets, rows: int, folds: int, label: str) -> None:
        each = DUAL_ROWS // (folds - 1)
        taken = [fold[torch.linspace(0, len(fold) - 1, min(len(fold), each)).round().long()]
                 for fold in (torch.arange(start, rows, folds) for start in range(folds))]  # fmt: skip
        self.rows = torch.cat(taken).sort().values
        self.fold = self.rows % folds
        self.h = torch.empty(len(self.rows), train.D, dtype=WIDE)
        found, blocks = [], list(_slices(len(self.rows)))
        self.kernel = torch.empty(len(self.rows), len(self.rows))
        with bar(label, len(blocks), per_unit=_BLOCK, things="images") as shown:
            for number, at in enumerate(blocks):
                self.h[at] = train.rows(self.rows[at]).to(WIDE)
                found.append(targets(self.rows[at]))
                mine = self.h[at].float()  # of what is held, so that products and predictions are of the same features
                for other in blocks[: number + 1]:
                    block = mine @ self.h[other].float().T
                    self.kernel[at, other], self.kernel[other, at] = block, block.T
                shown.advance()
        self.y = torch.cat(found)
        self.P = self.y.shape[1]

    def problem(self, fold: int) -> _Kernel:
        return _Kernel(self.kernel, self.h, self.y, self.fold != fold)


class _Kernel:
    """The dual of a fold: (HH' + penalty) A = Y over the rows of the others, about their means; W = H'A."""

    def __init__(self, kernel: Tensor, h: Tensor, y: Tensor, seen: Tensor) -> None:
        self.h, self.y, self.seen = h, y, seen
        self.matrix = kernel[seen][:, seen]
        means, mean = self.matrix.mean(0), self.matrix.mean()
        self.matrix += mean - means[:, None] - means
        across = kernel[~seen][:, seen]
        self.across = across - across.mean(1, keepdim=True) - means + mean
        self.mean_y = y[seen].mean(0)

    def factor(self, penalty: float) -> Tensor | None:
        return _cholesky(self.matrix, penalty, min(self.h.shape[1], len(self.matrix) - 1))

    def solved(self, factor: Tensor, columns: Tensor) -> Tensor:
        return torch.cholesky_solve(self.y[self.seen][:, columns] - self.mean_y[columns], factor)

    def lost(self, solution: Tensor, columns: Tensor) -> Tensor:
        wrong = self.across @ solution + self.mean_y[columns] - self.y[~self.seen][:, columns]
        return wrong.double().square().sum(0)

    def write(self, solution: Tensor, columns: Tensor, weights: Tensor, offsets: Tensor) -> None:
        # In fp32: where the penalty is weak the solution is large and mostly cancels, and bf16 of it would be noise.
        offsets[columns] = self.mean_y[columns]
        for at in _slices(weights.shape[0]):
            h = self.h[:, at][self.seen].float()
            mean = h.mean(0)
            found = (h - mean).T @ solution
            weights[at, columns] = found.to(WIDE)
            offsets[columns] -= mean @ found


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))
