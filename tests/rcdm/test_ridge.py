from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from wingspan.bits import pack
from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.rcdm import _solve, ridge
from wingspan.rcdm.ridge import Ridge, fit


def made(N: int = 90, D: int = 12, P: int = 5, seed: int = 0, dead: int = 1) -> tuple[Inputs, torch.Tensor]:
    """Features of which the last `dead` are constant, and targets that follow from them with some noise."""
    drawn = torch.Generator().manual_seed(seed)
    h = torch.randn(N, D, generator=drawn) * (1 + torch.arange(D)) + 3
    if dead:
        h[:, -dead:] = 0.5
    y = torch.tanh(h[:, :3]) @ torch.randn(3, P, generator=drawn) + 0.3 * torch.randn(N, P, generator=drawn) + 7
    return Inputs(h.half()).standardised(), y


def explicit(inputs: Inputs, y: torch.Tensor, penalty: float, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's maps, one for each fold, for a penalty given as a share of the mean eigenvalue."""
    h, targets = inputs.rows(slice(None)).double().numpy(), y.double().numpy()
    weights, offsets = [], []
    for fold in range(folds):
        seen = np.arange(len(h)) % folds != fold
        centred = h[seen] - h[seen].mean(0)
        alpha = penalty * np.square(centred).sum() / min(h.shape[1], seen.sum() - 1)
        model = Reference(alpha=alpha, solver="cholesky").fit(h[seen], targets[seen])
        weights.append(model.coef_.T)
        offsets.append(model.intercept_)
    return np.stack(weights), np.stack(offsets)


@pytest.mark.parametrize(("N", "D", "folds"), [(90, 12, 3), (31, 40, 2), (50, 7, 5)])
def test_every_fold_has_scikit_learns_map(N, D, folds):
    inputs, y = made(N, D)
    found = fit(inputs, lambda rows: y[rows], N, folds=folds)
    weights, offsets = explicit(inputs, y, found.penalties["all"], folds)
    torch.testing.assert_close(found.weights.double(), torch.from_numpy(weights), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.offsets.double(), torch.from_numpy(offsets), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("N", "D"), [(90, 12), (40, 70)])
def test_the_dual_gives_what_the_primal_gives(N, D, monkeypatch):
    inputs, y = made(N, D)
    monkeypatch.setattr(ridge, "PENALTIES", (0.03,) * 3)
    primal = fit(inputs, lambda rows: y[rows], N)
    monkeypatch.setattr(ridge, "PRIMAL", 4)
    halved = fit(inputs, lambda rows: y[rows], N)
    for module in (ridge, _solve):
        monkeypatch.setattr(module, "WIDE", torch.float32)
    dual = fit(inputs, lambda rows: y[rows], N)
    torch.testing.assert_close(dual.weights, primal.weights, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dual.offsets, primal.offsets, atol=1e-3, rtol=1e-4)
    assert halved.weights.dtype == torch.bfloat16  # half the memory, and as good
    rows = torch.arange(N)
    close = (halved.held_out(inputs, rows) - y).square().mean() / (primal.held_out(inputs, rows) - y).square().mean()
    assert 0.8 < float(close) < 1.25


def test_the_dual_takes_rows_evenly_from_every_fold_and_reads_no_more(monkeypatch):
    inputs, y = made(300, 12)
    monkeypatch.setattr(ridge, "PRIMAL", 4)
    monkeypatch.setattr(_solve, "DUAL_ROWS", 60)
    asked: list[int] = []

    def targets(rows):
        asked.extend(rows.tolist())
        return y[rows]

    fit(inputs, targets, 300)
    assert asked == sorted(asked)
    assert torch.bincount(torch.tensor(asked) % 3).tolist() == [30, 30, 30]
    assert min(asked) < 3 and max(asked) >= 297


@pytest.mark.parametrize("limit", [4096, 4])
def test_a_rows_own_target_does_not_enter_its_held_out_prediction(limit, monkeypatch):
    monkeypatch.setattr(ridge, "PRIMAL", limit)
    monkeypatch.setattr(ridge, "PENALTIES", (0.1,) * 3)  # its choice may depend on every row
    inputs, y = made(60)
    before = fit(inputs, lambda rows: y[rows], 60)
    changed = y.clone()
    changed[17] += 100
    after = fit(inputs, lambda rows: changed[rows], 60)
    rows = torch.tensor([17, 14, 18, 19])
    old, new = before.held_out(inputs, rows), after.held_out(inputs, rows)
    torch.testing.assert_close(old[:2], new[:2], atol=2e-3, rtol=1e-3)  # 14 lies in the same fold
    assert (new[2:] - old[2:]).abs().min() > 0.01


def test_pictures_are_predicted_by_the_mean_of_the_folds_maps_and_columns_can_be_had_alone():
    inputs, y = made()
    found = fit(inputs, lambda rows: y[rows], 90)
    h = inputs.rows(slice(0, 10))
    expected = torch.stack([h @ w + o for w, o in zip(found.weights, found.offsets, strict=True)]).mean(0)
    torch.testing.assert_close(found.predict(h), expected)
    torch.testing.assert_close(found.predict(h, slice(1, 3)), expected[:, 1:3])
    rows = torch.tensor([5, 0, 44])
    torch.testing.assert_close(found.held_out(inputs, rows, slice(1, 3)), found.held_out(inputs, rows)[:, 1:3])
    for at, row in enumerate(rows.tolist()):
        alone = inputs.rows(rows[at : at + 1]) @ found.weights[row % 3] + found.offsets[row % 3]
        torch.testing.assert_close(found.held_out(inputs, rows)[at], alone[0])


def test_groups_choose_their_own_penalty_noise_the_strongest():
    inputs, _ = made(300, 30, 2, dead=0)
    h = inputs.rows(slice(None))
    both = torch.cat([h[:, :4], torch.randn(300, 6, generator=torch.Generator().manual_seed(3))], 1)
    found = fit(inputs, lambda rows: both[rows], 300, groups={"known": slice(0, 4), "noise": slice(4, None)})
    assert found.penalties["known"] < 1e-2
    assert found.penalties["noise"] >= 1
    alone = fit(inputs, lambda rows: both[rows, :4], 300)
    torch.testing.assert_close(found.weights[:, :, :4], alone.weights, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("limit", [4096, 0])
def test_no_information_predicts_the_mean_of_the_rows_not_left_out(limit, monkeypatch):
    monkeypatch.setattr(ridge, "PRIMAL", limit)
    _, y = made(60)
    nothing = Inputs(torch.zeros(60, 1).half()).standardised()
    found = fit(nothing, lambda rows: y[rows], 60)
    seen = torch.arange(60) % 3 != 1
    torch.testing.assert_close(found.held_out(nothing, torch.tensor([1]))[0], y[seen].mean(0), atol=1e-4, rtol=1e-5)
    assert torch.isfinite(found.predict(torch.zeros(2, 1))).all()


@pytest.mark.parametrize("limit", [4096, 4])
def test_dead_dimensions_change_nothing(limit, monkeypatch):
    monkeypatch.setattr(ridge, "PRIMAL", limit)
    inputs, y = made(80, 9, dead=0)
    wider = Inputs(torch.cat([inputs.h, torch.full((80, 3), 2.0).half()], 1)).standardised()
    monkeypatch.setattr(ridge, "PENALTIES", (0.1,) * 3)
    plain = fit(inputs, lambda rows: y[rows], 80)
    monkeypatch.setattr(ridge, "PENALTIES", (0.1 * 12 / 9,) * 3)  # of a mean over dimensions that counts the dead
    found = fit(wider, lambda rows: y[rows], 80)
    assert not found.weights[:, 9:].any()
    torch.testing.assert_close(found.weights[:, :9].float(), plain.weights.float(), atol=2e-2, rtol=1e-2)


def test_packed_bits_and_what_a_file_gave_back():
    drawn = torch.Generator().manual_seed(0)
    dense = (torch.randn(60, 13, generator=drawn) > 0).half()
    bits = Inputs(pack(dense), width=13).standardised()
    y = dense[:, :2].float() + 0.1 * torch.randn(60, 2, generator=drawn)
    found, same = (fit(each, lambda rows: y[rows], 60) for each in (bits, Inputs(dense).standardised()))
    torch.testing.assert_close(found.weights, same.weights, atol=1e-5, rtol=1e-5)
    back = Ridge.from_tensors(found.tensors())
    assert back.penalties == found.penalties
    torch.testing.assert_close(back.held_out(bits, torch.arange(6)), found.held_out(bits, torch.arange(6)), rtol=0, atol=0)


def test_too_few_images_for_the_folds_are_told():
    inputs, y = made(5)
    with pytest.raises(UserError, match="5 training images cannot be fitted in 3 folds"):
        fit(inputs, lambda rows: y[rows], 5)
