"""The compiled kernels against the same functions in PyTorch, and what happens where they cannot be compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.streaming import _native, _plain, rule

SIZES = [(1, 1, 1), (3, 49, 70), (5, 16, 33), (2, 257, 8), (33, 4, 100)]  # images, positions, channels
compiled = pytest.mark.skipif(not rule.compiled(), reason="no C++ compiler here")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
sizes = pytest.mark.parametrize(("N", "P", "c"), SIZES)


def close(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float32) -> None:
    torch.testing.assert_close(
        a, b, rtol=2e-5 if dtype == torch.float32 else 1e-2, atol=1e-4 if dtype == torch.float32 else 1e-2
    )


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(sum(shape), "values")).to(dtype)


@compiled
@dtypes
@sizes
def test_moments(N: int, P: int, c: int, dtype: torch.dtype) -> None:
    y = values(N * P, c, dtype=dtype) + 3
    for ours, theirs in zip(_native.moments(y), _plain.moments(y.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@compiled
def test_moments_far_from_zero_keep_their_digits() -> None:
    y = 1000 + values(5000, 16)
    _, spread = _native.moments(y)
    torch.testing.assert_close(spread.double(), _plain.moments(y.double())[1], rtol=1e-5, atol=0)


@compiled
@dtypes
@sizes
@pytest.mark.parametrize("second", [False, True])
def test_gate(N: int, P: int, c: int, dtype: torch.dtype, second: bool) -> None:
    y, other = values(N * P, c, dtype=dtype), values(N * P, 2 * c, dtype=dtype)[:, c // 2 : c // 2 + c]
    scale, scale2, shift = values(3, c).unbind()
    found = []
    for kernels in (_native, _plain):
        whole = torch.zeros(N, c + 3)
        bits = kernels.gate(y, other if second else None, scale, scale2, shift, P, whole[:, 2 : 2 + c], True)
        assert not whole[:, :2].any() and not whole[:, 2 + c :].any()
        found.append((whole, bits))
    close(found[0][0], found[1][0])
    differ = _plain.unpack(found[0][1], P) != _plain.unpack(found[1][1], P)
    z = y.double() * scale + (other.double() * scale2 if second else 0) + shift
    assert not (differ & (z.view(N, P, c).abs() > 1e-5)).any()  # only where rounding may decide
    assert _native.gate(y, None, scale, scale2, shift, P, torch.empty(N, c), False) is None


def test_bits_hold_every_position_once() -> None:
    z = values(4, 19, 6)
    bits = _plain.pack(z)
    assert bits.shape == (4, 3, 6) and bits.dtype == torch.uint8
    assert torch.equal(_plain.unpack(bits, 19), (z > 0).to(torch.uint8))


@compiled
@dtypes
@sizes
def test_gradients(N: int, P: int, c: int, dtype: torch.dtype) -> None:
    bits = _plain.pack(values(N, P, c))
    g = values(N, 2 * c)[:, c:]
    y, (mean, scale, middle, slope) = values(N * P, c, dtype=dtype), values(4, c).unbind()
    found = []
    for kernels in (_native, _plain):
        dz, dy = torch.zeros(N * P, 3 * c, dtype=dtype), y.clone()
        total = kernels.spread_gradient(bits, g, P, dz[:, c : 2 * c])
        assert not dz[:, :c].any() and not dz[:, 2 * c :].any()
        kernels.norm_gradient(bits, g, dy, mean, scale, middle, slope, P, dy)
        apart = torch.empty_like(y)
        kernels.norm_gradient(bits, g, y, mean, scale, middle, slope, P, apart)
        assert torch.equal(apart, dy)
        found.append((total, dz, dy, *kernels.sums(bits, g, y, mean, P)))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, ours.dtype)


@compiled
@dtypes
def test_sums_of_products(dtype: torch.dtype) -> None:
    parts, total = values(6, 50, dtype=dtype), values(6, 50)
    ours, theirs = total.clone(), total.clone()
    _native.accumulate(ours, parts)
    _plain.accumulate(theirs, parts)
    close(ours, theirs)
    (scale, slope), filled = values(2, 6).unbind(), torch.empty(2, 6, 50)
    for kernels, out in zip((_native, _plain), filled, strict=True):
        kernels.weight_gradient(parts, parts.flip(0), scale, slope, out)
    close(*filled)


@compiled
def test_bf16_rounds_to_nearest_even_and_keeps_what_is_not_finite() -> None:
    g = torch.cat(
        [values(1000) * 10.0 ** torch.arange(-20, 20).repeat_interleave(25), torch.tensor([float("inf"), float("nan")])]
    )
    dz = torch.empty(1, len(g), dtype=torch.bfloat16)
    _native.spread_gradient(torch.ones(1, 1, len(g), dtype=torch.uint8), g[None], 1, dz)
    torch.testing.assert_close(dz[0], g.bfloat16(), rtol=0, atol=0, equal_nan=True)


BUILD = """
import torch
from wingspan.streaming import _native, rule
print("compiled", rule.compiled())
if rule.compiled():
    print("sum", float(_native.moments(torch.ones(4, 3))[0].sum()))
"""


def build(**environment: str) -> subprocess.CompletedProcess[str]:
    given = {"OMP_NUM_THREADS": "1", **{name: value for name, value in os.environ.items() if name != "WINGSPAN_COMPILER"}}
    done = subprocess.run([sys.executable, "-c", BUILD], env=given | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_without_a_compiler_it_says_so_once_and_goes_on(tmp_path: Path) -> None:
    for compiler, why in (("none", "'none'"), (str(tmp_path / "absent"), "cannot be run"), (sys.executable, "cannot compile")):
        done = build(WINGSPAN_COMPILER=compiler, WINGSPAN_CACHE=str(tmp_path))
        assert "compiled False" in done.stdout
        assert done.stderr.count("runs without its compiled kernels") == 1 and why in done.stderr


@compiled
def test_kernels_are_kept_and_made_again_when_damaged(tmp_path: Path) -> None:
    assert "sum 3.0" in build(WINGSPAN_CACHE=str(tmp_path)).stdout
    (kept,) = tmp_path.glob("kernels-*.so")
    written = kept.stat().st_mtime_ns
    assert "sum 3.0" in build(WINGSPAN_CACHE=str(tmp_path)).stdout
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(b"damaged")
    assert "sum 3.0" in build(WINGSPAN_CACHE=str(tmp_path)).stdout
    assert kept.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [kept]


@compiled
def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "sum 3.0" in build(WINGSPAN_CACHE=str(tmp_path / "file" / "cache")).stdout


def test_what_auto_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    for fast, least in ((True, 2048), (False, 8192)):
        monkeypatch.setattr(rule, "compiled", lambda fast=fast: fast)
        assert rule.chosen("auto", x, least, training=True) and not rule.chosen("auto", x, least - 1, training=True)
    assert rule.chosen("on", x, 1, training=True) and not rule.chosen("off", x, 10**6, training=True)
    assert not rule.chosen("auto", x, 10**6, training=False)
    with torch.no_grad():
        assert rule.chosen("auto", x, 10**6, training=False)
    assert not rule.chosen("auto", torch.zeros(1, device="meta"), 10**6, training=True)
