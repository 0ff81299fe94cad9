"""Binary codes against numpy and against comparing them bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wingspan import bits
from wingspan.chance import generator


def features(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """About half of it zeros, some of it negative."""
    h = torch.randn(rows, width, generator=generator(seed, "test"))
    return h.where(torch.rand(rows, width, generator=generator(seed, "zeros")) < 0.6, 0.0).half()


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 131])
def test_codes_are_what_numpy_packs(width: int) -> None:
    h = features(13, width)
    assert np.array_equal(bits.pack(h).numpy(), np.packbits(h.numpy() > 0, axis=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("width", [1, 8, 21])
def test_unpacking_gives_zeros_and_ones_of_the_width(dtype: torch.dtype, width: int) -> None:
    h = features(5, width)
    found = bits.unpack(bits.pack(h), width, dtype)
    assert found.dtype == dtype and torch.equal(found, (h > 0).to(dtype))


def test_packing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    h = features(50, 100)
    whole = bits.pack(h)
    monkeypatch.setattr(bits, "_PART", 700)
    assert torch.equal(bits.pack(h), whole)


def test_nan_and_zeros_are_no_ones() -> None:
    h = torch.tensor([[float("nan"), 0.0, -0.0, -1.0, 6e-8, float("inf")]]).half()
    assert bits.pack(h).tolist() == [[0b00001100]]


def test_a_mapped_file_is_packed(tmp_path) -> None:
    h = features(20, 33)
    (tmp_path / "h").write_bytes(h.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "h"), shared=True, size=20 * 33, dtype=torch.float16).view(20, 33)
    assert torch.equal(bits.pack(mapped), bits.pack(h))


@pytest.mark.parametrize("exact", [torch.int8, torch.float32])
@pytest.mark.parametrize("width", [1, 12, 300, 5000])
def test_distances_count_the_bits_that_differ(exact: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "_EXACT", exact)
    monkeypatch.setattr(bits, "_PART", 30 * 8 * 50)  # the wide codes take several parts
    a, b = features(19, width, 1), features(11, width, 2)
    found = bits.hamming(bits.pack(a), bits.pack(b))
    assert found.dtype == torch.int32
    assert torch.equal(found, ((a > 0).unsqueeze(1) != (b > 0)).sum(2).int())


def test_wide_codes_are_compared_exactly() -> None:
    a = torch.full((1, 32768 // 8), 255, dtype=torch.uint8)
    b = torch.zeros_like(a)
    b[0, 17] = 0b00010000
    assert bits.hamming(a, b).item() == 32767 and bits.ones(a).item() == 32768 and bits.hamming(a, a).item() == 0


def test_no_codes_at_all() -> None:
    none = bits.pack(features(0, 20))
    assert none.shape == (0, 3) and bits.unpack(none, 20).shape == (0, 20)
    assert bits.hamming(none, bits.pack(features(4, 20))).shape == (0, 4)
