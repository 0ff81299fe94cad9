"""The loss averaged over processes has the gradient of one process that holds the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from wingspan.chance import generator
from wingspan.objectives.barlow import Barlow
from wingspan.objectives.base import Batch, Objective
from wingspan.objectives.simclr import SimCLR
from wingspan.objectives.vicreg import VICReg
from wingspan.runtime import Peers

WORLD, N = 2, 6
OBJECTIVES: dict[str, Objective] = {"simclr": SimCLR(), "vicreg": VICReg(), "barlow": Barlow()}
WIDTHS = (3, 8)  # fewer and more dimensions than images
CASES = [(name, K) for name in OBJECTIVES for K in WIDTHS]


def gradient(objective: Objective, K: int, rows: slice, peers: Peers) -> Tensor:
    """Of the loss on some of the images, by weights that every image passes through."""
    draw = generator(K, "test")
    x = torch.randn(2, N, 5, generator=draw, dtype=torch.float64)
    weight = torch.randn(5, K, generator=draw, dtype=torch.float64).requires_grad_()
    terms = objective.terms(Batch(x[:, rows] @ weight, peers=peers))
    return torch.autograd.grad(torch.stack(list(terms.values())).sum(), weight)[0]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    share = N // WORLD
    rows = slice(rank * share, (rank + 1) * share)
    found = {f"{name} {K}": gradient(OBJECTIVES[name], K, rows, Peers(rank, WORLD)) for name, K in CASES}
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Every process's gradients."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize(("name", "K"), CASES)
def test_two_processes_give_the_gradient_of_one(name: str, K: int, shares: list[dict[str, Tensor]]) -> None:
    together = torch.stack([share[f"{name} {K}"] for share in shares]).mean(0)
    alone = gradient(OBJECTIVES[name], K, slice(None), Peers())
    assert float(alone.abs().max()) > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-10)
    half = gradient(OBJECTIVES[name], K, slice(N // WORLD), Peers())
    assert not torch.allclose(together, half, rtol=1e-3), "half a batch must give another gradient, or this test shows nothing"
