"""Losses in tiles equal the plain forms, hold no whole matrix, and are used where they are said to be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wingspan.chance import generator
from wingspan.objectives import _tiled, barlow, simclr, vicreg
from wingspan.runtime import Peers

Loss = Callable[[Tensor], Tensor]
TILES = (1, 3, 4, 5, 64)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(sum(shape), "test"), dtype=dtype)


def slow_nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Equation 1, anchor by anchor."""
    _, B, _ = z.shape
    z = F.normalize(z, dim=-1).flatten(0, 1)
    terms = []
    for i in range(2 * B):
        scores = z @ z[i] / temperature
        others = torch.cat([scores[:i], scores[i + 1 :]])
        terms.append(others.logsumexp(0) - scores[(i + B) % (2 * B)])
    return torch.stack(terms).mean()


def tiled_nt_xent(z: Tensor, temperature: float, tile: int, symmetric: bool) -> Tensor:
    z = F.normalize(z, dim=-1)
    return _tiled.contrast(z, None if symmetric else z, 0, temperature, tile)


def both(loss: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_same(one: Loss, other: Loss, x: Tensor, tolerance: float = 1e-12) -> None:
    """Value to `tolerance` of itself, gradient to `tolerance` of its largest entry."""
    (a, da), (b, db) = both(one, x), both(other, x)
    assert float((a - b).abs()) <= tolerance * max(1.0, float(b.abs()))
    assert float((da - db).abs().max()) <= tolerance * max(1.0, float(db.abs().max()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("B", [1, 2, 7])
def test_tiled_nt_xent_is_equation_1(B: int, tile: int, symmetric: bool) -> None:
    z = draw(2, B, 6)
    assert_same(lambda z: tiled_nt_xent(z, 0.15, tile, symmetric), lambda z: slow_nt_xent(z, 0.15), z)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "z",
    [
        torch.ones(2, 5, 4).double(),
        draw(1, 5, 4).repeat(2, 1, 1),
        draw(2, 5, 4) * 1e150,
        draw(1, 5, 4) * Tensor([[[1]], [[-1]]]),
    ],
    ids=["all equal", "pairs equal", "huge", "pairs opposite"],
)
def test_extreme_scores_agree_at_temperature_a_hundredth(z: Tensor, symmetric: bool) -> None:
    assert_same(lambda z: tiled_nt_xent(z, 0.01, 3, symmetric), lambda z: simclr.nt_xent(z, 0.01), z)


def test_a_lone_pair_of_opposites_has_no_loss_although_its_scores_underflow() -> None:
    z = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    value, gradient = both(lambda z: tiled_nt_xent(z, 0.005, 1, True), z)
    assert value == 0
    assert not gradient.any()


def test_what_is_no_number_stays_none() -> None:
    z = draw(2, 7, 4)
    z[0, 2, 1] = float("nan")
    value, gradient = both(lambda z: tiled_nt_xent(z, 0.15, 3, True), z)
    assert value.isnan()
    assert gradient.isnan().any()


@pytest.mark.parametrize("temperature", [0.01, 0.15, 1.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_fp32_is_as_close_to_float64_as_the_plain_form_is(temperature: float, symmetric: bool) -> None:
    z = draw(2, 150, 32)
    value, gradient = both(lambda z: simclr.nt_xent(z, temperature), z)

    def errors(loss: Loss) -> tuple[float, float]:
        found, slope = both(loss, z.float())
        return float((found - value).abs() / value), float((slope - gradient).norm() / gradient.norm())

    plain = errors(lambda z: simclr.nt_xent(z, temperature))
    tiled = errors(lambda z: tiled_nt_xent(z, temperature, 64, symmetric))
    assert tiled[0] <= plain[0] + 1e-6
    assert tiled[1] <= 2 * plain[1]
    assert tiled[1] < 1e-5


@pytest.mark.parametrize("tile", TILES)
def test_a_process_with_peers_meets_their_candidates_with_the_plain_forms_gradients(tile: int) -> None:
    anchors, candidates, first = draw(2, 3, 4).requires_grad_(), draw(2, 8, 4).requires_grad_(), 2
    scores = torch.cat([anchors[0], anchors[1]]) @ torch.cat([candidates[0], candidates[1]]).T / 0.3
    itself = torch.tensor([2, 3, 4, 10, 11, 12])
    plain = F.cross_entropy(scores.scatter(1, itself[:, None], float("-inf")), itself.roll(3))
    tiled = _tiled.contrast(anchors, candidates, first, 0.3, tile)
    torch.testing.assert_close(tiled, plain, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(loss, (anchors, candidates)) for loss in (tiled, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradcheck_passes() -> None:
    anchors, candidates = draw(2, 3, 4).requires_grad_(), draw(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: _tiled.contrast(a, c, 1, 0.5, 2), (anchors, candidates))
    assert torch.autograd.gradcheck(lambda a: _tiled.contrast(a, None, 0, 0.5, 2), (anchors,))
    for shape in ((3, 5), (5, 3)):
        a, b = draw(*shape).requires_grad_(), draw(*shape[::-1]).T.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: _tiled.off_diagonal(z, 2), (a,))
        assert torch.autograd.gradcheck(lambda a, b: _tiled.product_squares(a, b, 2), (a, b))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_off_diagonal_squares_are_those_of_the_masked_matrix(shape: tuple[int, int], tile: int) -> None:
    mask = 1 - torch.eye(shape[1], dtype=torch.float64)
    assert_same(lambda z: _tiled.off_diagonal(z, tile), lambda z: ((z.T @ z) * mask).square().sum(), draw(*shape))


@pytest.mark.parametrize("tile", TILES)
def test_product_squares_are_those_of_the_product(tile: int) -> None:
    x = draw(2, 4, 9)
    assert_same(lambda x: _tiled.product_squares(x[0], x[1], tile), lambda x: (x[0].T @ x[1]).square().sum(), x)


@pytest.mark.parametrize("shape", [(40, 200), (200, 40)])
def test_fp32_covariance_is_as_close_to_float64_as_the_plain_form_is(shape: tuple[int, int]) -> None:
    z = draw(*shape)
    z = z - z.mean(0)
    value, gradient = both(vicreg.off_diagonal_squares, z)
    found, slope = both(lambda z: _tiled.off_diagonal(z, 32) / (len(z) - 1) ** 2, z.float())
    assert float((found - value).abs() / value) < 1e-5
    assert float((slope - gradient).norm() / gradient.norm()) < 1e-5


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor made inside had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(each.numel() for each in tree_leaves(found) if isinstance(each, Tensor))])
        return found


def largest(loss: Loss, x: Tensor) -> int:
    x = x.requires_grad_()
    with Largest() as seen:
        loss(x).backward()
    return seen.elements


def test_no_tensor_is_larger_than_the_embeddings_or_a_tile() -> None:
    z, x, wide = draw(2, 100, 3), draw(100, 100), draw(2, 20, 90)
    assert largest(lambda z: simclr.nt_xent(z, 0.1), z) == 200 * 200
    assert largest(lambda z: _tiled.contrast(z, None, 0, 0.1, 16), z) == z.numel()
    assert largest(lambda z: _tiled.contrast(z, z, 0, 0.1, 16), z) == z.numel()
    assert largest(lambda z: _tiled.off_diagonal(z, 16), x) == x.numel()
    assert largest(lambda z: _tiled.product_squares(z[0], z[1], 8), wide) == wide.numel()


@pytest.mark.parametrize(
    ("room", "limit", "size", "loss", "x", "tiled"),
    [
        (simclr, "ALONE", 18 * 18, lambda z: simclr.nt_xent(z, 0.1), draw(2, 9, 4), "contrast"),
        (vicreg, "PLAIN", 9 * 12, vicreg.off_diagonal_squares, draw(9, 12), "off_diagonal"),
        (barlow, "PLAIN", 12 * 12, lambda z: torch.stack([x.sum() for x in barlow.correlations(z[0], z[1])]).sum(),
         draw(2, 6, 12), "product_squares"),
    ],
    ids=["simclr", "vicreg", "barlow"],
)  # fmt: skip
def test_an_objective_changes_form_above_its_limit_and_nothing_else(
    room: Any, limit: str, size: int, loss: Loss, x: Tensor, tiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, form = [], getattr(room, tiled)
    monkeypatch.setattr(room, tiled, lambda *args: (calls.append(1), form(*args))[1])
    monkeypatch.setattr(room, limit, size * 8)
    plain = both(loss, x)
    assert not calls
    monkeypatch.setattr(room, limit, size * 8 - 1)
    found = both(loss, x)
    assert calls
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_barlow_keeps_the_correlation_where_images_are_more_than_half_the_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barlow, "PLAIN", 0)
    monkeypatch.delattr(barlow, "product_squares")
    z = draw(2, 7, 12)
    torch.testing.assert_close(barlow.correlations(z[0], z[1])[1], (z[0].T @ z[1] / 7).square().sum())


def test_512_images_of_1024_dimensions_keep_the_plain_forms() -> None:
    z = torch.empty(0)
    assert not _tiled.large(1024, 1024, z, simclr.ALONE)
    assert not _tiled.large(512, 1024, z, vicreg.PLAIN)
    assert not _tiled.large(1024, 1024, z, barlow.PLAIN)
    assert _tiled.large(2048, 2048, z, simclr.ALONE)


WORLD, N = 2, 10


def gradient(rows: slice, peers: Peers) -> Tensor:
    """Of tiled NT-Xent on some of the images, by weights that every image passes through."""
    x, weight = draw(2, N, 5), draw(5, 4).requires_grad_()
    return torch.autograd.grad(simclr.nt_xent(x[:, rows] @ weight, 0.15, peers), weight)[0]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    simclr.TOGETHER = 0
    simclr.contrast = functools.partial(_tiled.contrast, tile=3)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    share = N // WORLD
    torch.save(gradient(slice(rank * share, (rank + 1) * share), Peers(rank, WORLD)), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_in_tiles_give_the_gradient_of_one_without(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    together = torch.stack([torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]).mean(0)
    alone = gradient(slice(None), Peers())
    assert float(alone.abs().max()) > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-12)
