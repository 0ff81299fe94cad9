"""How much of a factor was kept, by samples of what was drawn from h: consistency, retention, calibration, ranks.

Of a factor f of n sources x and s samples of each: T = mean |f(x) - mean|^2 is how far the data spread, W the variance across
the samples of one h, E = mean |f(sample) - f(x)|^2. An exact sampler's samples lie as far from the source as from each other,
E = 2W, and then W is what h leaves open. So

    consistency rho = 1 - W / T,   retention tau = 1 - E / 2T,   calibration kappa = E / 2W

and tau is the R2 of the best decoder there could be, where the sampler is exact. The paper's Figure 5 gives no number; these
are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.inputs import Inputs

Interval = tuple[float, float, float]
"""A value and the ends of its 95 % interval."""

DRAWS = 1000
CALIBRATED = (0.8, 1.25)
"""kappa within which samples may be read."""
BELOW = 0.05
"""By how much tau may fall short of what the lower rungs explain."""
_AT_ONCE = 2**24  # distances, or numbers of h, that are held


@dataclass(frozen=True)
class Retained:
    """Of one factor; each with its bootstrap interval over the images."""

    tau: Interval
    rho: Interval
    kappa: Interval


def retained(source: Tensor, samples: Tensor, mean: Tensor, seed: int) -> Retained:
    """source (n, k), samples (s, n, k) with s >= 2, mean (k,) or, of a factor that a mask cuts out, (n, k): tau, rho, kappa.

    kappa is infinite where nothing varies but something is wrong, and 1 where neither is; tau and rho are not a number or
    minus infinity where all sources are at the mean.
    """
    spread = (source - mean).square().sum(1).double()
    error = (samples - source).square().sum(2).mean(0).double()
    within = samples.var(0).sum(1).double()
    draws = _draws(len(source), seed)
    T, E, W = (torch.cat([each.mean()[None], each[draws].mean(1)]) for each in (spread, error, within))
    kappa = torch.where(W > 0, E / (2 * W), torch.where(E > 0, torch.inf, 1.0))
    return Retained(_interval(1 - E / (2 * T)), _interval(1 - W / T), _interval(kappa))


def r2(source: Tensor, predicted: Tensor, mean: Tensor, seed: int) -> Interval:
    """The share of a factor's spread, of source (n, k) about the mean (k,) or (n, k), that predicted (n, k) explains.

    0 for predicting the mean, below for worse; not a number or minus infinity where all sources are at the mean.
    """
    spread, error = (each.square().sum(1).double() for each in (source - mean, source - predicted))
    draws = _draws(len(source), seed)
    T, E = (torch.cat([each.mean()[None], each[draws].mean(1)]) for each in (spread, error))
    return _interval(1 - E / T)


def ranks(h: Tensor, among: Inputs, rows: Tensor) -> Tensor:
    """The rank (n,), from 1, of row rows[i] among all M by Euclidean distance to h[i], of h (n, D) standardised as they are.

    Rows at the same distance share the middle of their ranks: a constant h ranks everyone at (M + 1) / 2, which is chance for
    the median rank, and below chance for the reciprocal one, since nobody is ever first by luck. An h that is not finite ranks
    its source last.
    """
    own = among.rows(rows)
    nearer, equal = torch.zeros(len(h)), torch.zeros(len(h))
    squares = h.square().sum(1)

    def distances(other: Tensor) -> Tensor:
        return (squares[:, None] + other.square().sum(1) - 2 * h @ other.T).clamp_min(0)

    mine = distances(own).diagonal()[:, None]
    slack = 1e-6 * (squares[:, None] + own.square().sum(1)[:, None])  # of the same product in another order
    for part in torch.arange(len(among)).split(max(1, _AT_ONCE // max(len(h), among.D))):
        found = distances(among.rows(part))
        found.masked_fill_(part[None] == rows[:, None], torch.inf)
        nearer += (~(found >= mine - slack)).sum(1)  # what is not finite is nearer, too
        equal += ((found - mine).abs() <= slack).sum(1)
    return (1 + nearer + equal / 2).clamp_max(len(among))


def reciprocal(ranks: Tensor, M: int, seed: int) -> dict[str, tuple[float, float, float, float]]:
    """Of ranks (n,) or (s, n) among M: mean reciprocal and median rank, with interval and what chance gives.

    Chance is that of a rank drawn evenly from 1..M: H_M / M, with H_M = 1 + 1/2 + ... + 1/M, and (M + 1) / 2.
    """
    ranks = ranks.reshape(-1, ranks.shape[-1])
    draws = _draws(ranks.shape[1], seed)
    inverse = (1 / ranks).mean(0).double()
    mean = _interval(torch.cat([inverse.mean()[None], inverse[draws].mean(1)]))
    medians = [ranks.median()[None], *(ranks[:, some].median()[None] for some in draws)]
    harmonic = float((1 / torch.arange(1, M + 1, dtype=torch.float64)).sum()) / M
    return {"mrr": (*mean, harmonic), "median rank": (*_interval(torch.cat(medians)), (M + 1) / 2)}


def verdict(tau: float, kappa: float, best: float) -> str | None:
    """The trust rule: what is wrong with samples of this retention and calibration, or None. best: the highest R2 of the lower
    rungs, which is what h is known to tell."""
    if not math.isfinite(tau):
        return "do not read (these images do not differ in it)"
    wrong = []
    if not CALIBRATED[0] <= kappa <= CALIBRATED[1]:
        wrong.append(f"kappa {kappa:.2f} lies outside {CALIBRATED[0]} to {CALIBRATED[1]}")
    if not tau >= best - BELOW:
        wrong.append(f"tau {tau:.2f} is more than {BELOW} below the {best:.2f} that ridge or decoder explain")
    return f"under-trained: do not read ({' and '.join(wrong)})" if wrong else None


def _draws(n: int, seed: int) -> Tensor:
    return torch.randint(n, (DRAWS, n), generator=generator(seed, "rcdm bootstrap", n))


def _interval(values: Tensor) -> Interval:
    """The first value, and the 2.5 and 97.5 per cent quantiles of all others."""
    ends = values[1:].double().sort().values[[int(0.025 * DRAWS), int(0.975 * DRAWS) - 1]]
    value = float(values[0])
    return value, min(value, float(ends[0])), max(value, float(ends[1]))
