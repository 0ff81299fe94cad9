"""Retention beside what is known exactly: samplers of a Gaussian model, ranks by sorting, the trust rule's edges."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import rankdata

from wingspan.inputs import Inputs
from wingspan.rcdm import retention
from wingspan.rcdm.retention import r2, ranks, reciprocal, retained, verdict


def gaussian(n=4000, k=6, told=0.7, scale=1.0, shift=0.0, samples=2, seed=0):
    """x = m + noise of variance 1 - told; samples of the same law, or of another spread, or about another mean."""
    drawn = torch.Generator().manual_seed(seed)
    m = math.sqrt(told) * torch.randn(n, k, generator=drawn)
    left = math.sqrt(1 - told)
    x = m + left * torch.randn(n, k, generator=drawn)
    return x, m + shift + scale * left * torch.randn(samples, n, k, generator=drawn), m


@pytest.mark.parametrize("told", [0.1, 0.7, 0.95])
def test_an_exact_sampler_is_calibrated_and_retains_what_is_told(told):
    x, samples, m = gaussian(told=told)
    found = retained(x, samples, torch.zeros(6), 0)
    assert found.kappa[0] == pytest.approx(1, abs=0.03)
    assert found.tau[0] == pytest.approx(told, abs=0.02)
    assert found.rho[0] == pytest.approx(told, abs=0.02)
    assert r2(x, m, torch.zeros(6), 0)[0] == pytest.approx(told, abs=0.02)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_sampler_of_the_wrong_spread_is_told_by_kappa(scale):
    x, samples, _ = gaussian(told=0.6, scale=scale)
    found = retained(x, samples, torch.zeros(6), 0)
    assert found.kappa[0] == pytest.approx((1 + scale**2) / (2 * scale**2), rel=0.03)
    assert found.tau[0] == pytest.approx(1 - 0.4 * (1 + scale**2) / 2, abs=0.02)
    assert found.rho[0] == pytest.approx(1 - 0.4 * scale**2, abs=0.02)


def test_a_sampler_about_the_wrong_mean_loses_retention_and_calibration():
    x, samples, _ = gaussian(told=0.6, shift=0.5)
    found = retained(x, samples, torch.zeros(6), 0)
    assert found.tau[0] == pytest.approx(1 - (0.8 + 0.25) / 2, abs=0.02)
    assert found.kappa[0] == pytest.approx((0.8 + 0.25) / 0.8, rel=0.04)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(60):
        x, samples, _ = gaussian(n=150, told=0.6, seed=seed)
        _, low, high = retained(x, samples, torch.zeros(6), seed).tau
        held += low <= 0.6 <= high
    assert 50 <= held <= 60


def test_means_may_differ_by_image():
    x, samples, _ = gaussian(n=50)
    same = retained(x, samples, torch.full((6,), 0.3), 0)
    assert retained(x, samples, torch.full((50, 6), 0.3), 0) == same
    assert retained(x, samples, torch.full((6,), 0.9), 0) != same


def test_samples_that_never_vary_are_infinitely_ill_calibrated_unless_right():
    x = torch.randn(20, 3)
    assert retained(x, torch.zeros(2, 20, 3), torch.zeros(3), 0).kappa[0] == math.inf
    perfect = retained(x, x.expand(2, -1, -1), torch.zeros(3), 0)
    assert perfect.kappa[0] == perfect.tau[0] == 1


def test_ranks_are_those_of_a_sorted_list():
    drawn = torch.Generator().manual_seed(0)
    bank = torch.randn(300, 7, generator=drawn)
    among = Inputs(bank)
    h, rows = torch.randn(40, 7, generator=drawn), torch.randint(300, (40,), generator=drawn)
    found = ranks(h, among, rows)
    for query, row, rank in zip(h, rows.tolist(), found.tolist(), strict=True):
        assert rank == rankdata((bank - query).square().sum(1).numpy())[row]


def test_ranks_in_parts_are_the_same_and_the_source_itself_comes_first(monkeypatch):
    bank = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 299, 0])
    assert ranks(bank[rows], Inputs(bank), rows).tolist() == [1, 1, 1]
    whole = ranks(bank[rows] * 0.5, Inputs(bank), rows)
    monkeypatch.setattr(retention, "_AT_ONCE", 50)
    assert torch.equal(ranks(bank[rows] * 0.5, Inputs(bank), rows), whole)


def test_a_constant_representation_ranks_everyone_in_the_middle_as_chance_does():
    bank = Inputs(torch.zeros(101, 1))
    found = ranks(torch.zeros(2, 1), bank, torch.tensor([0, 50]))
    assert found.tolist() == [51, 51]
    told = reciprocal(found.view(1, 2), 101, 0)
    assert told["median rank"][0] == told["median rank"][3] == 51


def test_chance_of_the_reciprocal_rank_is_that_of_ranks_drawn_evenly():
    drawn = torch.randint(1, 1001, (2, 4000), generator=torch.Generator().manual_seed(0)).float()
    value, low, high, chance = reciprocal(drawn, 1000, 0)["mrr"]
    assert chance == pytest.approx(sum(1 / r for r in range(1, 1001)) / 1000)
    assert low < chance < high and low < value < high


def test_the_trust_rule():
    assert verdict(0.5, 1.0, 0.54) is None
    assert verdict(0.5, 0.8, 0.5) is verdict(0.5, 1.25, 0.5) is None
    assert "tau 0.50 is more than 0.05 below the 0.56" in verdict(0.5, 1.0, 0.56)
    assert "kappa 0.79 lies outside 0.8 to 1.25" in verdict(0.5, 0.79, 0.0)
    assert verdict(0.5, 1.3, 0.9).count(" and ") == 1
    assert verdict(math.nan, math.nan, 0.5) and verdict(0.5, math.inf, 0.1)


def test_a_factor_that_does_not_vary_is_told_and_breaks_nothing():
    x = torch.full((20, 3), 0.25)
    found = retained(x, x + torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)), x[0], 0)
    assert found.tau[0] == -math.inf and found.kappa[0] > 0
    assert math.isnan(retained(x, x.expand(2, -1, -1), x[0], 0).tau[0])
    assert math.isnan(r2(x, x, x[0], 0)[0])
    assert verdict(math.nan, 1.0, 0.0) == verdict(-math.inf, 1.0, 0.0) == "do not read (these images do not differ in it)"


def test_an_h_that_is_not_finite_ranks_its_source_last():
    bank = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    h = bank[[3, 4]].clone()
    h[0, 1] = math.nan
    assert ranks(h, Inputs(bank), torch.tensor([3, 4])).tolist() == [30, 1]


def test_ties_among_binary_features_share_their_ranks_at_any_width():
    drawn = torch.Generator().manual_seed(1)
    bank = (torch.rand(500, 6, generator=drawn) > 0.5).half().repeat(1, 300)  # few distinct rows, many ties
    among = Inputs(bank).standardised()
    rows = torch.arange(0, 500, 17)
    h = among.rows(rows).roll(1, 0)
    whole = among.rows(slice(None)).double()
    expected = [
        rankdata((whole - q).square().sum(1).round(decimals=3).numpy())[r] for q, r in zip(h.double(), rows, strict=True)
    ]
    assert ranks(h, among, rows).tolist() == expected


def test_ranks_of_one_sample_each_need_no_second_dimension():
    drawn = torch.randint(1, 101, (50,), generator=torch.Generator().manual_seed(0)).float()
    assert reciprocal(drawn, 100, 0) == reciprocal(drawn.view(1, 50), 100, 0)
    assert reciprocal(drawn, 100, 0)["mrr"][0] == pytest.approx(float((1 / drawn.double()).mean()))
