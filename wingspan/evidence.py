"""What few seeds can tell: the mean with its interval, one-sided p-values, slopes and permutations of them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wingspan import chance

Floats = np.ndarray[Any, np.dtype[np.float64]]
Line = tuple[Floats, Floats]
"""Places on an axis and the values there, both (k,)."""

DRAWS = 9_999
LARGEST = 2_000_000  # sums held at once while permutations are counted
LONGEST = 8  # places on an axis whose orders are all counted: 8! is 40,320


def student(t: float, degrees: int) -> float:
    """P(|T| <= t) for t >= 0 of Student's t: the finite series for whole degrees (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(degrees)), degrees % 2
    total, term = 0.0, math.cos(angle) ** odd
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


@functools.cache
def quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        inside = student(math.tan(angle) * math.sqrt(degrees), degrees)
        low, high = (angle, high) if inside < confidence else (low, angle)
    return math.tan(low) * math.sqrt(degrees)


@dataclass(frozen=True)
class Sample:
    """One number a seed, (n,). Make it by `of`, which leaves out the seeds that have none."""

    values: Floats

    @classmethod
    def of(cls, values: Floats, size: float = 0.0) -> Sample:
        """What is below the rounding of differences of numbers of a size counts as 0."""
        values = values[~np.isnan(values)]
        return cls(np.where(np.abs(values) > 1e-12 * size, values, 0.0))

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if len(self.values) else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for fewer than two seeds, and for seeds that agree to rounding.

        Values on few test images are coarse, so two seeds agree by accident: an interval without width would decide anything.
        """
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0
        return spread / math.sqrt(len(self.values)) if spread > 1e-9 * max(map(abs, self.values), default=0.0) else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval of the mean; NaN where there is no error."""
        half = math.nan if math.isnan(self.error) else quantile(confidence, len(self.values) - 1) * self.error
        return self.mean - half, self.mean + half

    def p(self, sign: int, bound: float = 0.0) -> float:
        """One-sided p-value for a mean above a bound (sign 1) or below it (-1); 1 where there is no error."""
        if math.isnan(self.error):
            return 1.0
        t = sign * (self.mean - bound) / self.error
        return (1 - math.copysign(student(abs(t), len(self.values) - 1), t)) / 2

    def bootstrap(self) -> tuple[float, float]:
        """The 95 % percentile interval of the mean over seeds drawn anew (Efron 1979). With few seeds it is too narrow."""
        low, high = np.quantile(self.values[_redrawn(len(self.values))].mean(axis=1), [0.025, 0.975])
        return float(low), float(high)


@functools.cache
def _redrawn(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    drawn: np.ndarray[Any, np.dtype[np.int64]]
    drawn = torch.randint(count, (DRAWS, count), generator=chance.generator(0, "bootstrap of seeds", count)).numpy()
    return drawn


def theil_sen(x: Floats, y: Floats) -> Floats:
    """The median slope over all pairs of places (Theil 1950, Sen 1968). x: (k,), all different; y: (rows, k); gives (rows,)."""
    one, other = np.triu_indices(len(x), 1)
    slopes: Floats = np.median((y[:, other] - y[:, one]) / (x[other] - x[one]), axis=1)
    return slopes


def permutation(lines: Sequence[Line], sign: int) -> tuple[float, bool]:
    """One-sided p-value of the mean Theil-Sen slope of several lines: each line's values dealt anew to its places.

    All deals are counted while they can be, by sums of two halves of the lines; else 9,999 are drawn. Gives the p-value and
    whether it is exact.
    """
    observed = sum(sign * float(theil_sen(x, y[None])[0]) for x, y in lines)
    slack = 1e-9 * sum(float(np.abs(y).max() / np.diff(np.sort(x)).min()) for x, y in lines)
    halves = [1, 1]
    for x, _ in lines:
        halves[halves[0] > halves[1]] *= math.factorial(len(x))
    if max(halves) > LARGEST or max(len(x) for x, _ in lines) > LONGEST:
        drawn = np.zeros(DRAWS)
        for place, (x, y) in enumerate(lines):
            order = torch.rand(DRAWS, len(x), generator=chance.generator(0, "permutation of an axis", place)).argsort(dim=1)
            drawn += sign * theil_sen(x, y[order.numpy()])
        return float(1 + (drawn >= observed - slack).sum()) / (1 + DRAWS), False
    sums: list[Floats] = [np.zeros(1), np.zeros(1)]
    for x, y in lines:
        half = int(len(sums[0]) > len(sums[1]))
        dealt = sign * theil_sen(x, y[np.array(list(itertools.permutations(range(len(x)))))])
        sums[half] = (sums[half][:, None] + dealt).ravel()
    smaller, larger = (np.sort(half) for half in sums)
    above = len(larger) - np.searchsorted(larger, observed - slack - smaller)
    return float(above.mean()) / len(larger), True
