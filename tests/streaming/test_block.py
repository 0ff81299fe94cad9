"""The streamed block against the plain one, module by module: output, every gradient, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from last_blocks import drawn, errors, everything, made, plain, streamed
from torch import Tensor, nn

from wingspan.backbones.resnet import Block, ResNet
from wingspan.chance import generator
from wingspan.streaming import _branch, _native, _plain, block, rule

NATIVE = pytest.param(_native, marks=pytest.mark.skipif(not rule.compiled(), reason="no C++ compiler here"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("keep", [0, 2 * 5 * 6 * 8 * 8, 2**40], ids=["nothing kept", "two chunks kept", "all kept"])
@pytest.mark.parametrize("K", [3, 60], ids=["by the square of the inputs", "by the output"])
@pytest.mark.parametrize("kind", ["bottleneck projection", "bottleneck identity", "basic projection", "basic identity"])
def test_equals_the_plain_block_in_float64(
    kind: str, K: int, keep: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_branch, "_TILE", 2)  # several tiles of a symmetric matrix even where it is small
    built = made(kind, K, K + 1, 30).train(training)
    built.last_norm.running_mean.normal_(generator=generator(3, "running"))  # type: ignore[union-attr]
    h, x = drawn(built, 5, (3, 2))
    true = everything(built, h, x, plain)
    assert {"r", "h", "x", "conv3.weight" if built.bottleneck else "conv2.weight"} <= true.keys()
    assert max(errors(everything(built, h, x, streamed(keep=keep, chunk=8)), true).values()) < 1e-13


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["bottleneck projection", "bottleneck identity", "basic projection", "basic identity"]),
    N=st.integers(2, 7), side=st.tuples(st.integers(1, 5), st.integers(1, 4)), inner=st.integers(1, 12),
    inputs=st.integers(1, 12), D=st.integers(1, 70), chunk=st.integers(1, 80), keep=st.integers(0, 10_000),
    training=st.booleans(),
)  # fmt: skip
def test_any_shape_in_any_chunks(
    kind: str, N: int, side: tuple[int, int], inner: int, inputs: int, D: int, chunk: int, keep: int, training: bool
) -> None:
    built = made(kind, inner, inputs, D).train(training)
    h, x = drawn(built, N, side)
    found, true = everything(built, h, x, streamed(keep=keep, chunk=chunk)), everything(built, h, x, plain)
    for name, value in true.items():  # of two rows batch norm leaves hardly a gradient: its own rounding is then all there is
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("kernels", [_plain, NATIVE])
@pytest.mark.parametrize("kind", ["bottleneck projection", "bottleneck identity", "basic projection"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 6e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("keep", [0, 2**40])
@pytest.mark.parametrize("training", [True, False])
def test_low_precision_is_as_good_as_the_plain_blocks(
    kind: str, dtype: torch.dtype, bound: float, keep: int, training: bool, kernels: object
) -> None:
    """Against float64: within the bound, and within 1.5 times the plain block's own error (or a tenth of the bound)."""
    built = made(kind, 24, 40, 150, torch.float32).train(training)
    h, x = drawn(built, 16, (7, 7), dtype)
    bf16 = dtype == torch.bfloat16
    true = everything(copy.deepcopy(built).double(), h.double(), x.double(), plain)
    theirs = errors(everything(built, h, x, plain, bf16), true)
    ours = errors(everything(built, h, x, streamed(keep=keep, kernels=kernels, chunk=64), bf16), true)
    for name, error in ours.items():
        assert error < bound, name
        assert error < max(1.5 * theirs[name], bound / 10), name


def test_gradcheck() -> None:
    built = made("bottleneck projection", 3, 4, 7)
    h, x = drawn(built, 3, (2, 2))
    names = ("conv3.weight", "bn3.weight", "bn3.bias", "downsample.0.weight", "downsample.1.weight", "downsample.1.bias")

    def by(h: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
        c, g, b, sc, sg, sb = weights
        conv, norm, shortcut, shortcut_norm = (copy.deepcopy(m) for m in (built.conv3, built.bn3, *built.downsample))  # type: ignore[misc]
        for module, name, value in ((conv, "weight", c), (norm, "weight", g), (norm, "bias", b), (shortcut, "weight", sc),
                                    (shortcut_norm, "weight", sg), (shortcut_norm, "bias", sb)):  # fmt: skip
            del module._parameters[name]
            setattr(module, name, value)
        return block.pooled(h, x, conv, norm, shortcut, shortcut_norm, chunk=4, keep=0)  # type: ignore[arg-type]

    weights = [dict(built.named_parameters())[name].detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(by, (h.requires_grad_(), x.requires_grad_(), *weights))


@pytest.mark.parametrize("kernels", [_plain, NATIVE])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)], ids=["fp32", "bf16"])
def test_a_mean_far_above_the_spread_costs_nothing(dtype: torch.dtype, bound: float, kernels: object) -> None:
    built = made("bottleneck projection", 24, 40, 100, torch.float32)
    h, x = (t.mul(1 / 8).add(30).to(dtype) for t in drawn(built, 16, (7, 7)))
    true = everything(copy.deepcopy(built).double(), h.double(), x.double(), plain)
    ours = errors(everything(built, h, x, streamed(keep=0, kernels=kernels), dtype == torch.bfloat16), true)
    theirs = errors(everything(built, h, x, plain, dtype == torch.bfloat16), true)
    weights = [name for name in true if "running" not in name]
    assert max(ours[name] for name in weights) < bound
    assert max(theirs[name] for name in weights) > 3 * max(ours[name] for name in weights)  # what centring is for


