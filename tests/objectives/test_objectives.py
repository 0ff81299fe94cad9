"""Every objective against its formula written as loops over Python floats or 0-d tensors, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.objectives.barlow import Barlow
from wingspan.objectives.base import Batch, Objective
from wingspan.objectives.byol import BYOL
from wingspan.objectives.simclr import SimCLR, nt_xent
from wingspan.objectives.supervised import Supervised
from wingspan.objectives.vicreg import VICReg, off_diagonal_squares

LABELS = torch.tensor([2, 0, 1, 1, 2, 0])


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Double precision, of standard deviations from 0.3 to 2 along the last dimension, so that hinges are on both sides."""
    z = torch.randn(*shape, generator=generator(seed, "test"), dtype=torch.float64)
    return z * torch.linspace(0.3, 2, shape[-1], dtype=torch.float64) + 0.5


def total(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0])


def mean(values: list[Tensor]) -> Tensor:
    return total(values) / len(values)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return total([a[k] * b[k] for k in range(len(a))])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def slow_nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Equation 1 of SimCLR, averaged over the 2N anchors."""
    N = z.shape[1]
    rows = [z[v, n] for v in range(2) for n in range(N)]
    losses = []
    for i in range(2 * N):
        pair = (i + N) % (2 * N)
        negatives = [torch.exp(cosine(rows[i], rows[k]) / temperature) for k in range(2 * N) if k != i]
        losses.append(-torch.log(torch.exp(cosine(rows[i], rows[pair]) / temperature) / sum(negatives)))
    return mean(losses)


def covariance(z: Tensor) -> list[list[Tensor]]:
    """The unbiased covariance of z (N, K), entry by entry."""
    N, K = z.shape
    means = [mean([z[n, k] for n in range(N)]) for k in range(K)]
    return [
        [mean([(z[n, i] - means[i]) * (z[n, j] - means[j]) for n in range(N)]) * N / (N - 1) for j in range(K)]
        for i in range(K)
    ]


def slow_vicreg(z: Tensor) -> dict[str, Tensor]:
    """Equations 1 to 6 of VICReg with the weights 25, 25, 1, the variance term halved as in its authors' code."""
    _, N, K = z.shape
    distance = mean([(z[0, n, k] - z[1, n, k]) ** 2 for n in range(N) for k in range(K)])
    hinges: list[Tensor] = []
    off: list[Tensor] = []
    for view in z:
        C = covariance(view)
        hinges.append(mean([torch.clamp(1 - torch.sqrt(C[k][k] + 1e-4), min=0) for k in range(K)]))
        off.append(total([C[i][j] ** 2 for i in range(K) for j in range(K) if i != j]) / K)
    return {
        "invariance": 25 * distance,
        "variance": 25 * (hinges[0] + hinges[1]) / 2,
        "covariance": 1 * (off[0] + off[1]),
    }


def slow_barlow(z: Tensor) -> dict[str, Tensor]:
    """Equation 1 of Barlow Twins on embeddings standardised as batch norm does (epsilon 1e-5)."""
    _, N, K = z.shape
    scaled = []
    for view in z:
        columns = []
        for k in range(K):
            centre = mean([view[n, k] for n in range(N)])
            spread = mean([(view[n, k] - centre) ** 2 for n in range(N)])
            columns.append([(view[n, k] - centre) / torch.sqrt(spread + 1e-5) for n in range(N)])
        scaled.append(columns)
    C = [[mean([scaled[0][i][n] * scaled[1][j][n] for n in range(N)]) for j in range(K)] for i in range(K)]
    off = total([C[i][j] ** 2 for i in range(K) for j in range(K) if i != j])
    return {"diagonal": total([(1 - C[i][i]) ** 2 for i in range(K)]), "redundancy": 0.0051 * off}


def slow_byol(predictions: Tensor, targets: Tensor) -> Tensor:
    """Equations 2 and 3 of BYOL: both directions summed, each the mean over images of 2 - 2 cos."""
    B = predictions.shape[1]
    there = mean([2 - 2 * cosine(predictions[0, b], targets[1, b]) for b in range(B)])
    back = mean([2 - 2 * cosine(predictions[1, b], targets[0, b]) for b in range(B)])
    return there + back


