"""Collisions: images whose binary codes h > 0 are equal, and how many independent codes would give (appendix C).

The paper: dimensions that are independent and above 0 half of the time give two images the same code of K dimensions with
probability 0.5^K. That assumes rates of a half; wide representations are sparse. So beside it stands the same product with each
dimension's own rate, prod_k p_k^2 + (1 - p_k)^2 (ours), and what is observed, over random subsets of K dimensions. The last two
agree at K = 1 by construction; an observed curve above the product shows dimensions that depend on each other.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wingspan import bits
from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.measures.base import Curve, Measure, Measured, NotApplicableError, Number

_COLUMNS = 30  # dimensions looked at together: with a group's number below 2^31 they fit into an int64
_ENOUGH = 10  # colliding pairs from which a probability is told: fewer say little


@dataclass(frozen=True)
class Collisions(Measure):
    """How many test images share their binary code with another one, as fewer and fewer dimensions are used."""

    title: ClassVar[str] = "images that share a binary code, observed and expected"
    reads_bits: ClassVar[bool] = True
    source: ClassVar[str] = "appendix C"
    reading: ClassVar[str] = (
        "How probable it is that two test images have the same code h > 0 when only K dimensions, drawn at random, are looked "
        "at. Dashed: 0.5^K, what appendix C of the paper proves for independent dimensions that are above 0 half of the time, "
        "and 'own rates', the same for independent dimensions with the rates measured here. A measured curve above 'own rates' "
        "shows dimensions that repeat each other. It ends where no two images share a code: from there on the code tells every "
        "image from the others. It goes flat where images share their whole code, as dead ones (h = 0) do."
    )
    curves_first: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"test"})

    subsets: int = 8
    """Random orders of the dimensions over which curves are averaged. More for smoother curves at few dimensions."""

    def __post_init__(self) -> None:
        if self.subsets < 1:
            raise UserError(f"collisions: subsets {self.subsets} must be at least 1.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        N, D = len(bank.test.h), bank.test.width or bank.test.h.shape[1]
        if N < 3:
            raise NotApplicableError(f"'{bank.data}' has {N} test images: collisions need at least 3.")
        codes = bank.test.h if bank.test.width else bits.pack(bank.test.h)
        pairs, counts = math.comb(N, 2), dimensions(D)
        distinct, images = unique(codes)
        orders = [torch.randperm(D, generator=generator(seed, "collisions", i)) for i in range(self.subsets)]
        agreeing = agreement(codes, D).log()
        last = torch.tensor(counts) - 1
        expected = torch.stack([agreeing[order].cumsum(0)[last] for order in orders]).exp()  # (subsets, points)
        found = torch.stack([sharing(distinct, images, order, counts) for order in orders]).double() / pairs
        dead = int((codes == 0).all(1).sum())
        colliding = _pairs(images)
        numbers = (
            Number("distinct codes", "", len(images), N),
            Number("images sharing a code", "", int(images[images > 1].sum()), N),
            Number("colliding pairs", "", colliding, N, series="observed"),
            Number("colliding pairs", "", pairs * float(agreeing.sum().exp()), N, series="own rates"),
            Number("dead images", "", dead, N),
            *_rates(found, expected, counts, pairs, N),
        )
        smallest = 1 / (self.subsets * pairs)  # the smallest mean above 0 that can be observed
        curves = (
            _curve("observed", counts, found.mean(0), smallest),
            _curve("own rates", counts, expected.mean(0), smallest, expected=True),
            _curve("0.5^K", counts, 0.5 ** torch.tensor(counts).double(), smallest, expected=True),
        )
        note = f"{bank.data}: {dead} of {N} test images are dead (h = 0): {math.comb(dead, 2)} of {colliding} colliding pairs."
        return Measured(numbers, curves, (note,) if dead else ())


def dimensions(D: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 11, 16, ..., D: how many dimensions are used at each point of a curve, two points an octave."""
    return sorted({*(round(2 ** (i / 2)) for i in range(2 * D.bit_length()) if round(2 ** (i / 2)) < D), D})


