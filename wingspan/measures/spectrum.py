"""The singular values of h: how many directions the representation uses, and how evenly.

With sigma_k the singular values of the N x D matrix of test features and p_k = sigma_k / (sum of sigma):

* rankme = exp(-sum p_k log p_k). Garrido et al. (2023, "RankMe", equation 1) add an epsilon to every p_k, without
  normalising again; over thousands of dimensions those epsilons add up, and a rank of 50 reads 63 at D = 2048 and 128 at
  D = 8192. There is none here (0 log 0 = 0), which leaves Roy and Vetterli's effective rank (2007). RankMe takes h as it is
  ("uncentred"); "centred" subtracts the mean over images first, which otherwise is one large direction shared by all.
* participation ratio = (sum of lambda)^2 / (sum of lambda^2) of the eigenvalues lambda = sigma^2.
* stable rank = (sum of lambda) / (largest lambda).
* alpha (of the centred spectrum): lambda_k ~ k^-alpha, least squares of log lambda on log k over the indices `fit`, each
  weighted by 1 / k, so that every octave of k weighs the same (Stringer et al. 2019; alpha-ReQ, Agrawal et al. 2022).
* rank: how many singular values stand above the rounding of h.

**Rounding.** Features are stored in fp16, and a network run in bf16 gives values of bf16; either way rounding adds a full-rank
matrix of noise, whose tail of equal singular values reads as rank. Its size is known: a value's rounding error is uniform
within half a step of its grid, so its variance is step^2 / 12. Singular values at or below the largest that independent noise
of these variances gives, (root of the largest row sum) + (root of the largest column sum) (Bandeira and van Handel 2016), say
nothing about h, and are taken as 0. Which grid it is, is read off the values.

**Bias.** No rank exceeds min(N, D), and a sample of N images reads high ranks low even below that. So n is the same for every
D, and comparisons hold at one n; where n < 2 D a note says so. The standard error is the spread over disjoint blocks of images,
divided by the root of their number: it holds the sampling of images and not this bias, and says
little where the spectrum is flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.measures._curves import parts, some
from wingspan.measures.base import Curve, Measure, Measured, NotApplicableError, Number

_BLOCKS = 8
_POINTS = 256
_FEWEST = 5  # points a line is fitted through


@dataclass(frozen=True)
class Spectrum(Measure):
    """RankMe and its kin, from the singular values of the test features."""

    title: ClassVar[str] = "effective rank of the representation: RankMe, participation ratio, power law"
    source: ClassVar[str] = "Garrido et al. 2023 (RankMe), Agrawal et al. 2022 (alpha-ReQ)"
    reading: ClassVar[str] = (
        "A rank is a number of directions: at most min(images, D). The eigenvalues' share against their index, both "
        "logarithmic: a straight line is a power law, a sharp fall a representation that uses few directions."
    )
    curves_first: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"test"})

    images: int = 4096
    """Test images looked at, drawn at random; no rank exceeds it. Keep it the same in what you compare. Time grows with the
    cube of the smaller of it and D."""
    fit: tuple[int, int] = (11, 100)
    """First and last index of the eigenvalues that alpha is fitted through, counted from 1."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"spectrum: images {self.images} must be at least 2.")
        if not 1 <= self.fit[0] <= self.fit[1] - _FEWEST + 1:
            raise UserError(
                f"spectrum: fit {self.fit} must be a first index >= 1 and a last one at least {_FEWEST - 1} above it."
            )

    def measure(self, bank: Bank, seed: int) -> Measured:
        N, D = bank.test.h.shape
        if N < 2:
            raise NotApplicableError(f"'{bank.data}' has {N} test images: a spectrum needs two.")
        h = bank.test.h[some(N, self.images, seed, "spectrum images")]
        n = len(h)
        spectra = eigenvalues(h)
        if not len(spectra["uncentred"]):
            raise NotApplicableError(f"every feature of '{bank.data}' is 0: there is no spectrum.")
        order = torch.randperm(n, generator=generator(seed, "spectrum blocks"))
        blocks = [eigenvalues(h[part]) for part in order.tensor_split(_BLOCKS)] if n >= 2 * _BLOCKS else []
        numbers, curves = [], []
        for series, values in spectra.items():
            if not len(values):
                continue
            repeated = [self._figures(block[series]) for block in blocks]
            for metric, value in self._figures(values).items():
                numbers.append(Number(metric, "", value, n, series=series, error=_error(metric, repeated)))
            if series == "centred" and (alpha := self._alpha(values)) is not None:
                repeated = [{"alpha": found} for block in blocks if (found := self._alpha(block[series])) is not None]
                numbers.append(Number("alpha", "", alpha, n, series=series, error=_error("alpha", repeated)))
            curves.append(_curve(values, series))
        notes = [f"ranks are at most {min(n, D)}, the smaller of {n} images and D = {D}."]
        if n < 2 * D:
            notes.append(f"{n} images are few for D = {D}: high ranks read low; compare widths at one number of images only.")
        return Measured(tuple(numbers), tuple(curves), tuple(notes))

    @staticmethod
    def _figures(values: Tensor) -> dict[str, float]:
        """Positive eigenvalues in falling order -> metric: value."""
        if not len(values):
            return {}
        total = values.sum()
        return {
            "rankme": rankme(values.sqrt()),
            "participation ratio": float(total.square() / values.square().sum()),
            "stable rank": float(total / values[0]),
            "rank": float(len(values)),
        }

    def _alpha(self, values: Tensor) -> float | None:
        first, last = self.fit[0], min(self.fit[1], len(values))
        return power_law(values, first, last) if last - first + 1 >= _FEWEST else None


