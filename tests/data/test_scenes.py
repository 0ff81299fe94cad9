"""Scenes: the labels are true, the bytes depend on nothing but the scene, and the target is not to be read off raw pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wingspan.data import scenes as module
from wingspan.data._scenes_factors import DRAWN, RADIUS, SMALL_RADIUS, SPREAD, apportion, follow
from wingspan.data._scenes_patterns import BACKDROPS, SHAPES, TEXTURES
from wingspan.data.base import check_labels
from wingspan.data.scenes import CLASSES, Factors, Scenes, render, render_all
from wingspan.errors import UserError


def outline(factors: Factors, scene: int, size: int) -> Tensor:
    """(size, size): signed distance to the main object in pixels, by turning the complex plane under it."""
    inside = list(SHAPES.values())[int(factors.shape[scene, 0])]
    radius, angle = float(factors.radius[scene, 0]), float(factors.angle[scene, 0])
    x, y = factors.centre[scene, 0].tolist()
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    turned = torch.complex((axis - x).expand(size, size), (y - axis)[:, None].expand(size, size))
    turned = turned * complex(math.cos(angle), -math.sin(angle)) / radius
    return inside(turned.real, turned.imag) * radius * size / 2


def test_same_fields_give_the_same_bytes() -> None:
    first, second = (Scenes(train=30).load("train") for _ in range(2))
    assert torch.equal(first.take(torch.arange(30)).images.batch(torch.arange(30)), second.images.batch(torch.arange(30)))
    assert all(torch.equal(first.labels[task], second.labels[task]) for task in CLASSES)


@pytest.mark.parametrize("size", [32, 33])
def test_an_image_does_not_depend_on_its_batch(size: int) -> None:
    factors = Scenes(train=150).factors("train")
    together = render(factors, size)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    assert torch.equal(render(factors.take(order), size), together[order])
    for i in (0, 7, 149):
        assert torch.equal(render(factors.take(slice(i, i + 1)), size)[0], together[i])


def test_chunks_and_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Scenes(train=100).factors("train")
    whole = render(factors, 24)
    threads = torch.get_num_threads()
    monkeypatch.setattr(module, "_CHUNK_PIXELS", 24**2 * 7)
    assert torch.equal(render_all(factors, 24), whole)
    assert torch.get_num_threads() == threads


def test_splits_and_seeds_differ() -> None:
    data = Scenes(train=20, test=20)
    train, test, other = data.load("train"), data.load("test"), Scenes(train=20, seed=1).load("train")
    every = torch.arange(20)
    pictures = train.images.batch(every)
    assert (pictures != test.images.batch(every)).flatten(1).any(1).all()
    assert (pictures != other.images.batch(every)).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [8, 32, 64, 96])
def test_any_size(size: int) -> None:
    made = Scenes(train=3, size=size)
    pictures = made.load("train").images.batch(torch.tensor([2, 0]))
    assert pictures.shape == (2, 3, size, size) and pictures.dtype == torch.uint8
    assert made.side == size and made.load("train").images.side == size
    assert pictures.float().std() > 10


def test_sizes_show_the_same_scenes() -> None:
    factors = Scenes(train=20).factors("train")
    small, large = render(factors, 32).float(), render(factors, 96).float()
    pooled = torch.nn.functional.avg_pool2d(large, 3)
    assert (small - pooled).abs().mean() < 8  # of 255: edges and fine patterns are sampled, not integrated


def test_labels_are_in_range_named_and_stratified() -> None:
    data = Scenes(train=1003).load("train")
    assert set(data.labels) == set(data.classes) == set(CLASSES) and data.target == "shape"
    for task, values in data.labels.items():
        assert values.dtype == torch.int64 and len(set(CLASSES[task])) == len(CLASSES[task])
        check_labels(values, CLASSES[task], task)
        counts = torch.bincount(values, minlength=len(CLASSES[task]))
        if task in DRAWN:
            assert counts.max() - counts.min() <= 1, task
        assert counts.min() > 1003 / len(CLASSES[task]) / 2, task


def test_labels_follow_from_the_scene() -> None:
    factors = Scenes(train=200).factors("train")
    labels = factors.labels()
    for i in range(200):
        x, y = factors.centre[i, 0].tolist()
        row, column = (int(v > -SPREAD / 3) + int(v > SPREAD / 3) for v in (y, x))
        names = {task: CLASSES[task][int(labels[task][i])] for task in CLASSES}
        assert names["position"] == ("top", "middle", "bottom")[row] + " " + ("left", "centre", "right")[column]
        turn = math.degrees(float(factors.angle[i, 0])) - float(names["orientation"].split()[0])
        assert abs(turn) <= 15
        near = []
        for slot in range(int(names["count"])):
            least, most = SMALL_RADIUS if slot else RADIUS
            looks = (float(factors.radius[i, slot]) - least) / (most - least)
            near.append(looks / 2 + (float(factors.centre[i, slot, 1]) + 1) / 4)
        assert float(factors.distance()[i]) == pytest.approx(1 - max(near), abs=1e-5)


def test_order_does_not_give_classes_away() -> None:
    labels = Scenes(train=1200).factors("train").labels()
    for task in DRAWN:
        first = torch.bincount(labels[task][:600], minlength=len(CLASSES[task])) / 600 * len(CLASSES[task])
        assert (first - 1).abs().max() < 0.4, task
    together = torch.zeros(12, 8)
    together.index_put_((labels["shape"], labels["colour"]), torch.ones(1200), accumulate=True)
    assert together.min() >= 3 and together.max() <= 25  # independent: 12.5 expected in each cell


@pytest.mark.parametrize("target", DRAWN)
def test_imbalance_thins_the_training_split_only(target: str) -> None:
    data = Scenes(train=5000, test=600, target=target, imbalance=10)
    counts = torch.bincount(data.factors("train").labels()[target])
    steps = counts[:-1] / counts[1:]
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.03)
    assert steps.max() / steps.min() < 1.05  # an exponential profile: every class the same factor rarer than the last
    rest = torch.bincount(data.factors("test").labels()[target])
    assert rest.max() - rest.min() <= 1


def test_priors_are_met_up_to_rounding() -> None:
    priors = tuple(float(k) for k in range(1, 13))
    counts = torch.bincount(Scenes(train=1000, priors=priors, imbalance=50).factors("train").labels()["shape"])
    assert counts.sum() == 1000
    assert ((counts - torch.tensor(priors) / 78 * 1000).abs() < 1).all()


def test_no_new_field_has_changed_a_byte() -> None:
    digest = hashlib.blake2b(digest_size=6)
    for split, n in (("train", 300), ("test", 100)):
        data = Scenes(train=300, test=100, imbalance=10.0).load(split)  # type: ignore[arg-type]
        digest.update(data.images.batch(torch.arange(n)).numpy().tobytes())
        for task in sorted(data.labels):
            digest.update(data.labels[task].numpy().tobytes())
    assert digest.hexdigest() == "9dd06135e907"


@pytest.mark.parametrize("bias", [0.05, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("target", ["shape", "light"])
def test_bias_ties_the_backdrop_of_an_exact_share_of_every_class(bias: float, target: str) -> None:
    free, tied = (Scenes(train=2000, target=target, imbalance=4, bias=b).factors("train") for b in (0.0, bias))
    classes = tied.labels()[target]
    own, moved = classes % 10, tied.background != free.background
    assert (tied.background[moved] == own[moved]).all()
    for name in ("shape", "colour", "texture", "centre", "radius", "angle", "light", "backdrop", "key"):
        assert torch.equal(getattr(tied, name), getattr(free, name)), name
    by_luck = (free.background == own).float().mean()
    follows = torch.bincount(classes, (tied.background == own).double()) / torch.bincount(classes)
    if bias == 1:
        assert (follows == 1).all()
    # Of those that are not tied about a tenth lie before the class's backdrop by luck.
    assert ((follows - (bias + (1 - bias) * by_luck)).abs() < 0.07).all(), follows


def test_the_number_of_tied_scenes_is_exact() -> None:
    free = Scenes(train=1003).factors("train")
    elsewhere = replace(free, background=torch.full((1003,), 99))  # no scene follows its class by luck
    tied = follow(elsewhere, "shape", 0.3, seed=0)
    counts = torch.bincount(free.shape[:, 0])
    by_class = torch.bincount(free.shape[:, 0], (tied.background != 99).double())
    assert by_class.sum() == 301 and ((by_class - 0.3 * counts).abs() <= 1).all()
    first = (tied.background != 99)[:500].double().mean()
    assert 0.22 < first < 0.38, "those tied do not stand at the front"


def test_bias_leaves_the_test_split_and_untied_images_alone() -> None:
    free, tied = (Scenes(train=60, test=60, bias=bias) for bias in (0.0, 0.5))
    every = torch.arange(60)
    assert torch.equal(free.load("test").images.batch(every), tied.load("test").images.batch(every))
    same = free.factors("train").background == tied.factors("train").background
    assert 10 < int(same.sum()) < 50
    differs = (free.load("train").images.batch(every) != tied.load("train").images.batch(every)).flatten(1).any(1)
    assert torch.equal(differs, ~same)


def test_quantities_are_what_the_classes_are_cut_from() -> None:
    data = Scenes(train=500)
    made = data.load("train")
    values, labels = made.quantities, made.labels
    assert not set(values) & set(CLASSES)
    cell = [((values[f"centre {axis}"] / (2 * SPREAD) + 0.5) * 3).long() for axis in "xy"]
    assert torch.equal(cell[1] * 3 + cell[0], labels["position"])
    assert torch.equal(((values["radius"] - RADIUS[0]) / (RADIUS[1] - RADIUS[0]) * 4).long(), labels["size"])
    assert torch.equal(((values["angle"] / math.pi + 0.5) * 6).long(), labels["orientation"])
    assert torch.equal(sum((values["depth"] > edge).long() for edge in (0.10, 0.15, 0.21, 0.30, 0.45)), labels["distance"])
    for x, y, label in zip(values["light x"].tolist(), values["light y"].tolist(), labels["light"].tolist(), strict=True):
        name = CLASSES["light"][label]
        assert math.hypot(x, y) == pytest.approx(1, abs=1e-6)
        assert ("east" in name) == (x > 0.3826) and ("west" in name) == (x < -0.3826), "sin 22.5 degrees parts the octants"
        assert ("north" in name) == (y < -0.3826) and ("south" in name) == (y > 0.3826), "y grows downwards"


def test_apportion_gives_the_largest_remainders_the_rest() -> None:
    assert apportion(10, torch.tensor([1.0, 1.0, 1.0])).tolist() == [4, 3, 3]
    assert apportion(7, torch.tensor([0.5, 0.3, 0.2])).tolist() == [4, 2, 1]  # shares 3.5, 2.1, 1.4


def test_outlines_are_distances_in_the_unit_circle_without_symmetry() -> None:
    axis = torch.linspace(-1.2, 1.2, 121)
    u, v = axis[None, :].expand(121, 121), axis[:, None].expand(121, 121)
    for name, inside in SHAPES.items():
        d = inside(u, v)
        assert d.diff(dim=0).abs().max() < 0.0201 and d.diff(dim=1).abs().max() < 0.0201, name  # never steeper than 1
        assert ((u * u + v * v)[d < 0] < 1.06).all() and 0.1 < (d < 0).float().mean() < 0.5, name
        for turn in range(1, 8):
            c, s = math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)
            other = inside(u * c - v * s, u * s + v * c) < 0
            both = (other & (d < 0)).sum() / (other | (d < 0)).sum()
            assert both < 0.85, (name, turn)


def test_foreground_background_and_recombination_agree_on_the_object() -> None:
    size = 32
    factors = Scenes(train=24).factors("train")
    source = torch.arange(24).roll(1)
    mixed = factors.recombine(source)
    assert torch.equal(mixed.labels()["background"], factors.labels()["background"][source])
    assert all(torch.equal(mixed.labels()[t], factors.labels()[t]) for t in CLASSES if t != "background")
    full, swapped = render(factors, size), render(mixed, size)
    alone, behind = render(factors, size, background=False), render(factors, size, foreground=False)
    assert not render(factors, size, foreground=False, background=False).any()
    for i in range(24):
        d = outline(factors, i, size)
        inside, outside = d < -0.51, d > 0.51
        assert inside.sum() > 10
        assert torch.equal(full[i][:, inside], alone[i][:, inside])
        assert torch.equal(full[i][:, inside], swapped[i][:, inside])
        assert not alone[i][:, outside].any()
        assert (full[i][:, outside] <= behind[i][:, outside]).all()  # outside the object lies at most its shadow
        assert (full[i] != behind[i]).any(0)[inside].float().mean() > 0.8


def test_another_set_of_scenes_lends_its_backdrops() -> None:
    factors, lender = Scenes(train=6).factors("train"), Scenes(train=3, seed=5).factors("train")
    source = torch.tensor([2, 0, 1, 1, 2, 0])
    mixed = factors.recombine(source, lender)
    assert torch.equal(mixed.centre, factors.centre) and torch.equal(mixed.light, factors.light)
    bare = [replace(scenes, light=scenes.light * 0, count=scenes.count * 0) for scenes in (mixed, lender.take(source))]
    assert torch.equal(*(render(scenes, 16, foreground=False) for scenes in bare))  # without objects only the backdrop is left


def test_the_object_covers_its_true_area() -> None:
    factors = Scenes(train=12).factors("train")
    covered = (render(factors, 128, background=False) > 0).any(1).float().mean((1, 2))
    for i in range(12):
        # Edge pixels that are blended with black count as covered, hence half a pixel more all round.
        assert covered[i] == pytest.approx(float((outline(factors, i, 128) < 0.5).double().mean()), rel=0.01)


def test_shadow_falls_away_from_the_light_and_the_lit_side_is_brighter() -> None:
    factors = Scenes(train=200).factors("train")
    factors = replace(factors, texture=torch.zeros_like(factors.texture), centre=factors.centre * 0)
    light = torch.stack([factors.light.cos(), -factors.light.sin()], 1)  # x, y downwards
    axis = (torch.arange(64) + 0.5) / 32 - 1
    along = axis[None, None, :] * light[:, 0, None, None] + axis[None, :, None] * light[:, 1, None, None]
    alone = render(factors, 64, background=False).float().mean(1)
    behind, full = (render(factors, 64, foreground=f).float().mean(1) for f in (False, True))
    shadow = (behind - full) * (alone == 0)
    solid = (alone > 0).float()
    assert shadow.min() >= -1  # a rim too faint to see may round one channel up by a level
    middle = (along * solid).sum((1, 2)) / solid.sum((1, 2))
    assert ((along * shadow).sum((1, 2)) / shadow.sum((1, 2)) < middle).float().mean() > 0.95
    brightness = (along * alone).sum((1, 2)) / alone.sum((1, 2))
    assert (brightness > middle).float().mean() > 0.95


def test_distractors_leave_the_main_object_in_view() -> None:
    factors = Scenes(train=500).factors("train")
    apart = (factors.centre[:, 1:] - factors.centre[:, :1]).square().sum(-1).sqrt()
    assert (apart - factors.radius[:, 1:]).min() > 0  # never over its centre
    assert (apart > factors.radius[:, 1:] + 0.9 * factors.radius[:, :1] - 1e-3).float().mean() > 0.97
    assert (factors.shape[:, 1:] != factors.shape[:, :1]).all()
    assert (factors.colour[:, 1:] != factors.colour[:, :1]).all()
    assert factors.radius[:, 1:].max() < factors.radius[:, 0].min()


def first_slot(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([change(values[:, :1]), values[:, 1:]], 1)


CHANGES: dict[str, Callable[[Factors], Factors]] = {
    "shape": lambda f: replace(f, shape=first_slot(f.shape, lambda v: (v + 1) % len(SHAPES))),
    "colour": lambda f: replace(f, colour=first_slot(f.colour, lambda v: (v + 1) % 8)),
    "texture": lambda f: replace(f, texture=first_slot(f.texture, lambda v: (v + 1) % len(TEXTURES))),
    "orientation": lambda f: replace(f, angle=first_slot(f.angle, lambda v: v + math.pi / 4)),
    "position": lambda f: replace(f, centre=first_slot(f.centre, lambda v: -v.sign() * 0.3)),
    "size": lambda f: replace(f, radius=first_slot(f.radius, lambda v: 1.1 - v)),
    "count": lambda f: replace(f, count=(f.count + 1) % 7),
    "distance": lambda f: replace(f, centre=-f.centre),
    "background": lambda f: replace(f, background=(f.background + 1) % len(BACKDROPS)),
    "light": lambda f: replace(f, light=f.light + math.pi / 4),
}


@pytest.mark.parametrize("task", CLASSES)
def test_every_factor_shows(task: str) -> None:
    factors = Scenes(train=100).factors("train")
    changed = CHANGES[task](factors)
    moved = changed.labels()[task] != factors.labels()[task]
    assert moved.float().mean() > 0.5
    differs = (render(factors, 32).float() - render(changed, 32).float()).abs().amax(1) > 5
    assert (differs.sum((1, 2))[moved] >= 4).all()


def test_raw_pixels_give_colour_away_but_not_shape() -> None:
    data = Scenes(train=1500, test=500)
    train, test = data.load("train"), data.load("test")
    x, t = (s.images.batch(torch.arange(len(s))).flatten(1).double() / 255 for s in (train, test))
    x, t = x - x.mean(0), t - x.mean(0)
    kernel = x @ x.T + 100 * torch.eye(1500, dtype=torch.float64)
    right = {}
    for task in ("shape", "colour"):
        targets = torch.nn.functional.one_hot(train.labels[task]).double()
        scores = t @ (x.T @ torch.linalg.solve(kernel, targets - targets.mean(0)))
        right[task] = float((scores.argmax(1) == test.labels[task]).double().mean())
    assert right["shape"] < 0.2 and right["colour"] > 0.5, right


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train": 0}, "train=0"),
        ({"test": -3}, "test=-3"),
        ({"size": 4}, "size=4"),
        ({"imbalance": 0.5}, "imbalance=0.5"),
        ({"imbalance": math.nan}, "imbalance=nan"),
        ({"priors": (0.5, 0.5)}, "2 priors for the 12 classes"),
        ({"priors": (1.0,) * 11 + (0.0,)}, "positive"),
        ({"target": "color"}, "Did you mean 'colour'"),
        ({"target": "distance"}, "target='distance'"),
        ({"bias": 1.1}, "bias=1.1"),
        ({"bias": -0.1}, "bias=-0.1"),
        ({"bias": math.nan}, "bias=nan"),
        ({"bias": 0.5, "target": "background"}, "ties the backdrop to the target"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Scenes(**fields)  # type: ignore[arg-type]
