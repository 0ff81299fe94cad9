from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wingspan import augment, projector
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split, extract
from wingspan.measures._choice import split as held_out
from wingspan.measures._tasks import tasks
from wingspan.measures.base import NotApplicableError
from wingspan.measures.linear import PRESETS, Linear
from wingspan.network import Network
from wingspan.runtime import Runtime

D = 10
TASKS = {"kind": 3, "colour": 5, "side": 2}


def split(h: Tensor, labels: dict[str, Tensor]) -> Split:
    classes = {task: tuple(f"{task} {c}" for c in range(TASKS[task])) for task in labels}
    return Split(h.half(), ImageSet(InMemory(torch.zeros(len(h), 3, 1, 1, dtype=torch.uint8)), labels, classes))


def bank(n_train: int = 150, n_test: int = 400, noise: float = 1.0, seed: int = 0) -> Bank:
    """Every class of every task moves h its own way; with noise the tasks cannot be solved wholly."""
    draw = generator(seed, "bank")
    ways = {task: torch.randn(C, D, generator=draw) * 2 for task, C in TASKS.items()}

    def half(n: int) -> Split:
        labels = {task: torch.randint(C, (n,), generator=draw) for task, C in TASKS.items()}
        h = sum(ways[task][y] for task, y in labels.items()) + noise * torch.randn(n, D, generator=draw)
        return split(h, labels)

    return Bank("made", half(n_train), half(n_test), "0")


def only(given: Bank, *tasks: str) -> Bank:
    train, test = (split(part.h, {task: part.images.labels[task] for task in tasks}) for part in (given.train, given.test))
    return replace(given, train=train, test=test)


