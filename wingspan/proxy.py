"""Which width a representation's own look advises, without labels, and how well that tracked the labels where there are some.

Each rule and its direction come from the literature and were fixed beforehand; none is fitted to a study's labels. They look
at the study's own test images only.

* RankMe, higher is better (Garrido et al. 2023, who use it within one method only, as here). It cannot exceed D, so it tends
  to grow with D whatever the representation is worth.
* alpha of lambda_k ~ k^-alpha, nearer 1 is better (Agrawal et al. 2022, alpha-ReQ).
* zeros per image, more is better: the paper finds its wider representations, which transfer better, sparser (section 4.1). That
  is an observation; nobody proposed it as a rule.

The bar they have to clear is D itself: always take the widest. A rule that loses no less tells no more than that. Compare what
they lose and not their tau-b: seeds of one width tie in D, which alone keeps that of D below 1.

How a rule tracked the labels: Kendall's tau-b (1945) between its score and the labelled value over runs, seeds times widths.
Runs of one width are no independent points, they lie on one trend, so the p-value deals whole widths anew: with W widths there
are W! orders, and it cannot fall below 1 / W!.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from wingspan import chance
from wingspan.advice import Advice, Curve, advised, against_width
from wingspan.errors import UserError
from wingspan.evidence import DRAWS, LONGEST, Floats
from wingspan.results import name_of
from wingspan.selection import Where


def _as_it_is(values: Floats) -> Floats:
    return values


def _near_one(values: Floats) -> Floats:
    return -np.abs(values - 1)


@dataclass(frozen=True)
class Rule:
    """A metric without labels, and a score made of it of which more is better."""

    name: str
    measure: str
    metric: str
    series: str
    direction: str
    source: str
    score: Callable[[Floats], Floats] = _as_it_is


RULES = (
    Rule("RankMe", "spectrum", "rankme", "uncentred", "higher is better", "Garrido et al. 2023"),
    Rule("alpha", "spectrum", "alpha", "centred", "-|alpha - 1|", "Agrawal et al. 2022", _near_one),
    Rule("zeros per image", "sparsity", "zeros per image", "", "more is better", "an observation of the paper's section 4.1"),
)
WIDEST = Rule("D itself", "", "", "", "always the widest", "the bar that a proxy has to clear")
MEASURES = tuple(dict.fromkeys(rule.measure for rule in RULES))


@dataclass(frozen=True)
class Tracking:
    """How a rule's score went with the labelled value, over the widths and seeds that have both."""

    tau: float  # tau-b; NaN where score or value is the same in all runs
    p: float  # one-sided, toward agreement, whole widths dealt anew; NaN where tau is
    exact: bool  # all W! orders counted, or drawn
    widths: int
    seeds: int
    regret: float  # the best labelled mean minus that at the rule's width, in the labels' unit; 0: nothing lost
    same: bool  # the labels advise the same width

    @property
    def runs(self) -> int:
        return self.widths * self.seeds

    @property
    def least_p(self) -> float:
        """The smallest p-value there is with so few widths."""
        return 1 / min(math.factorial(self.widths), DRAWS + 1)


@dataclass(frozen=True)
class Found:
    """What a rule advises. `missing` says why it advises nothing, or what its advice lacks."""

    rule: Rule
    advice: Advice | None
    tracking: Tracking | None = None
    missing: str = ""


def proxies(table: pd.DataFrame, where: Where, labelled: Curve | None) -> list[Found]:
    """What each rule advises on the rows that `where` picks (objective, further axes) of the runs' own images.

    `labelled`: what matters against D, of the same runs; with it D itself is among the rules. A rule whose measure is not in
    the table is left out.
    """
    found = []
    for rule in RULES:
        labels = [label for label in table["measure"].unique() if name_of(label) == rule.measure]
        if labels:
            choice = {"measure": labels[0], "metric": rule.metric, "series": rule.series, "role": "in-distribution"}
            found.append(_found(rule, table, {**where, **choice}, labelled))
    if labelled is not None and found:
        D = np.broadcast_to(np.array(labelled.widths, dtype=float), labelled.values.shape)
        score = dataclasses.replace(labelled, values=D, measured=np.zeros(len(labelled.widths)), unit="")
        found.append(_judged(WIDEST, score, labelled))
    return found


