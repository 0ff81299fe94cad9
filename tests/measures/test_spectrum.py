from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split
from wingspan.measures import _curves
from wingspan.measures.base import NotApplicableError
from wingspan.measures.spectrum import Spectrum, eigenvalues, power_law, rounding


def bank(h: Tensor) -> Bank:
    def split(values: Tensor) -> Split:
        return Split(values.half(), ImageSet(InMemory(torch.zeros(len(values), 3, 1, 1, dtype=torch.uint8))))

    return Bank("made", split(h[:0]), split(h), "0")


def read(h: Tensor, probe: Spectrum = Spectrum()) -> dict[tuple[str, str], float]:
    return {(number.metric, number.series): number.value for number in probe.measure(bank(h), seed=0).numbers}


def planted(N: int, D: int, singular: Tensor, *, centred: bool = False) -> Tensor:
    """(N, D) with exactly these singular values, before it is rounded; `centred`: every column's mean is 0."""
    draw = generator(0, "spectrum test", N, D)
    left = torch.randn(N, len(singular), generator=draw, dtype=torch.float64)
    if centred:
        left -= left.mean(0)
    right = torch.randn(D, len(singular), generator=draw, dtype=torch.float64)
    return torch.linalg.qr(left)[0] * singular @ torch.linalg.qr(right)[0].T


@pytest.mark.parametrize("D", [512, 2048, 32768])
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
def test_fifty_equal_directions_read_as_fifty_at_every_width(D: int, kept: torch.dtype) -> None:
    h = planted(200, D, torch.full((50,), 30.0 * math.sqrt(D)))
    found = read(h.to(kept))
    assert found["rank", "uncentred"] == 50
    assert found["rankme", "uncentred"] == pytest.approx(50, abs=0.01)
    assert found["participation ratio", "uncentred"] == pytest.approx(50, abs=0.01)
    assert found["stable rank", "uncentred"] == pytest.approx(50, abs=0.3)


def test_fifty_equal_directions_read_as_fifty_with_more_images_than_dimensions() -> None:
    found = read(planted(1500, 128, torch.full((50,), 300.0)))
    assert found["rank", "uncentred"] == 50 and found["rankme", "uncentred"] == pytest.approx(50, abs=0.01)


@pytest.mark.parametrize(("N", "D"), [(90, 40), (40, 90), (64, 70), (70, 64)])
def test_both_grams_give_what_the_singular_values_of_the_whole_matrix_give(N: int, D: int) -> None:
    draw = generator(1, "spectrum test")
    h = (torch.rand(N, D, generator=draw) @ torch.diag(torch.linspace(0.1, 2, D))).half()
    found = read(h)
    whole = h.numpy().astype(float)
    for series, matrix in (("uncentred", whole), ("centred", whole - whole.mean(0))):
        sigma = np.linalg.svd(matrix, compute_uv=False)
        sigma = sigma[sigma > 1e-9]
        p = sigma / sigma.sum()
        assert found["rankme", series] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
        assert found["participation ratio", series] == pytest.approx((sigma**2).sum() ** 2 / (sigma**4).sum(), rel=1e-9)
        assert found["stable rank", series] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-9)
        assert found["rank", series] == len(sigma) == min(N - (series == "centred"), D)


def test_a_common_mean_is_a_direction_of_the_uncentred_spectrum_only() -> None:
    h = planted(300, 64, torch.full((20,), 100.0), centred=True) + 50
    found = read(h)
    assert found["rank", "uncentred"] == 21 and found["rank", "centred"] == 20
    assert found["rankme", "centred"] == pytest.approx(20, abs=0.01)
    assert found["rankme", "uncentred"] < 15


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("D", [200, 1000])
def test_a_power_law_gives_its_exponent(alpha: float, D: int) -> None:
    k = torch.arange(1, 151, dtype=torch.float64)
    h = planted(400, D, 1e4 * k ** (-alpha / 2), centred=True)
    assert read(h)["alpha", "centred"] == pytest.approx(alpha, abs=0.01)


def test_alpha_is_numpys_weighted_line() -> None:
    k = np.arange(11, 101)
    values = k**-1.3 * np.exp(np.sin(k / 5))
    slope, _ = np.polyfit(np.log(k), np.log(values), 1, w=1 / np.sqrt(k))  # numpy weighs residuals, not their squares
    padded = torch.from_numpy(np.concatenate([np.full(10, 7.0), values, np.full(50, 1e-9)]))
    assert power_law(padded, 11, 100) == pytest.approx(-slope, rel=1e-9)


def test_alpha_looks_at_its_range_of_indices_only_and_needs_five_of_them() -> None:
    k = torch.arange(1, 101, dtype=torch.float64)
    h = planted(400, 120, 1e4 * torch.where(k <= 20, k**-0.5, 20**0.5 / k), centred=True)
    assert read(h, Spectrum(fit=(1, 20)))["alpha", "centred"] == pytest.approx(1, abs=0.01)
    assert read(h, Spectrum(fit=(21, 90)))["alpha", "centred"] == pytest.approx(2, abs=0.01)
    assert ("alpha", "centred") not in read(h[:, :14], Spectrum(fit=(11, 100)))