@pytest.mark.parametrize("kernels", [_plain, NATIVE])
def test_constant_channels_give_finite_gradients_and_a_constant_output(kernels: object) -> None:
    built = made("bottleneck projection", 8, 8, 20, torch.float32)
    with torch.no_grad():
        built.conv3.weight[3] = 0
        built.downsample[0].weight[3] = 0  # type: ignore[index,union-attr]
    h, x = drawn(built, 6, (3, 3), torch.float32)
    found = everything(built, h, x, streamed(kernels=kernels))
    constant = F.relu(built.bn3.bias[3] + built.downsample[1].bias[3])  # type: ignore[index,union-attr,operator]
    torch.testing.assert_close(found["r"][:, 3].float(), constant.detach().expand(6))
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_one_image_in_evaluation_and_one_value_in_training() -> None:
    built = made("bottleneck projection", 4, 5, 9)
    h, x = drawn(built, 1, (1, 1))
    torch.testing.assert_close(streamed()(built.eval(), h, x), plain(built, h, x))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        streamed()(built.train(), h, x)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_once_a_pass_with_or_without_gradients(momentum: float | None) -> None:
    built = made("bottleneck projection", 4, 5, 9)
    for norm in (built.bn3, built.downsample[1]):  # type: ignore[index]
        norm.momentum = momentum
    other = copy.deepcopy(built)
    h, x = drawn(built, 4, (2, 2))
    with torch.no_grad():
        plain(built, h, x)
        streamed(chunk=4)(other, h, x)
    plain(built, h * 2, x + 1)
    streamed(chunk=4)(other, h * 2, x + 1)
    assert int(other.bn3.num_batches_tracked) == 2
    for name, value in built.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), value, rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    built = made("bottleneck projection", 4, 5, 30)
    h, x = drawn(built, 4, (2, 2))
    h.requires_grad_()
    r = streamed(chunk=8)(built, h, x)
    first = torch.autograd.grad(r.square().sum(), [h, built.conv3.weight], retain_graph=True)
    second = torch.autograd.grad(r.square().sum(), [h, built.conv3.weight])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kernels", [_plain, NATIVE])
def test_a_nan_reaches_the_loss(kernels: object) -> None:
    built = made("bottleneck projection", 4, 5, 9, torch.float32)
    h, x = drawn(built, 4, (2, 2), torch.float32)
    h[1, 2, 0, 0] = float("nan")
    assert streamed(kernels=kernels)(built, h, x).isnan().any()


def test_rows_in_another_memory_order() -> None:
    built = made("basic projection", 4, 5, 30)
    h, x = drawn(built, 4, (3, 3))
    true = everything(built, h, x, plain)
    assert max(errors(everything(built, h.contiguous(), x.contiguous(), streamed()), true).values()) < 1e-12


@pytest.mark.parametrize("arch", ["small", "resnet18"])
@pytest.mark.parametrize("scope", ["block", "stage"])
def test_a_network_streamed_is_the_plain_network_with_the_same_weights(arch: str, scope: str) -> None:
    def net(streamed: str) -> nn.Module:
        torch.manual_seed(0)
        return ResNet(arch=arch, stem="cifar", width=96, width_scope=scope, streamed=streamed).build().double()  # type: ignore[arg-type]

    on, off = net("on"), net("off")
    off.load_state_dict(on.state_dict())  # checkpoints are interchangeable
    images = torch.randn(4, 3, 16, 16, generator=generator(0, "images")).double()
    for training in (True, False):
        ours, theirs = (each.train(training)(images) for each in (on, off))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
        for each, r in ((on, ours), (off, theirs)):
            each.zero_grad()
            r.square().sum().backward()
        for (name, a), (_, b) in zip(on.named_parameters(), off.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-9, msg=name)
    for (name, a), (_, b) in zip(on.named_buffers(), off.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_block_that_strides_is_streamed_behind_its_stride() -> None:
    built = Block(6, 5, 40, 2, bottleneck=True, project=True).double()
    for value in built.parameters():
        nn.init.normal_(value)
    x = torch.randn(3, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(built.pooled(x), built(x).mean((2, 3)))
