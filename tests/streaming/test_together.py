"""Two processes with n images each give what one process gives for 2n: output, gradients, running statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.streaming import block

SHARES = (slice(0, 4), slice(4, 6))  # uneven on purpose
KINDS = [(kernel, K, keep) for kernel in (1, 3) for K in (3, 40) for keep in (0, 2**40)]


def found(kernel: int, K: int, keep: int, rows: slice, together: bool) -> dict[str, Tensor]:
    chance = generator(K, "test")
    h, x = (torch.randn(6, K, 3, 2, generator=chance, dtype=torch.float64).add(0.5).relu() for _ in range(2))
    above = torch.randn(6, 20, generator=chance, dtype=torch.float64)
    conv, shortcut = nn.Conv2d(K, 20, kernel, padding=kernel // 2, bias=False), nn.Conv2d(K, 20, 1, bias=False)
    norms = nn.BatchNorm2d(20), nn.BatchNorm2d(20)
    weights = nn.ModuleList([conv, shortcut, *norms]).double()
    for value in weights.parameters():
        value.data = torch.randn(value.shape, generator=chance, dtype=torch.float64) / value[0].numel() ** 0.5
    h, x = h[rows].requires_grad_(), x[rows].requires_grad_()
    r = block.pooled(h, x, conv, norms[0], shortcut, norms[1], keep=keep, together=together, chunk=8)
    (r * above[rows]).sum().backward()
    parts = {"r": r.detach(), "h": h.grad, "x": x.grad}
    parts |= {f"weight {name}": value.grad for name, value in weights.named_parameters()}
    return {name: value for name, value in (parts | dict(weights.named_buffers())).items() if value is not None}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=len(SHARES))
    torch.save([found(*kind, SHARES[rank], True) for kind in KINDS], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=len(SHARES))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARES))]


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[str(kind) for kind in KINDS])
def test_two_processes_are_one(number: int, shares: list[list[dict[str, Tensor]]]) -> None:
    alone = found(*KINDS[number], slice(None), False)
    parts = [share[number] for share in shares]
    half = found(*KINDS[number], SHARES[0], False)
    for name, value in alone.items():
        if name in ("r", "h", "x"):
            together = torch.cat([part[name] for part in parts])
        elif name.startswith("weight"):
            together = parts[0][name] + parts[1][name]
        else:
            together = parts[0][name]
            assert torch.equal(together, parts[1][name])
        torch.testing.assert_close(together, value, rtol=1e-9, atol=1e-11, msg=name)
    assert not torch.allclose(half["r"], alone["r"][SHARES[0]], rtol=1e-3), "own statistics must differ, or this shows nothing"