def rankme(singular: Tensor) -> float:
    """Singular values, all positive -> the exponential of the entropy of their shares, in 1..len."""
    share = singular / singular.sum()
    return math.exp(-float((share * share.log()).sum()))


def power_law(values: Tensor, first: int, last: int) -> float:
    """alpha of values_k ~ k^-alpha through indices first..last counted from 1, each weighted by 1 / k."""
    k = torch.arange(first, last + 1, dtype=torch.float64)
    x, y, weight = k.log(), values[first - 1 : last].double().log(), 1 / k
    x = x - (weight * x).sum() / weight.sum()
    return -float((weight * x * y).sum() / (weight * x.square()).sum())


def eigenvalues(h: Tensor) -> dict[str, Tensor]:
    """h (N, D) fp16 -> the eigenvalues of h'h that stand above rounding, in falling order, as it is and centred.

    From the smaller of h h' and h'h, summed in double precision: in fp32 the sum's own error would hide singular values below
    2e-4 of the largest one, where fp16 still tells them apart. Memory: the square of min(N, D) doubles, three times.
    """
    N, D = h.shape
    gram = torch.zeros(min(N, D), min(N, D), dtype=torch.float64)
    if N <= D:
        for part in parts(h.T):
            x = part.double()
            gram.addmm_(x.T, x)
        mean = gram.mean(0)
        centred = gram - mean - mean[:, None] + mean.mean()
    else:
        total = torch.zeros(D, dtype=torch.float64)
        for part in parts(h):
            x = part.double()
            gram.addmm_(x.T, x)
            total += x.sum(0)
        centred = gram - total[:, None] * total / N
    floor = rounding(h) ** 2
    found = {}
    for series, matrix in (("uncentred", gram), ("centred", centred)):
        values: Tensor = torch.linalg.eigvalsh(matrix).flip(0)
        # What double precision leaves of a 0; it lies far below the floor unless h is made of integers.
        dust = float(gram.diagonal().sum()) * max(N, D) * torch.finfo(torch.float64).eps
        found[series] = values[values > max(floor, dust)]
    return found


def rounding(h: Tensor) -> float:
    """The largest singular value that rounding alone gives h (N, D); 0 has no rounding error, as the ReLU makes it."""
    bits = 7 if all(bool((part.bfloat16() == part).all()) for part in parts(h)) else 10
    columns = torch.zeros(h.shape[1], dtype=torch.float64)
    largest = 0.0
    for part in parts(h):
        exponent = torch.frexp(part.float()).exponent
        step = torch.exp2((exponent - 1 - bits).float()).clamp_(min=2.0**-24)  # fp16's finest step
        variance = step.square_().div_(12).where(part != 0, 0.0)
        columns += variance.sum(0, dtype=torch.float64)
        largest = max(largest, float(variance.sum(1).max()))
    return math.sqrt(largest) + math.sqrt(float(columns.max()))


def _error(metric: str, repeated: Sequence[Mapping[str, float]]) -> float | None:
    """Standard error from disjoint blocks of images; a rank is an extreme over images and has none."""
    found = torch.tensor([figures[metric] for figures in repeated if metric in figures], dtype=torch.float64)
    return float(found.std()) / math.sqrt(len(found)) if len(found) > 1 and metric != "rank" else None


def _curve(values: Tensor, series: str) -> Curve:
    """At most 256 points, equally far apart in the logarithm."""
    spots = torch.logspace(0, math.log10(len(values)), _POINTS).round().long().clamp(1, len(values)).unique()
    share = (values / values.sum())[spots - 1]
    return Curve(
        "eigenvalues", tuple(map(float, spots)), tuple(share.tolist()), "index", "share of the variance",
        series=series, x_scale="log", y_scale="log",
    )  # fmt: skip
