"""Which channels a block of another width has: old ones by number, and new ones as rows over the block's inputs s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.width.moments import Moments

Narrow = Literal["channels", "projection"]
New = Literal["random", "residual"]


@dataclass(frozen=True)
class Rows:
    """D channels: `old` (K,) of the C old ones, times `sign` (K,), then E = D - K new ones.

    like: (E,) the old channel that each new one resembles, whose gains and norms it takes over. branch (E, n_u), shortcut
    (E, n_x), offset (E,): a new channel before the norm behind the block or the ReLU is branch . u + shortcut . x + offset.
    """

    old: Tensor
    sign: Tensor
    like: Tensor
    branch: Tensor
    shortcut: Tensor
    offset: Tensor

    @property
    def take(self) -> Tensor:
        """(D,) the old channel whose settings each channel takes."""
        return torch.cat([self.old, self.like])


@dataclass(frozen=True)
class Linear:
    """The C old channels before the ReLU, as rows: branch (C, n_u), shortcut (C, n_x), offset (C,), in fp64."""

    branch: Tensor
    shortcut: Tensor
    offset: Tensor

    @property
    def both(self) -> Tensor:
        return torch.cat([self.branch, self.shortcut], 1)


def wider(linear: Linear, D: int, mirror: bool, seen: Moments | None, seed: int, new: New = "random") -> Rows:
    """All old channels, then (`mirror`) as many of their negatives as there is room for, then new ones.

    A ReLU behind a mirrored pair loses nothing: relu(v) - relu(-v) = v, also after an average over positions. New channels are
    random directions of the block's inputs, each input at unit spread, with the spread and mean of an old channel drawn by
    chance, so that they are active as often. Without moments they are random directions of equal norm. `residual` takes from
    them what a linear regression predicts from the old channels; what is left is new, and mostly noise: probes read worse from
    it (docs/any_backbone.md has the figures).
    """
    C = len(linear.offset)
    paired = min(C, D - C) if mirror else 0
    by = torch.arange(C) if seen is None else seen.h[:, :C].var(0).argsort(descending=True)
    old = torch.cat([torch.arange(C), by[:paired].sort().values])
    sign = torch.cat([torch.ones(C), -torch.ones(paired)])
    drawn = generator(seed, "width rows")
    E = D - len(old)
    like = torch.randint(C, (E,), generator=drawn)
    random = torch.randn(E, linear.both.shape[1], generator=drawn, dtype=torch.float32).double()
    if seen is None:
        norms = linear.both.norm(dim=1)[like] / random.norm(dim=1)
        made, offset = random * norms[:, None], linear.offset[like]
    else:
        made, offset = _features(linear, random, like, seen, new)
    n_u = linear.branch.shape[1]
    return Rows(old, sign, like, made[:, :n_u], made[:, n_u:], offset)


def _features(linear: Linear, random: Tensor, like: Tensor, seen: Moments, of: New) -> tuple[Tensor, Tensor]:
    A, S = linear.both, seen.covariance
    spread = S.diagonal().sqrt()
    new = random / spread.clamp_min(1e-6 * float(spread.max().clamp_min(1e-12)))
    cross = A @ S  # (C, n)
    between = cross @ A.T

    def deviation(rows: Tensor) -> Tensor:
        return ((rows @ S) * rows).sum(1).clamp_min(0).sqrt()

    found = deviation(new)
    if of == "residual":
        ridge = 1e-6 * between.diagonal().mean().clamp_min(1e-12) * torch.eye(len(A), dtype=A.dtype)
        rest = new - torch.linalg.solve(between + ridge, cross @ new.T).T @ A
        left = deviation(rest)
        enough = left > 1e-2 * found  # else the old channels say it all, or too few images were seen to tell
        new, found = torch.where(enough[:, None], rest, new), torch.where(enough, left, found)
    wanted = between.diagonal().clamp_min(0).sqrt()[like]
    new = new * (wanted / found.clamp_min(1e-12))[:, None]
    means = (A @ seen.mean + linear.offset)[like]
    return new, means - new @ seen.mean


def narrower(linear: Linear, D: int, how: Narrow, seen: Moments | None) -> Rows:
    """D of the old channels, or their D principal directions (which need moments)."""
    n_u = linear.branch.shape[1]
    if how == "channels" or seen is None:
        old = torch.arange(D) if seen is None else chosen(seen.h, D)
        empty = torch.zeros(0, dtype=torch.float64)
        none = torch.zeros(0, dtype=torch.int64)
        return Rows(old, torch.ones(D), none, empty.view(0, n_u), empty.view(0, linear.shortcut.shape[1]), empty)
    between = linear.both @ seen.covariance @ linear.both.T
    P = torch.linalg.eigh(between).eigenvectors.flip(1)[:, :D].T  # (D, C)
    P = P * torch.sign(P @ torch.ones(len(between), dtype=P.dtype))[:, None]  # an eigenvector has no sign; most mass positive
    none = torch.zeros(0, dtype=torch.int64)
    return Rows(none, torch.ones(0), P.abs().argmax(1), P @ linear.branch, P @ linear.shortcut, P @ linear.offset)


def chosen(h: Tensor, D: int) -> Tensor:
    """h (N, C) -> D channels from which the others can best be predicted linearly, sorted.

    Greedy: each time the channel that leaves the least variance in all others after regression on those chosen. Once nothing
    is left (there are fewer images than channels), those that vary most.
    """
    rest = torch.cov(h.double().T)
    own = rest.diagonal().clone()
    total = float(own.sum().clamp_min(1e-300))
    left = torch.ones(len(rest), dtype=torch.bool)
    while int((~left).sum()) < D:
        variance = rest.diagonal()
        able = left & (variance > 1e-9 * total / len(rest))
        if not bool(able.any()):
            more = torch.where(left, own, -1.0).argsort(descending=True)[: D - int((~left).sum())]
            left[more] = False
            break
        gain = torch.where(able, rest.square().sum(0) / variance.clamp_min(1e-300), -1.0)
        at = int(gain.argmax())
        column = rest[:, at].clone()
        rest -= torch.outer(column, column / column[at])
        left[at] = False
    return (~left).nonzero().flatten()
