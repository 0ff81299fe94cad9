from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wingspan import sampling


def epoch(seed: int, number: int, images: int, batch: int) -> list[Tensor]:
    steps = images // batch
    return [sampling.uniform(seed, number * steps + at, images, batch) for at in range(steps)]


@pytest.mark.parametrize(("images", "batch"), [(32, 8), (10, 10), (7, 1), (23, 5)])
def test_an_epoch_shows_no_image_twice(images: int, batch: int) -> None:
    for number in range(3):
        parts = epoch(0, number, images, batch)
        assert all(part.shape == (batch,) and part.dtype == torch.int64 for part in parts)
        seen = torch.cat(parts).tolist()
        assert len(set(seen)) == len(seen) == images - images % batch
        assert set(seen) <= set(range(images))
        if images % batch == 0:
            assert sorted(seen) == list(range(images))


def test_every_image_is_seen_over_many_epochs_though_some_wait() -> None:
    seen = {int(i) for number in range(20) for part in epoch(0, number, 23, 5) for i in part}
    assert seen == set(range(23))


def test_the_order_differs_between_epochs_and_seeds() -> None:
    orders = [torch.cat(epoch(seed, number, 64, 8)).tolist() for seed in (0, 1) for number in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert all(order != list(range(64)) for order in orders)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    steps = [9, 3, 11, 0, 4]  # of three epochs, out of order
    first = {step: sampling.uniform(5, step, 20, 5).clone() for step in steps}
    for step in reversed(steps):
        sampling.uniform(6, step, 20, 5)  # another run in between
        torch.manual_seed(step)
        assert torch.equal(sampling.uniform(5, step, 20, 5), first[step])


@pytest.mark.parametrize(("images", "batch", "steps"), [(100, 10, 10), (109, 10, 10), (10, 10, 1), (9, 10, 0)])
def test_only_full_batches_count(images: int, batch: int, steps: int) -> None:
    assert sampling.steps_per_epoch(images, batch) == steps