@pytest.mark.parametrize(("N", "D"), [(300, 40), (100, 900)])
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
def test_rounding_is_bounded_by_what_is_computed_and_not_far_below(N: int, D: int, kept: torch.dtype) -> None:
    exact = torch.rand(N, D, generator=generator(2, "spectrum test")) * torch.logspace(-3, 1, D)
    noise = exact.to(kept).half().double() - exact.double()
    largest = float(torch.linalg.svdvals(noise)[0])
    bound = rounding(exact.to(kept).half())
    assert largest <= bound <= 2 * largest


def test_zeros_have_no_rounding_and_the_smallest_numbers_have_fp16s_last_step() -> None:
    h = torch.zeros(4, 3).half()
    assert rounding(h) == 0
    h[1, 2] = 2.0**-20 + 2.0**-24  # subnormal, and no bf16 number once more bits are used elsewhere
    h[0, 0] = 1 + 2.0**-10
    row, column = math.sqrt(2.0**-20 / 12), math.sqrt(2.0**-20 / 12)
    assert rounding(h) == pytest.approx(row + column)
    assert rounding(h[1:]) == pytest.approx(2 * math.sqrt(2.0**-48 / 12))


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_standard_error_is_the_spread_over_fresh_images(decay: float) -> None:
    D, draw = 24, generator(3, "spectrum test")
    scale = torch.arange(1, D + 1) ** -decay
    runs = [Spectrum().measure(bank(torch.randn(320, D, generator=draw) * scale), seed=0).numbers for _ in range(60)]
    for at, number in enumerate(runs[0]):
        if number.metric == "rank":
            assert number.error is None
            continue
        values = torch.tensor([numbers[at].value for numbers in runs])
        told = torch.tensor([numbers[at].error or 0.0 for numbers in runs]).mean()
        assert 0.65 < float(told / values.std()) < 1.6, (number.metric, number.series)


def test_scale_changes_nothing_and_a_seed_draws_its_images() -> None:
    h = torch.rand(300, 32, generator=generator(4, "spectrum test")) * torch.linspace(0.1, 1, 32)
    probe = Spectrum(images=100)
    first = probe.measure(bank(h), seed=0)
    assert all(number.n == 100 for number in first.numbers)
    assert [number.value for number in probe.measure(bank(h), seed=0).numbers] == [n.value for n in first.numbers]
    larger, other = probe.measure(bank(h.half() * 8), seed=0), probe.measure(bank(h), seed=1)
    assert [n.value for n in larger.numbers] == pytest.approx([n.value for n in first.numbers], rel=1e-9)
    assert [n.value for n in other.numbers] != [n.value for n in first.numbers]


def test_the_curve_is_the_eigenvalues_share_and_the_notes_say_what_limits_a_rank() -> None:
    found = Spectrum().measure(bank(planted(60, 100, torch.tensor([4.0, 2.0, 2.0]) * 100)), seed=0)
    curve = next(curve for curve in found.curves if curve.series == "uncentred")
    assert curve.x == (1, 2, 3) and curve.y == pytest.approx((4 / 6, 1 / 6, 1 / 6), abs=1e-3)
    assert any("at most 60" in note for note in found.notes) and any(
        "60 images are few for D = 100" in note for note in found.notes
    )
    long = Spectrum().measure(bank(torch.rand(800, 700, generator=generator(5, "spectrum test"))), seed=0).curves[0]
    assert len(long.x) <= 256 and long.x[0] == 1 and long.x[-1] == 700


@pytest.mark.parametrize(("N", "D"), [(90, 40), (40, 90)])
def test_parts_change_nothing(N: int, D: int, monkeypatch: pytest.MonkeyPatch) -> None:
    h = torch.rand(N, D, generator=generator(6, "spectrum test")).half()
    whole, bound = eigenvalues(h), rounding(h)
    monkeypatch.setattr(_curves, "_ELEMENTS", 300)
    assert rounding(h) == pytest.approx(bound, rel=1e-9)
    for series, values in eigenvalues(h).items():
        torch.testing.assert_close(values, whole[series], rtol=1e-9, atol=1e-9)


def test_what_has_no_spectrum_is_not_applicable_and_bad_settings_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="every feature of 'made' is 0"):
        Spectrum().measure(bank(torch.zeros(20, 5)), seed=0)
    with pytest.raises(NotApplicableError, match="1 test images"):
        Spectrum().measure(bank(torch.ones(1, 5)), seed=0)
    alike = read(torch.ones(40, 6))
    assert alike["rankme", "uncentred"] == pytest.approx(1) and ("rankme", "centred") not in alike
    with pytest.raises(UserError, match="images 1 "):
        Spectrum(images=1)
    with pytest.raises(UserError, match=r"fit \(5, 7\)"):
        Spectrum(fit=(5, 7))
