from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wingspan import sampling
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.sampling import Sampler, Sampling, long_tail


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


def images(*sizes: int) -> ImageSet:
    """So many images of each class, in an order that mixes them."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = InMemory(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8))
    return ImageSet(pixels, {"kind": labels}, {"kind": tuple(map(str, range(len(sizes))))}, "kind")


def test_by_default_a_batch_is_what_it_always_was() -> None:
    given = Sampler(Sampling(), images(10, 13), 5, seed=3)
    assert given.steps_per_epoch == 4
    for step in (0, 3, 4, 17):
        assert torch.equal(given.indices(step), sampling.uniform(3, step, 23, 5))


@pytest.mark.parametrize(("classes", "batch"), [(2, 8), (3, 8), (1, 4), (5, 5)])
def test_a_batch_holds_so_many_classes_in_equal_parts(classes: int, batch: int) -> None:
    given = images(20, 20, 20, 20, 20)
    labels = given.task()[0]
    sampler = Sampler(Sampling(classes=classes), given, batch, seed=0)
    assert sampler.steps_per_epoch == 100 // batch
    pairs, orders = set(), set()
    for step in range(60):
        rows = sampler.indices(step)
        assert rows.shape == (batch,) and rows.dtype == torch.int64 and len(set(rows.tolist())) == batch
        found, counts = labels[rows].unique(return_counts=True)
        assert len(found) == classes and int(counts.max() - counts.min()) <= (batch % classes > 0)
        pairs.add(tuple(found.tolist()))
        orders.add(tuple(labels[rows].tolist()))
    assert classes == 5 or len(pairs) > 4, "classes are drawn anew"
    assert classes == 1 or len(orders) > 20, "classes do not lie one after another"


def test_over_many_steps_every_image_comes_up_about_as_often() -> None:
    given = images(40, 20, 30, 30)
    sampler, steps = Sampler(Sampling(classes=2), given, 12, seed=1), 4000
    counts = torch.bincount(torch.cat([sampler.indices(step) for step in range(steps)]), minlength=120).double()
    assert float(counts.mean()) == steps * 12 / 120
    assert bool(((counts > 0.7 * 400) & (counts < 1.3 * 400)).all())


def test_few_classes_a_batch_are_a_function_of_seed_and_step() -> None:
    given = images(20, 20, 20)
    first = Sampler(Sampling(classes=2), given, 6, seed=0)
    kept = {step: first.indices(step) for step in (7, 0, 3)}
    torch.manual_seed(5)
    again = Sampler(Sampling(classes=2), given, 6, seed=0)
    assert all(torch.equal(again.indices(step), rows) for step, rows in kept.items())
    assert not torch.equal(Sampler(Sampling(classes=2), given, 6, seed=1).indices(0), kept[0])


def test_a_class_that_is_too_small_repeats_its_images_evenly() -> None:
    rows = Sampler(Sampling(classes=2), images(3, 30), 16, seed=0).indices(0)
    counts = torch.bincount(rows, minlength=33)
    small = counts[images(3, 30).task()[0] == 0]
    assert int(small.sum()) == 8 and int(small.max() - small.min()) <= 1


def test_a_long_tail_falls_by_its_factor() -> None:
    labels = torch.arange(5).repeat(1000)
    rows = long_tail(labels, tuple("abcde"), 100.0)
    assert torch.bincount(labels[rows]).tolist() == [1000, 316, 100, 32, 10]
    assert torch.equal(rows, rows.sort().values) and len(set(rows.tolist())) == len(rows)
    assert torch.equal(rows, long_tail(labels, tuple("abcde"), 100.0))
    scarce = torch.tensor([0] * 100 + [1] * 5 + [2] * 100)
    assert torch.bincount(scarce[long_tail(scarce, tuple("abc"), 4.0)]).tolist() == [100, 5, 25]


def test_a_long_tail_is_all_that_a_run_sees() -> None:
    given = images(40, 40, 40)
    sampler = Sampler(Sampling(imbalance=4.0), given, 10, seed=0)
    assert sampler.steps_per_epoch == 7  # 40 + 20 + 10
    seen = torch.cat([sampler.indices(step) for step in range(70)])
    assert torch.equal(seen.unique(), sampler.rows) and len(sampler.rows) == 70
    both = Sampler(Sampling(classes=2, imbalance=4.0), given, 10, seed=0)
    assert set(both.indices(0).tolist()) <= set(sampler.rows.tolist())


def test_what_does_not_fit_is_explained() -> None:
    given = images(10, 10)
    bare = ImageSet(given.images)
    with pytest.raises(UserError, match=r"no labels.*--data\.label"):
        Sampler(Sampling(classes=2), bare, 4, 0)
    with pytest.raises(UserError, match=r"--sampling.classes 3 a batch: the images have 2 classes"):
        Sampler(Sampling(classes=3), given, 4, 0)
    with pytest.raises(UserError, match=r"--batch 25 is larger than the 20 training images: use"):
        Sampler(Sampling(), given, 25, 0)
    with pytest.raises(UserError, match=r"larger than the 11 training images that --sampling.imbalance 10 leaves"):
        Sampler(Sampling(imbalance=10.0), given, 12, 0)
    for wrong in ({"classes": -1}, {"imbalance": 0.5}, {"imbalance": float("nan")}):
        with pytest.raises(UserError, match=r"--sampling\."):
            Sampling(**wrong)
