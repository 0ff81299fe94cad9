from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wingspan import projector
from wingspan.chance import generator
from wingspan.streaming import linear
from wingspan.streaming.linear import LargeLinear


class Largest(TorchDispatchMode):
    """The most bytes of a tensor that an operation makes, of any type but fp32."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype != torch.float32:
            self.found = max(self.found, made.nbytes)
        return made


def step(layer: nn.Module, h: Tensor) -> list[Tensor]:
    h = h.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(h)
    y.backward(torch.randn(y.shape, generator=generator(1, "above")).to(y.dtype))
    return [y.detach(), *(x.grad for x in (h, *layer.parameters()) if x.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("part", [1, 700, 2**24])
def test_it_is_linear_under_autocast_with_no_copy_of_the_matrix(bias: bool, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_PART", part)
    plain = nn.Linear(150, 90, bias=bias)
    large = LargeLinear(150, 90, bias=bias)
    large.load_state_dict(plain.state_dict())
    h = torch.randn(7, 150, generator=generator(0, "h"))
    theirs = step(plain, h)
    with Largest() as most:
        ours = step(large, h)
    assert len(ours) == (4 if bias else 3)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
    assert most.found <= max(2 * max(part, 150), 2 * 7 * 150)


def test_it_is_linear_without_autocast_and_when_frozen() -> None:
    large = LargeLinear(30, 20).double()
    plain = nn.Linear(30, 20).double()
    plain.load_state_dict(large.state_dict())
    h = torch.randn(5, 30, dtype=torch.float64)
    assert torch.equal(large(h), plain(h))
    frozen = copy.deepcopy(large).float().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not frozen(h.float()).requires_grad
        x = h.float().requires_grad_()
        (gradient,) = torch.autograd.grad(frozen(x).sum(), x)
    torch.testing.assert_close(gradient, frozen.weight.sum(0).expand_as(x), rtol=2e-2, atol=2e-2)


def test_only_large_matrices_are_of_this_kind_and_the_weights_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kinds() -> tuple[list[type], list[Tensor]]:
        torch.manual_seed(0)
        built = projector.build("60-50", 200)
        return [type(each) for each in built if isinstance(each, nn.Linear)], list(built.parameters())

    plain, weights = kinds()
    monkeypatch.setattr(linear, "LARGE", 200 * 60)
    large, same = kinds()
    assert plain == [nn.Linear, nn.Linear] and large == [LargeLinear, nn.Linear]
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