def slow_accuracy(probe: Linear, given: Bank, task: str, seed: int) -> float:
    """One task alone: nn.Linear and AdamW, one batch after another, from the same initial rows and in the same order."""
    names = list(given.train.images.classes)
    first = sum(TASKS[name] for name in names[: names.index(task)])
    drawn = torch.rand(sum(TASKS[name] for name in names), D, generator=generator(seed, "probe"))
    net = nn.Linear(D, TASKS[task])
    nn.init.zeros_(net.bias)
    net.weight.data.copy_((drawn[first : first + TASKS[task]] * 2 - 1) / math.sqrt(D))
    groups = [{"params": [net.weight], "weight_decay": probe.weight_decay}, {"params": [net.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=probe.lr, betas=(0.9, 0.999), eps=1e-8)
    x, y = given.train.h.float(), given.train.images.labels[task]
    test = given.test.h.float()
    if probe.standardise:
        shift, scale = x.double().mean(0).float(), x.double().std(0, correction=0).float()
        x, test = (x - shift) / scale, (test - shift) / scale
    N = len(x)
    total, done = probe.epochs * math.ceil(N / probe.batch), 0
    for epoch in range(probe.epochs):
        order = torch.randperm(N, generator=generator(seed, "probe", epoch)).tolist()
        for start in range(0, N, probe.batch):
            rows = order[start : start + probe.batch]
            for group in optimiser.param_groups:
                group["lr"] = probe.lr * (1 + math.cos(math.pi * done / total)) / 2 if probe.cosine else probe.lr
            logs = torch.log_softmax(net(x[rows]), 1)
            loss = -torch.stack([logs[i, int(y[row])] for i, row in enumerate(rows)]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
    guesses = net(test).argmax(1).tolist()
    return sum(g == label for g, label in zip(guesses, given.test.images.labels[task].tolist(), strict=True)) / len(guesses)


@pytest.mark.parametrize(
    "probe",
    [
        Linear(lr=2e-3, weight_decay=0.5, batch=64, epochs=4),
        Linear(lr=2e-2, weight_decay=0.01, batch=40, epochs=3, standardise=True, cosine=True),
        Linear(lr=1e-2, batch=1024, epochs=3),
    ],
)
def test_all_tasks_in_one_pass_are_what_each_would_be_alone(probe: Linear) -> None:
    given = bank()
    found = {number.task: number.value for number in probe.measure(given, seed=3).numbers}
    expected = {task: slow_accuracy(probe, given, task, seed=3) for task in TASKS}
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(value < 0.98 for value in expected.values()), "what is solved wholly tells nothing apart"


def test_separable_tasks_are_solved_wholly() -> None:
    draw = generator(0, "bank")

    def half(n: int) -> Split:
        labels = {task: torch.randint(C, (n,), generator=draw) for task, C in TASKS.items()}
        h = torch.cat([nn.functional.one_hot(y, TASKS[task]) for task, y in labels.items()], 1)  # D = 3 + 5 + 2
        return split(h + 0.1 * torch.randn(n, D, generator=draw), labels)

    found = Linear(lr=5e-2, batch=64, epochs=10).measure(Bank("made", half(300), half(200), "0"), seed=0)
    assert {number.task: number.value for number in found.numbers} == dict.fromkeys(TASKS, 1.0)


def test_features_without_information_give_about_chance() -> None:
    given = bank(n_train=300, n_test=2000)
    noise = torch.randn(2000, D, generator=generator(0, "noise")).half()
    blind = replace(given, test=replace(given.test, h=noise))
    for number in PRESETS["linear_fast"].measure(blind, seed=0).numbers:
        assert abs(number.value - 1 / TASKS[number.task]) < 0.06


def test_numbers_say_on_what_and_what_guessing_gives() -> None:
    h = torch.randn(10, D, generator=generator(0, "test"))
    train = split(h, {"kind": torch.tensor([0] * 9 + [1]), "side": torch.tensor([0, 1] * 5)})
    test = split(h, {"kind": torch.tensor([0, 1, 1, 1, 1, 2, 2, 2, 0, 0]), "side": torch.tensor([1] * 7 + [0] * 3)})
    kind, side = Linear(epochs=1).measure(Bank("made", train, test, "0"), seed=0).numbers
    assert (kind.metric, kind.task, kind.n, kind.classes, kind.chance) == ("accuracy", "kind", 10, 3, 0.4)
    assert (side.metric, side.task, side.n, side.classes, side.chance) == ("accuracy", "side", 10, 2, 0.7)


def test_standardising_ignores_dead_dimensions() -> None:
    probe = replace(PRESETS["linear_fast"], epochs=3)
    given = bank()

    def with_dead(train: float, test: float) -> list[float]:
        parts: dict[str, Any] = {}
        for name, part, value in (("train", given.train, train), ("test", given.test, test)):
            h = part.h.clone()
            h[:, 4] = value
            parts[name] = replace(part, h=h)
        return [number.value for number in probe.measure(replace(given, **parts), seed=0).numbers]

    still = with_dead(0.0, 0.0)
    assert with_dead(3.0, 1000.0) == still
    plain = replace(probe, standardise=False)
    assert all(math.isfinite(number.value) for number in plain.measure(given, seed=0).numbers)


def test_standardising_undoes_any_shift_and_scale() -> None:
    given = only(bank(), "kind")
    scale, shift = torch.logspace(-2, 2, D), torch.linspace(-20, 20, D)
    moved = replace(
        given,
        train=replace(given.train, h=(given.train.h.float() * scale + shift).half()),
        test=replace(given.test, h=(given.test.h.float() * scale + shift).half()),
    )
    probe = PRESETS["linear_fast"]
    (plain,), (after,) = probe.measure(given, 0).numbers, probe.measure(moved, 0).numbers
    assert after.value == pytest.approx(plain.value, abs=0.03)  # half precision rounds the moved features


def test_a_probe_is_a_function_of_features_and_seed() -> None:
    probe, given = Linear(lr=1e-2, epochs=2, batch=32), bank(n_test=2000)
    first = [number.value for number in probe.measure(given, seed=0).numbers]
    torch.manual_seed(99)
    assert [number.value for number in probe.measure(given, seed=0).numbers] == first
    assert [number.value for number in probe.measure(given, seed=1).numbers] != first


def test_more_rows_than_a_part_holds() -> None:
    given = bank(n_train=4200, n_test=4300)
    probe = replace(PRESETS["linear_fast"], epochs=1)
    numbers = probe.measure(given, seed=0).numbers
    assert [number.n for number in numbers] == [4300] * 3
    for number in numbers:
        assert number.value == pytest.approx(slow_accuracy(probe, given, number.task, seed=0), abs=1e-12)


def test_a_task_that_only_the_training_split_has_is_left_out() -> None:
    given = bank()
    given = replace(given, test=only(given, "kind", "side").test)
    assert [number.task for number in Linear(epochs=1).measure(given, seed=0).numbers] == ["kind", "side"]


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match="'made' has no labels to probe"):
        Linear().measure(only(bank()), seed=0)


def test_a_quantity_is_regressed() -> None:
    given = bank()
    way = torch.randn(D, generator=generator(0, "way"))

    def known(part: Split) -> Split:
        values = 100 + 5 * (part.h.float() @ way) + 5 * torch.randn(len(part.h), generator=generator(len(part.h), "noise"))
        return replace(part, images=replace(part.images, quantities={"distance": values}))

    full = replace(given, train=known(given.train), test=known(given.test))
    probe = Linear(lr=3e-2, weight_decay=0.0, batch=150, epochs=500, standardise=True, cosine=True)
    *labels, distance = probe.measure(full, seed=0).numbers
    assert tuple(labels) == probe.measure(given, seed=0).numbers
    assert (distance.metric, distance.task, distance.n, distance.classes) == ("r2", "distance", 400, 0)
    x, y = (torch.cat([part.h.double(), torch.ones(len(part.h), 1)], 1) for part in (full.train, full.test))
    solution = torch.linalg.lstsq(x, full.train.images.quantities["distance"].double()).solution
    truth = full.test.images.quantities["distance"].double()
    best = 1 - float((y @ solution - truth).square().sum() / (truth - truth.mean()).square().sum())
    assert 0.5 < best < 0.999
    assert distance.value == pytest.approx(best, abs=0.01)


def test_every_layer_is_probed_as_h_is() -> None:
    given = bank()
    deep = {"h": 1.0, "projector 1": 0.3}
    layers = [
        {name: part.h * torch.linspace(1, end, D).half() for name, end in deep.items()} for part in (given.train, given.test)
    ]
    both = replace(given, train=replace(given.train, layers=layers[0]), test=replace(given.test, layers=layers[1]))
    probe = Linear(lr=2e-3, epochs=3, batch=32)
    numbers = replace(probe, layers=True).measure(both, seed=0).numbers
    assert [(number.series, number.task) for number in numbers] == [(name, task) for name in deep for task in TASKS]
    assert probe.measure(both, seed=0).numbers == tuple(replace(number, series="") for number in numbers[:3])
    alone = replace(
        given, train=replace(given.train, h=layers[0]["projector 1"]), test=replace(given.test, h=layers[1]["projector 1"])
    )
    assert probe.measure(alone, seed=0).numbers == tuple(replace(number, series="") for number in numbers[3:])


def test_features_from_a_file_have_no_layers_but_h() -> None:
    numbers = Linear(epochs=1, layers=True).measure(bank(), seed=0).numbers
    assert {number.series for number in numbers} == {"h"}


def test_what_is_needed_follows_the_settings() -> None:
    assert Linear().needs == {"train", "test"}
    assert Linear(layers=True).needs == {"train", "test", "layers"}
    assert Linear(augmented=True).needs == {"network", "test"}


GRID = Linear(lr=1e-2, batch=32, epochs=5, standardise=True, grid_lr=(1e-9, 3e-3, 3e-2), grid_weight_decay=(0.0, 30.0))


def chosen(note: str) -> tuple[str, float, float]:
    task, lr, decay = re.fullmatch(r"'(\w+)': lr (\S+) and weight decay (\S+) were the best of 6 on a tenth.*", note).groups()  # type: ignore[union-attr]
    return task, float(lr), float(decay)


def test_a_grid_trains_every_task_with_the_recipe_chosen_for_it() -> None:
    given = bank(n_train=600, noise=8.0)
    found = GRID.measure(given, seed=0)
    choices = [chosen(note) for note in found.notes]
    assert [task for task, _, _ in choices] == list(TASKS)
    assert len({(lr, decay) for _, lr, decay in choices}) > 1, "tasks that choose alike test less"
    for number, (task, lr, decay) in zip(found.numbers, choices, strict=True):
        alone = replace(GRID, lr=lr, weight_decay=decay, grid_lr=(), grid_weight_decay=())
        assert number in alone.measure(given, seed=0).numbers, task
        assert lr > 1e-9, "a rate that learns nothing was chosen"


def test_a_grid_is_judged_as_heads_trained_without_the_held_out_tenth_judge_it() -> None:
    given = only(bank(n_train=600, noise=3.0), "colour")
    kept, held = held_out(tasks(given), 600, seed=4)
    scores = {}
    for lr in GRID.grid_lr:
        for decay in GRID.grid_weight_decay:
            part = {
                name: split(given.train.h[rows], {"colour": given.train.images.labels["colour"][rows]})
                for name, rows in (("train", kept), ("test", held))
            }
            one = replace(GRID, standardise=False, lr=lr, weight_decay=decay, grid_lr=(), grid_weight_decay=())
            scores[lr, decay] = one.measure(replace(given, **part), seed=4).numbers[0].value
    ((_, lr, decay),) = map(chosen, replace(GRID, standardise=False).measure(given, seed=4).notes)
    assert (lr, decay) == max(scores, key=scores.__getitem__) and len(set(scores.values())) > 2


def test_no_choice_of_a_grid_looks_at_the_test_split() -> None:
    given = bank(n_train=300)
    labels = {task: y.flip(0) for task, y in given.test.images.labels.items()}
    other = replace(given, test=split(torch.randn(400, D, generator=generator(9, "other")), labels))
    first, second = GRID.measure(given, seed=0), GRID.measure(other, seed=0)
    assert first.notes == second.notes and first.numbers != second.numbers


def test_the_held_out_tenth_has_a_tenth_of_every_class() -> None:
    draw = generator(0, "labels")
    rare = (torch.rand(1000, generator=draw) ** 3 * 5).long()
    labels = {"colour": rare, "side": torch.randint(2, (1000,), generator=draw)}
    posed = tasks(Bank("made", split(torch.zeros(1000, D), labels), split(torch.zeros(1000, D), labels), "0"))
    kept, held = held_out(posed, 1000, seed=0)
    assert len(held) == 100 and sorted(torch.cat([kept, held]).tolist()) == list(range(1000))
    share = torch.bincount(rare[held], minlength=5) - torch.bincount(rare, minlength=5) / 10
    assert float(share.abs().max()) <= 1
    assert abs(int(labels["side"][held].sum()) - int(labels["side"].sum()) / 10) <= 5
    assert not torch.equal(held, held_out(posed, 1000, seed=1)[1])


def test_a_recipe_that_diverges_is_never_chosen_and_alone_says_so() -> None:
    given = bank()
    wild = replace(GRID, grid_lr=(1e38, 1e-2), grid_weight_decay=())
    assert all("lr 0.01 and" in note for note in wild.measure(given, seed=0).notes)
    with pytest.raises(UserError, match="training diverged; lower lr 1e\\+38"):
        replace(wild, lr=1e38, grid_lr=()).measure(given, seed=0)


def test_settings_that_cannot_be_used_are_refused() -> None:
    for settings, said in (
        ({"lr": -1.0}, "lr -1.0 must be positive"),
        ({"grid_lr": (1e-3, 0.0)}, "lr 0.0 must be positive"),
        ({"epochs": 0}, "epochs 0 must be positive"),
        ({"grid_weight_decay": (-0.1,)}, "weight decay -0.1 must not be negative"),
        ({"augmented": True, "grid_lr": (1e-3, 1e-2)}, "choose with linear_grid first"),
    ):
        with pytest.raises(UserError, match=f"(?i){said}"):
            Linear(**settings)  # type: ignore[arg-type]
    with pytest.raises(NotApplicableError, match="3 training images are too few"):
        GRID.measure(bank(n_train=3), seed=0)
    with pytest.raises(NotApplicableError, match="without a network"):
        Linear(augmented=True).measure(bank(), seed=0)


def looking(preset: str) -> Bank:
    """Images of a bright patch, left or right, and a network that sees where it is; h and one projector layer."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, D), nn.ReLU())
    network = Network(trunk, augment.PRESETS[preset], Runtime("cpu", "fp32"), projector.build("6-4", D), "made")

    def half(n: int) -> Split:
        draw = generator(n, "images")
        side = torch.randint(2, (n,), generator=draw)
        pixels = torch.randint(100, (n, 3, 8, 8), generator=draw, dtype=torch.uint8)
        for at in range(n):
            pixels[at, :, 2:6, 4 * side[at] : 4 * side[at] + 4] += 100
        images = ImageSet(InMemory(pixels), {"side": side}, {"side": ("left", "right")})
        made = extract(network, images, layers=True, label="made")
        return Split(made["h"], images, made)

    return Bank("made", half(600), half(100), "0", network)


@pytest.mark.parametrize("standardise", [False, True])
def test_augmented_without_any_augmentation_is_the_plain_probe(standardise: bool) -> None:
    given = looking("none")
    probe = Linear(lr=1e-3, epochs=3, batch=64, standardise=standardise, layers=True)
    plain = probe.measure(given, seed=0)
    blind = replace(given, train=Split(torch.empty(600, 0), given.train.images))
    assert replace(probe, augmented=True).measure(blind, seed=0) == plain
    assert {number.series for number in plain.numbers} == {"h", "projector 1", "projector 2"}


def test_augmented_training_sees_new_crops_and_flips_every_epoch_and_no_change_of_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, seen = looking("paper"), []
    plain = Network.views

    def watched(self: Network, pixels: Tensor, count: int, seed: int, step: int) -> Tensor:
        made = plain(self, pixels, count, seed, step)
        seen.append((self.augment, len(pixels), made))
        return made

    monkeypatch.setattr(Network, "views", watched)
    before = {name: value.clone() for name, value in given.network.backbone.state_dict().items()}  # type: ignore[union-attr]
    Linear(epochs=2, augmented=True).measure(given, seed=0)
    assert [n for _, n, _ in seen] == [512, 88, 512, 88]
    assert not any(torch.equal(seen[0][2][0, at], seen[2][2][0, at]) for at in range(512))
    paper = augment.PRESETS["paper"]
    for used, _, _ in seen:
        assert (used.scale, used.ratio, used.flip) == (paper.scale, paper.ratio, paper.flip)
        assert {*used.jitter, *used.grey, *used.blur, *used.solarise} == {0.0}
    after = given.network.backbone.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(after[name], value) for name, value in before.items()), "the frozen network changed"


def test_a_flip_unlearns_left_and_right() -> None:
    probe = replace(PRESETS["linear_fast"], epochs=8, batch=64)
    given = looking("none")
    (told,), (flipped,) = (
        replace(probe, augmented=True).measure(replace(given, network=replace(given.network, augment=used)), seed=0).numbers  # type: ignore[type-var]
        for used in (augment.PRESETS["none"], replace(augment.PRESETS["none"], flip=(0.5,)))
    )
    assert told.value > 0.85 and flipped.value < 0.75