def agreement(codes: Tensor, D: int) -> Tensor:
    """codes (N, bytes) -> for every dimension the share of pairs of images that agree in it (D,) in fp64.

    p^2 + (1 - p)^2 without its bias: pairs of an image with itself, which the plain formula counts, would at D = 32768 and
    N = 10,000 multiply the product over dimensions by up to e^3.
    """
    N = len(codes)
    parts = codes.split(max(1, 2**26 // D))
    # numpy adds bytes over rows thirty times as fast as torch.
    on = torch.from_numpy(sum(bits.unpack(part, D, torch.int8).numpy().sum(0, dtype=np.int64) for part in parts))
    off = N - on
    return (on * (on - 1) + off * (off - 1)).double() / (N * (N - 1))


def unique(codes: Tensor) -> tuple[Tensor, Tensor]:
    """codes (N, bytes) -> the distinct ones (n, bytes), in order of appearance, and how many images have each, int64 (n,)."""
    found = Counter(code.tobytes() for code in codes.numpy())  # hashing: sorting codes of 4 kB took fifty times as long
    distinct = torch.frombuffer(bytearray().join(found), dtype=torch.uint8)
    return distinct.view(-1, codes.shape[1]), torch.tensor(list(found.values()))


def sharing(distinct: Tensor, images: Tensor, order: Tensor, counts: list[int]) -> Tensor:
    """Pairs of images with equal bits in the first K dimensions of `order`, for every K in `counts`, int64.

    distinct (n, bytes) codes and how many images have each (n,). Groups of codes that are equal so far are divided by more and
    more dimensions; a code that stands alone is not looked at again.
    """
    group = torch.zeros(len(distinct), dtype=torch.int64)
    left = torch.arange(len(distinct))  # codes that share their group with another
    found, done, alone = [], 0, 0
    for count in counts:
        while done < count and len(left):
            columns = order[done : min(done + _COLUMNS, count)]
            values = (distinct[left.unsqueeze(1), columns // 8].long() >> (7 - columns % 8)) & 1
            key = (group << len(columns)) | (values << torch.arange(len(columns))).sum(1)
            _, group, sizes = torch.unique(key, return_inverse=True, return_counts=True)
            together = sizes[group] > 1
            alone += _pairs(images[left[~together]])
            left, group = left[together], group[together]
            done += len(columns)
        held = torch.zeros(int(group.max()) + 1 if len(group) else 0, dtype=torch.int64).index_add_(0, group, images[left])
        found.append(alone + _pairs(held))
    return torch.tensor(found)


def _pairs(sizes: Tensor) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _rates(found: Tensor, expected: Tensor, counts: list[int], pairs: int, N: int) -> list[Number]:
    """Bits by which a dimension tells images apart, -log2(probability) / K: 1 for coin flips, less for lopsided rates
    ('own rates') and for dimensions that repeat each other ('observed'). At the last K where enough pairs are expected."""
    at = max([0, *(i for i in range(len(counts)) if float(expected[:, i].mean()) * pairs >= _ENOUGH)])
    numbers = []
    for series, values in (("observed", found[:, at]), ("own rates", expected[:, at])):
        mean = float(values.mean())
        if mean > 0:
            spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            error = spread / (mean * math.log(2) * counts[at]) or None  # over subsets; of all dimensions there is but one
            numbers.append(Number("bits a dimension", "", abs(math.log2(mean)) / counts[at], N, series=series, error=error))
    return numbers


def _curve(series: str, counts: list[int], values: Tensor, smallest: float, expected: bool = False) -> Curve:
    """Without the points that a logarithmic axis has no place for, or that no number of these images could show."""
    kept = [(count, value) for count, value in zip(counts, values.tolist(), strict=True) if value >= smallest * 0.999]
    return Curve(
        "collisions", tuple(float(count) for count, _ in kept), tuple(value for _, value in kept),
        "dimensions used, K", "probability that two images share a code",
        series=series, x_scale="log", y_scale="log", expected=expected,
    )  # fmt: skip
