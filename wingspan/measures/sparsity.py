"""How sparse the representation is: exact zeros, per image and per dimension, and how unevenly activity is spread.

The paper counts "the number of activations equal to zero" twice: section 4.1 per image (80 % of the images have at least half
of their dimensions at zero, at D = 32768), the caption of figure 7 per dimension ("how many times a given dimension is equal
to zero over the entire validation set"). Both are given here.

A zero is an exact zero of h as stored, in fp16. The ReLU makes them: h is a mean over positions, so it is 0 where the ReLU is
shut at every one. Storing can add only what lies below 2^-25 (3e-8; fp16 rounds it to 0), which features of ordinary size
never do; where more than 1 % of the entries that are not 0 lie below fp16's normal range (6e-5) a note says so. A
representation without a final ReLU has no zeros, and these numbers say just that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.features import Bank, Need
from wingspan.measures._curves import parts, sorted_points
from wingspan.measures.base import Curve, Measure, Measured, NotApplicableError, Number

_BLOCKS = 20  # of images, for the jackknife
_NORMAL = 2.0**-14  # fp16's least normal number


@dataclass(frozen=True)
class Counts:
    """What one pass over h (N, D) counts. Sums are kept for `_BLOCKS` blocks of images each."""

    image_zeros: Tensor  # (N,) dimensions that are 0
    population: Tensor  # (N,) sparseness over dimensions; NaN where it has no meaning
    zeros: Tensor  # (blocks, D) images where a dimension is 0
    sums: Tensor  # (blocks, D) of |h|
    squares: Tensor  # (blocks, D) of h^2
    tiny: int  # entries that are not 0 but below fp16's normal range
    sizes: Tensor  # (blocks,) images


@dataclass(frozen=True)
class Sparsity(Measure):
    """Zeros per image and per dimension, and Treves-Rolls sparseness, on the test split."""

    title: ClassVar[str] = "zeros of the representation, per image and per dimension"
    source: ClassVar[str] = "Figure 7, section 4.1"
    reading: ClassVar[str] = (
        "Images (or dimensions) sorted by their share of zeros. At large D the paper finds that 80 % of the images have at "
        "least half of their dimensions at zero; a dimension at 1 is dead, one at 0 never rests."
    )
    curves_first: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"test"})

    def measure(self, bank: Bank, seed: int) -> Measured:
        h = bank.test.h
        N, D = h.shape
        if not N:
            raise NotApplicableError(f"'{bank.data}' has no test images to count zeros in.")
        found = counts(h)
        numbers = [*_per_image(found, D), *_per_dimension(found)]
        image, dimension = found.image_zeros.double() / D, found.zeros.sum(0).double() / N
        curves = [
            Curve("zeros per image", *sorted_points(image), "images, sorted (share)", "share of dimensions at 0"),
            Curve("zeros per dimension", *sorted_points(dimension), "dimensions, sorted (share)", "share of images at 0"),
        ]
        notes = []
        if found.tiny > 0.01 * (N * D - int(found.image_zeros.sum())):
            notes.append(
                f"{found.tiny:,} of {N * D:,} entries lie below 6e-5, where fp16 loses precision and below 3e-8 turns to 0: "
                "some zeros may be rounding and not the ReLU's."
            )
        return Measured(tuple(numbers), tuple(curves), tuple(notes))


def counts(h: Tensor) -> Counts:
    """h (N, D) -> its counts, in one pass, with a few megabytes of memory and (20, D) sums."""
    N, D = h.shape
    blocks = h.tensor_split(min(_BLOCKS, N))
    image_zeros, population, tiny = [], [], 0
    zeros, sums, squares = (torch.zeros(len(blocks), D, dtype=torch.float64) for _ in range(3))
    for at, block in enumerate(blocks):
        for part in parts(block):
            x = part.double().abs_()
            silent = x == 0
            tiny += int((~silent & (x < _NORMAL)).sum())
            image_zeros.append(silent.sum(1))
            zeros[at] += silent.sum(0)
            sums[at] += x.sum(0)
            sum_image = x.sum(1)
            squared = x.square_()
            squares[at] += squared.sum(0)
            population.append(sparseness(sum_image, squared.sum(1), D))
    sizes = torch.tensor([len(block) for block in blocks])
    return Counts(torch.cat(image_zeros), torch.cat(population), zeros, sums, squares, tiny, sizes)


def sparseness(total: Tensor, squares: Tensor, n: int | Tensor) -> Tensor:
    """S = (1 - a) / (1 - 1/n) with activity ratio a = (mean of r)^2 / mean of r^2 over n responses r = |h|.

    0: all responses alike; 1: one response and n - 1 zeros; NaN: none at all (dead), or n = 1. `total` and `squares` are
    sums of r and r^2. The ratio a is Rolls and Tovee's (1995), after Treves and Rolls (1991); S is Vinje and Gallant's (2000).
    """
    rest = 1 - 1 / torch.as_tensor(n, dtype=torch.float64)
    return ((1 - total.square() / squares / n) / rest).where(rest > 0, torch.nan)


def _per_image(found: Counts, D: int) -> list[Number]:
    share = found.image_zeros.double() / D
    N = len(share)
    half = float((share >= 0.5).double().mean())
    ordered = share.sort().values
    reach = math.sqrt(N) / 2  # one standard deviation of the rank that the true median has in a sample
    low, high = max(0, math.floor((N - 1) / 2 - reach)), min(N - 1, math.ceil((N - 1) / 2 + reach))
    numbers = [
        _mean("zeros per image", share),
        Number("zeros per image, median", "", float(share.quantile(0.5)), N, error=float(ordered[high] - ordered[low]) / 2),
        Number("images with half their dimensions at zero", "", half, N, error=math.sqrt(half * (1 - half) / N)),
    ]
    alive = found.population[found.population.isfinite()]
    return [*numbers, _mean("population sparseness", alive)] if len(alive) else numbers


def _mean(metric: str, values: Tensor) -> Number:
    """The mean over images and its standard error."""
    n = len(values)
    return Number(metric, "", float(values.mean()), n, error=float(values.std()) / math.sqrt(n) if n > 1 else None)


def _per_dimension(found: Counts) -> list[Number]:
    """Dead and never resting dimensions are extremes over images, which have no standard error; they depend on N."""
    N = int(found.sizes.sum())
    zeros = found.zeros.sum(0)
    numbers = [
        Number("dead dimensions", "", float((zeros == N).double().mean()), N),
        Number("dimensions never at zero", "", float((zeros == 0).double().mean()), N),
    ]
    sums, squares = found.sums.sum(0), found.squares.sum(0)
    whole = float(sparseness(sums, squares, N).nanmean())
    if math.isnan(whole):
        return numbers
    left_out = sparseness(sums - found.sums, squares - found.squares, N - found.sizes[:, None]).nanmean(1)
    g = len(left_out)
    error = float(((g - 1) / g * (left_out - left_out.mean()).square().sum()).sqrt())  # delete-one-block jackknife
    return [*numbers, Number("lifetime sparseness", "", whole, N, error=error if math.isfinite(error) else None)]