def _found(rule: Rule, table: pd.DataFrame, where: Where, labelled: Curve | None) -> Found:
    try:
        curve = against_width(table, where)
        found = _judged(rule, dataclasses.replace(curve, values=rule.score(curve.values)), labelled)
    except UserError as error:
        return Found(rule, None, missing=str(error))
    absent = sorted(set(labelled.widths if labelled else ()) - set(curve.widths))
    return dataclasses.replace(found, missing=f"not measured at D={', '.join(map(str, absent))}" if absent else "")


def _judged(rule: Rule, score: Curve, labelled: Curve | None) -> Found:
    advice = advised(score, {})
    return Found(rule, advice, None if labelled is None else track(score, labelled, advice.width))


def track(score: Curve, labelled: Curve, width: int) -> Tracking | None:
    """How a score, which advises `width`, went with labels; None where fewer than two widths have both in one seed."""
    widths = [each for each in score.widths if each in labelled.widths]
    seeds = [each for each in score.seeds if each in labelled.seeds]
    if len(widths) < 2 or not seeds:
        return None
    x, y = (
        curve.values[np.ix_([curve.seeds.index(s) for s in seeds], [curve.widths.index(D) for D in widths])]
        for curve in (score, labelled)
    )
    tau = tau_b(x.ravel(), y.ravel())
    p, exact = (math.nan, True) if math.isnan(tau) else permuted(x, y)
    means = dict(zip(labelled.widths, labelled.values.mean(axis=0), strict=True))
    regret = float(max(means.values()) - means[width]) if width in means else math.nan
    try:
        same = advised(labelled, {}).width == width
    except UserError:  # one seed of a measure without standard errors: labels that advise nothing agree with nothing
        same = False
    return Tracking(tau, p, exact, len(widths), len(seeds), regret, same)


def tau_b(x: Floats, y: Floats) -> float:
    """Kendall's rank correlation with ties (Kendall 1945); x, y: (n,). NaN where one of them is constant."""
    one, other = np.triu_indices(len(x), 1)
    up, along = np.sign(x[other] - x[one]), np.sign(y[other] - y[one])
    pairs = float(np.abs(up).sum()) * float(np.abs(along).sum())
    return float((up * along).sum()) / math.sqrt(pairs) if pairs else math.nan


def permuted(x: Floats, y: Floats) -> tuple[float, bool]:
    """One-sided p-value of tau-b of x and y, both (seeds, widths), the columns of y dealt anew; and whether it is exact.

    Dealing changes no ties, so concordant minus discordant pairs decide: whole numbers, summed over pairs of columns.
    """
    W = x.shape[1]
    of_x, of_y = (np.sign(each.T[:, :, None, None] - each.T[None, None]) for each in (x, y))  # (W, seeds, W, seeds)
    agree = np.einsum("aibj,cidj->abcd", of_x, of_y)
    exact = W <= LONGEST
    if exact:
        orders = np.array(list(itertools.permutations(range(W))))
    else:
        draws = torch.rand(DRAWS, W, generator=chance.generator(0, "permutation of widths", W))
        orders = draws.argsort(dim=1).numpy()
    a, b = np.indices((W, W))
    sums = np.zeros(len(orders))
    for row, column in zip(a.ravel(), b.ravel(), strict=True):
        sums += agree[row, column, orders[:, row], orders[:, column]]
    observed = agree[a, b, a, b].sum()
    count = float((sums >= observed).sum())
    return (count / len(orders) if exact else (1 + count) / (1 + DRAWS)), exact
