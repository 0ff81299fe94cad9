"""Batch norm over two processes against batch norm of the whole batch, in the precisions and layouts of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import several
import torch
import torch.distributed as dist
import torch.nn.functional as F

from wingspan.synced import synced

CASES = {
    (dtype, shape): tolerance
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 2e-2))
    for shape in ((12, 24), (12, 24, 5), (12, 24, 4, 6))
}
ROWS = (slice(0, 5), slice(5, 12))  # as many as a process happens to have


def whole(dtype: torch.dtype, shape: tuple[int, ...], rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """What batch norm gives and leaves, and its gradients, for some rows of a batch."""
    draw = torch.Generator().manual_seed(len(shape))
    x, dy = (torch.randn(shape, generator=draw, dtype=torch.float64) * 2 + 3 for _ in range(2))
    made = torch.promote_types(dtype, torch.float32)
    weight, bias = (torch.randn(shape[1], generator=draw, dtype=torch.float64).to(made).requires_grad_() for _ in range(2))
    mean, variance = torch.zeros(shape[1], dtype=made), torch.ones(shape[1], dtype=made)
    x = x.to(dtype)[rows]
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = F.batch_norm(x, mean, variance, weight, bias, True, 0.1)
    y.backward(dy.to(dtype)[rows])
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    return {"y": y.detach(), "dx": x.grad, "mean": mean, "variance": variance, "dw": weight.grad, "db": bias.grad}


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    found = {}
    for case in CASES:
        with synced(2):
            found[str(case)] = whole(*case, rows=ROWS[rank])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("synced")
    several.spawn(work, 2, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_normalise_as_one(case, halves) -> None:
    dtype, tolerance = case[0], CASES[case]
    one, (first, second) = whole(*case), [each[str(case)] for each in halves]
    for name in ("y", "dx"):
        assert first[name].dtype == dtype
        torch.testing.assert_close(torch.cat([first[name], second[name]]), one[name], rtol=tolerance, atol=tolerance * 4)
    for name in ("mean", "variance"):
        torch.testing.assert_close(first[name], one[name], rtol=tolerance, atol=tolerance)
        assert torch.equal(first[name], second[name])
    for name in ("dw", "db"):
        torch.testing.assert_close(
            first[name] + second[name], one[name], rtol=tolerance, atol=tolerance * 200
        )  # sums that cancel
