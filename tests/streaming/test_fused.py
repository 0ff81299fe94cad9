"""Fused products: their algebra against the plain block in float64, plain PyTorch as the engine; and the kernels that a GPU
runs, in Triton's interpreter."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from last_blocks import Forward, drawn, errors, everything, made, plain, streamed
from torch import Tensor

from wingspan.streaming import _plain, rule

KINDS = ["bottleneck projection", "bottleneck identity"]


class Engine(ModuleType):
    """What `_triton` computes, the obvious way."""

    @staticmethod
    def forward(U: Tensor, V: Tensor, bias: Tensor, P: int, add: Tensor | None, save: bool) -> tuple[Tensor, Tensor | None]:
        z = (U @ V.t() + bias + (0 if add is None else add)).unflatten(0, (-1, P))
        return torch.relu(z).mean(1), _plain.pack(z) if save else None

    @staticmethod
    def backward(
        U: Tensor, V: Tensor, bits: Tensor, g: Tensor, P: int, want_add: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        dz = (_plain.unpack(bits, P) * (g / P)[:, None]).flatten(0, 1)
        return dz @ V, dz.t() @ U, dz.sum(0), dz if want_add else None


def fused(monkeypatch: pytest.MonkeyPatch) -> Forward:
    monkeypatch.setattr(rule, "engine", lambda x, convolutions: Engine("engine"))
    monkeypatch.setattr("wingspan.streaming.fused._CHANNELS", 7)
    return streamed()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_block_in_float64(kind: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built = made(kind, 5, 6, 30).train(training)
    h, x = drawn(built, 5, (3, 2))
    true = everything(built, h, x, plain)
    assert max(errors(everything(built, h, x, fused(monkeypatch)), true).values()) < 1e-12


def test_a_mean_far_above_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    built = made("bottleneck projection", 24, 40, 60, torch.float32)
    h, x = (t / 8 + 30 for t in drawn(built, 16, (7, 7), torch.float32))
    true = everything(copy.deepcopy(built).double(), h.double(), x.double(), plain)
    found = errors(everything(built, h, x, fused(monkeypatch)), true)
    assert max(error for name, error in found.items() if "running" not in name) < 1e-5


def test_one_row_in_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = made("bottleneck projection", 4, 5, 9)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fused(monkeypatch)(built, *drawn(built, 1, (1, 1)))


INTERPRETED = """
import copy, sys
import torch
from last_blocks import drawn, errors, everything, made, plain, streamed
from wingspan.streaming import rule
for kind in ("bottleneck projection", "bottleneck identity"):
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 6e-2)):
        built = made(kind, 20, 24, 70, torch.float32)
        h, x = drawn(built, 6, (7, 7), dtype)
        assert rule.engine(h, [built.conv3]).__name__.endswith("_triton")
        true = everything(copy.deepcopy(built).double(), h.double(), x.double(), plain)
        found = errors(everything(built, h, x, streamed(), dtype == torch.bfloat16), true)
        assert max(found.values()) < bound, (kind, dtype, found)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed here")
def test_a_block_by_triton_in_its_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr


def test_without_a_gpu_there_is_no_engine_and_wider_kernels_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    built = made("basic projection", 4, 5, 9)
    assert rule.engine(torch.zeros(1), [built.last_conv]) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert rule.engine(torch.zeros(1), [built.last_conv]) is None
    assert rule.engine(torch.zeros(1, dtype=torch.float64), []) is None