def slow_cross_entropy(logits: Tensor, smoothing: float) -> Tensor:
    """Mean over images of -sum_c q_c log p_c with q = (1 - smoothing) one-hot + smoothing / C."""
    losses = []
    for row, label in zip(logits[0], LABELS.tolist(), strict=True):
        total = sum(torch.exp(value) for value in row)
        logs = [torch.log(torch.exp(value) / total) for value in row]
        C = len(logs)
        weights = [(1 - smoothing) * (c == label) + smoothing / C for c in range(C)]
        losses.append(-sum(w * log for w, log in zip(weights, logs, strict=True)))
    return mean(losses)


@dataclass(frozen=True)
class Case:
    objective: Objective
    z: Tensor
    slow: Callable[[Tensor], dict[str, Tensor]]
    batch: Callable[[Tensor], Batch]


TARGETS = embeddings(2, 6, 3, seed=7)
CASES = {
    "simclr": Case(SimCLR(), embeddings(2, 5, 3), lambda z: {"contrastive": slow_nt_xent(z, 0.15)}, Batch),
    "simclr hot": Case(SimCLR(2.0), embeddings(2, 4, 7), lambda z: {"contrastive": slow_nt_xent(z, 2.0)}, Batch),
    "vicreg N<K": Case(VICReg(), embeddings(2, 4, 7), slow_vicreg, Batch),
    "vicreg N>K": Case(VICReg(), embeddings(2, 8, 3), slow_vicreg, Batch),
    "barlow N<K": Case(Barlow(), embeddings(2, 4, 7), slow_barlow, Batch),
    "barlow N>K": Case(Barlow(), embeddings(2, 8, 3), slow_barlow, Batch),
    "byol": Case(
        BYOL(),
        embeddings(2, 6, 3),
        lambda z: {"prediction": slow_byol(z, TARGETS)},
        lambda z: Batch(torch.zeros(2, 6, 3), {"predictor": z}, TARGETS),
    ),
    "supervised": Case(
        Supervised(),
        embeddings(1, 6, 3),
        lambda z: {"cross_entropy": slow_cross_entropy(z, 0.0)},
        lambda z: Batch(torch.zeros(1, 6, 4), {"classifier": z}, labels=LABELS),
    ),
    "supervised smoothed": Case(
        Supervised(smoothing=0.2),
        embeddings(1, 6, 3),
        lambda z: {"cross_entropy": slow_cross_entropy(z, 0.2)},
        lambda z: Batch(torch.zeros(1, 6, 4), {"classifier": z}, labels=LABELS),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_terms_and_gradient_follow_the_formula(case: Case) -> None:
    fast_z, slow_z = case.z.clone().requires_grad_(), case.z.clone().requires_grad_()
    fast, slow = case.objective.terms(case.batch(fast_z)), case.slow(slow_z)
    assert fast.keys() == slow.keys()
    for name, term in fast.items():
        assert term.shape == ()
        assert float(term.detach()) == pytest.approx(float(slow[name].detach()), rel=1e-10, abs=1e-12), name
    (fast_gradient,) = torch.autograd.grad(torch.stack(list(fast.values())).sum(), fast_z)
    (slow_gradient,) = torch.autograd.grad(torch.stack(list(slow.values())).sum(), slow_z)
    assert float(slow_gradient.abs().max()) > 1e-4
    torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("N", "K"), [(3, 8), (5, 5), (9, 4), (2, 3), (4, 1)])
def test_off_diagonal_squares_on_either_side_of_the_gram_matrix(N: int, K: int) -> None:
    z = embeddings(N, K, seed=N)
    C = covariance(z)
    slow = sum(float(C[i][j]) ** 2 for i in range(K) for j in range(K) if i != j)
    assert float(off_diagonal_squares(z - z.mean(0))) == pytest.approx(slow, rel=1e-10, abs=1e-12)


def test_nt_xent_of_equal_embeddings_counts_every_candidate_but_the_anchor() -> None:
    for N in (2, 5, 16):
        assert float(nt_xent(torch.ones(2, N, 3), 0.1)) == pytest.approx(math.log(2 * N - 1), rel=1e-5)


def test_nt_xent_of_orthogonal_images_has_a_closed_form() -> None:
    z = torch.eye(4, dtype=torch.float64).expand(2, 4, 4) * 3.0  # N = 4 images, both views alike, of any length
    others = 2 * 4 - 2
    assert float(nt_xent(z, 0.5)) == pytest.approx(math.log(1 + others * math.exp(-1 / 0.5)), rel=1e-10)


def test_nt_xent_survives_a_temperature_whose_exponentials_overflow() -> None:
    loss = nt_xent(embeddings(2, 6, 4).float(), 1e-3)
    assert math.isfinite(float(loss))


def test_variance_hinge_is_off_above_a_standard_deviation_of_one() -> None:
    z = torch.tensor([[-2.0], [2.0], [-2.0], [2.0]], dtype=torch.float64).expand(2, 4, 1)
    assert float(VICReg().terms(Batch(z))["variance"]) == 0.0
    assert float(VICReg().terms(Batch(torch.zeros(2, 4, 1)))["variance"]) == pytest.approx(25 * (1 - 0.01), rel=1e-6)


def test_barlow_of_equal_uncorrelated_views_is_nearly_zero() -> None:
    view = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    terms = Barlow().terms(Batch(torch.stack([view, view])))
    assert float(terms["diagonal"]) < 1e-8 and float(terms["redundancy"]) == 0.0
    opposite = Barlow().terms(Batch(torch.stack([view, -view])))
    assert float(opposite["diagonal"]) == pytest.approx(2 * 2**2, rel=1e-4)


def test_byol_is_symmetric_and_between_zero_and_eight() -> None:
    p, t = embeddings(2, 6, 3), embeddings(2, 6, 3, seed=1)
    objective = BYOL()

    def loss(p: Tensor, t: Tensor) -> float:
        return float(objective.terms(Batch(p, {"predictor": p}, t))["prediction"])

    assert loss(p, t) == pytest.approx(loss(p.flip(0), t.flip(0)), rel=1e-12)
    assert loss(p, 5 * p.flip(0)) == pytest.approx(0, abs=1e-12)
    assert loss(p, -p.flip(0)) == pytest.approx(8, rel=1e-12)


def test_byol_momentum_rises_from_its_start_to_one_on_a_cosine() -> None:
    objective = BYOL(momentum_start=0.97)
    K = 10
    found = [objective.momentum(k / K) or 0.0 for k in range(K + 1)]
    expected = [1 - (1 - 0.97) * (math.cos(math.pi * k / K) + 1) / 2 for k in range(K + 1)]
    assert found == pytest.approx(expected, abs=1e-14)
    assert found[0] == pytest.approx(0.97) and found[-1] == 1.0
    assert found == sorted(found)


@pytest.mark.parametrize("objective", [SimCLR(), VICReg(), Barlow(), Supervised()])
def test_only_byol_keeps_an_average(objective: Objective) -> None:
    assert objective.momentum(0.0) is None and objective.momentum(1.0) is None


def test_heads_have_the_shapes_asked_for() -> None:
    predictor = BYOL(hidden=10).heads(K=6, classes=0)["predictor"]
    assert [tuple(p.shape) for p in predictor.parameters()] == [(10, 6), (10,), (10,), (10,), (6, 10), (6,)]
    classifier = Supervised().heads(K=6, classes=4)["classifier"]
    assert [tuple(p.shape) for p in classifier.parameters()] == [(4, 6), (4,)]
    assert SimCLR().heads(6, 4) == VICReg().heads(6, 4) == Barlow().heads(6, 4) == {}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SimCLR(temperature=0.0), "temperature 0.0"),
        (lambda: SimCLR(temperature=-1.0), "temperature -1.0"),
        (lambda: SimCLR(temperature=math.nan), "temperature nan"),
        (lambda: BYOL(momentum_start=1.1), "momentum-start 1.1"),
        (lambda: BYOL(momentum_start=math.nan), "momentum-start nan"),
        (lambda: BYOL(hidden=0), "hidden 0"),
        (lambda: Supervised(smoothing=1.0), "smoothing 1.0"),
        (lambda: Supervised(smoothing=-0.1), "smoothing -0.1"),
        (lambda: Supervised().heads(8, 1), "at least two classes, the data has 1"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
