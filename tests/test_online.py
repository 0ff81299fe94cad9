"""Evaluation during training: right, bounded, resumed to the bit, and without any trace in the run."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from tiny_runs import TIMING, WORDS, assert_equal_runs, command, cut, learner, optimiser, said, same, tiny
from torch import nn

from wingspan import augment, loop, online, progress, sampling, spec
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.loop import pretrain
from wingspan.objectives.base import Objective
from wingspan.online import Online, Probe
from wingspan.pretrain import Sitting, prepare
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

ON, OFF = Sitting(online=True), Sitting(online=False)
FIELDS = {"online_accuracy", "online_test_accuracy", "online_knn"}
RUNS = {
    **{name: tiny(objective=name) for name in spec.files(Objective)},
    "accumulated": tiny(accumulate=2),
    "accumulated supervised": tiny(objective="supervised", accumulate=2),
    "bf16": tiny(precision="bf16"),
    "no projector": tiny(projector=""),
    "lars": tiny(optim__name="lars", optim__lr=0.5),
}


@pytest.fixture(autouse=True)
def _notes_anew(monkeypatch):
    monkeypatch.setattr(progress, "_told", set())


def lines(folder: RunFolder, without: set[str] = TIMING) -> list[dict[str, float]]:
    return [{key: line[key] for key in line if key not in without} for line in folder.read_metrics()]


def assert_same_training(left: RunFolder, right: RunFolder) -> None:
    assert left.done() and right.done()
    assert same(learner(left), learner(right)) and same(optimiser(left), optimiser(right))
    assert lines(left, TIMING | FIELDS) == lines(right, TIMING | FIELDS)


def probe_file(folder: RunFolder):
    return folder.checkpoints()[-1] / "online.pt"


def votes(distance: np.ndarray) -> np.ndarray:
    """The weights of neighbours at 1 - cosine, for scikit-learn."""
    return np.exp((1 - distance) / 0.07)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_to_the_last_bit_with_and_without(name, tmp_path):
    drawn = []
    for label, sitting in (("on", ON), ("off", OFF)):
        torch.manual_seed(1)
        pretrain(RUNS[name], tmp_path / label, sitting)
        drawn.append(torch.get_rng_state())
    watched, plain = RunFolder(tmp_path / "on"), RunFolder(tmp_path / "off")
    assert_same_training(watched, plain)
    assert torch.equal(*drawn), "torch's generator moved"
    assert all("online_accuracy" in line for line in lines(watched))
    assert [line["step"] for line in lines(watched) if line.keys() >= FIELDS] == [3, 6]
    assert all(0 <= line[key] <= 1 for line in lines(watched) for key in FIELDS & line.keys())
    assert not any(FIELDS & line.keys() for line in lines(plain)) and not probe_file(plain).exists()


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_gives_the_same_online_numbers(step, tmp_path, monkeypatch):
    whole = pretrain(tiny(), tmp_path / "whole", ON)
    halved = cut(tiny(), tmp_path / "halved", step, monkeypatch, ON)
    pretrain(tiny(), halved.path, ON, resume=True)
    assert_equal_runs(whole, halved)  # online fields among the others
    left, right = (torch.load(probe_file(folder), weights_only=True) for folder in (whole, halved))
    assert same(left, right) and left["steps"] == 6 and left["weight"].any()


@pytest.mark.parametrize(("first", "second"), [(ON, OFF), (OFF, ON)], ids=["on-off", "off-on"])
def test_it_can_be_switched_between_two_sittings(first, second, tmp_path, monkeypatch, capsys):
    whole = pretrain(tiny(), tmp_path / "whole", ON)
    halved = cut(tiny(), tmp_path / "halved", 2, monkeypatch, first)
    capsys.readouterr()
    pretrain(tiny(), halved.path, second, resume=True)
    assert ("holds no online probe" in said(capsys)) == second.online
    assert_same_training(whole, halved)
    seen = [line["step"] for line in lines(halved) if "online_accuracy" in line]
    assert seen == ([3, 4, 5, 6] if second.online else [1, 2])
    if second.online:
        assert torch.load(probe_file(halved), weights_only=True)["steps"] == 4


@pytest.mark.parametrize("what", ["damaged", "of another width", "of another make"])
def test_a_probe_that_cannot_be_used_begins_anew(what, tmp_path, monkeypatch, capsys):
    whole = pretrain(tiny(), tmp_path / "whole", OFF)
    halved = cut(tiny(), tmp_path / "halved", 2, monkeypatch, ON)
    file = probe_file(halved)
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    elif what == "of another width":
        torch.save(Probe(15, 12, torch.device("cpu")).state(), file)
    else:
        torch.save({"weight": torch.zeros(12, 16)}, file)
    pretrain(tiny(), halved.path, ON, resume=True)
    assert "the online probe begins anew" in said(capsys)
    assert_same_training(whole, halved)
    assert torch.load(probe_file(halved), weights_only=True)["steps"] == 4


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", ["simclr", "supervised", "byol"])
def test_the_probe_is_a_linear_layer_trained_on_h_of_the_first_view(objective, accumulate):
    run = tiny(objective=objective, accumulate=accumulate, projector="8")
    images, runtime = run.data.load("train"), Runtime("cpu", "fp32")
    state = prepare(run, images, runtime)
    state.learner.train()
    slow = nn.Linear(16, 12)
    nn.init.zeros_(slow.weight)
    nn.init.zeros_(slow.bias)
    trainer = torch.optim.AdamW(slow.parameters(), online.rate(16))
    running = 0.0
    with Online(run, state.learner, images, runtime, Sitting(online_every=0)) as watching:
        for at in range(6):
            indices = sampling.uniform(run.seed, at, len(images), run.batch)
            pixels = images.images.batch(indices)
            draws = augment.draws(run.augment, run.batch, run.objective.views, run.seed, at)
            part = run.batch // accumulate
            h = []  # of the first view, as the network gives it before this step
            for start in range(0, run.batch, part):
                views = augment.apply(run.augment, pixels[start : start + part], draws[start : start + part])
                before = copy.deepcopy(state.learner.backbone)
                before._forward_hooks.clear()
                h.append(before(views)[:part].detach())
            scores, labels = slow(torch.cat(h)), images.task()[0][indices]
            running += (float((scores.argmax(1) == labels).float().mean()) - running) / (at + 1)
            trainer.zero_grad()
            F.cross_entropy(scores, labels).backward()
            trainer.step()
            loop.step(run, state, runtime, images, indices, pixels, 6)
            assert watching.after_step(indices, state.step, 3) == {"online_accuracy": pytest.approx(running)}
    assert watching.probe is not None and slow.weight.abs().max() > 1e-4
    torch.testing.assert_close(watching.probe.weight, slow.weight, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(watching.probe.bias, slow.bias, rtol=1e-3, atol=1e-6)


def test_an_epoch_s_test_sees_plain_views_in_evaluation_mode_and_leaves_no_trace(monkeypatch):
    run = tiny()
    images, runtime = run.data.load("train"), Runtime("cpu", "fp32")
    learner = prepare(run, images, runtime).learner.train()
    learner.backbone.layer1.eval()  # a part that stays frozen stays so
    watching = Online(run, learner, images, runtime, ON)
    with torch.no_grad():
        watching.probe.weight.normal_(generator=generator(0, "test"))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    neighbours, seen = online.neighbours, []
    monkeypatch.setattr(
        online, "neighbours", lambda similarity, *rest: seen.append(similarity) or neighbours(similarity, *rest)
    )
    with watching:
        found = watching._tested(watching.probe)
    assert same(before, learner.state_dict()) and watching._parts == []
    modes = {name: module.training for name, module in learner.named_modules()}
    assert not any(mode for name, mode in modes.items() if name.startswith("backbone.layer1"))
    assert all(mode for name, mode in modes.items() if not name.startswith("backbone.layer1"))
    test = run.data.load("test")
    frozen = copy.deepcopy(learner.backbone).eval()
    every = [augment.plain(run.augment, split.images.batch(torch.arange(len(split)))) for split in (images, test)]
    with torch.no_grad():
        bank, h = (frozen(views) for views in every)
    torch.testing.assert_close(seen[0], F.normalize(h) @ F.normalize(bank).T)
    answers = (h @ watching.probe.weight.T + watching.probe.bias).argmax(1)
    assert found["online_test_accuracy"] == float((answers == test.task()[0]).double().mean()) > 0
    oracle = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: torch.tensor((1 - distance) / 0.07).exp().numpy()
    )
    oracle.fit(bank.numpy(), images.task()[0].numpy())
    assert found["online_knn"] == pytest.approx(oracle.score(h.numpy(), test.task()[0].numpy()))


def test_neighbours_vote_as_scikit_learn_s_do():
    draw = generator(0, "test")
    known, queries = torch.randn(300, 5, generator=draw), torch.randn(200, 5, generator=draw)
    labels = torch.randint(4, (300,), generator=draw)
    similarity = F.normalize(queries) @ F.normalize(known).T
    oracle = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: torch.tensor((1 - distance) / 0.07).exp().numpy()
    )
    expected = oracle.fit(known.numpy(), labels.numpy()).predict(queries.numpy())
    assert online.neighbours(similarity, labels, 4).tolist() == expected.tolist()
    few = online.neighbours(similarity[:, :3], labels[:3], 4)  # fewer images than neighbours
    assert set(few.tolist()) <= set(labels[:3].tolist())


def test_rows_to_test_on_are_few_the_same_for_all_and_of_every_class():
    images = ImageSet(InMemory(torch.zeros(5000, 3, 1, 1, dtype=torch.uint8)))  # as a folder of class folders lies
    rows = online._rows(images, "test", 500)
    assert len(rows) == 500 == len(rows.unique()) and torch.equal(rows, online._rows(images, "test", 500))
    assert torch.equal(rows, rows.sort().values)
    assert (torch.bincount(rows // 500, minlength=10) - 50).abs().max() < 25
    assert online._rows(images, "bank", 9000).tolist() == list(range(5000))


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [3, 6, 9]), (2, [6, 9]), (5, [9])])
def test_how_often_it_is_tested(every, steps, tmp_path):
    folder = pretrain(tiny(epochs=3), tmp_path / "run", Sitting(online_every=every))
    assert [line["step"] for line in lines(folder) if "online_knn" in line] == steps


def test_a_number_of_epochs_below_zero_is_refused():
    with pytest.raises(UserError, match=r"--online-every -1 must be 0"):
        Sitting(online_every=-1)


@pytest.mark.parametrize("what", ["without", "of one class"])
def test_images_without_labels_train_as_ever_with_one_note(what, tmp_path, monkeypatch, capsys):
    load = Scenes.load

    def stripped(self, split):
        images = load(self, split)
        if what == "without":
            return dataclasses.replace(images, labels={}, classes={}, target=None)
        return dataclasses.replace(images, labels={"a": torch.zeros(len(images)).long()}, classes={"a": ("b",)}, target="a")

    plain = pretrain(tiny(), tmp_path / "plain", OFF)
    monkeypatch.setattr(Scenes, "load", stripped)
    watched = pretrain(tiny(), tmp_path / "watched", ON)
    assert_same_training(watched, plain)
    assert said(capsys).count("no accuracy is shown during training") == 1
    assert not any(FIELDS & line.keys() for line in lines(watched)) and not probe_file(watched).exists()


@pytest.mark.parametrize("what", ["value", "error"])
def test_a_probe_that_fails_ends_alone(what, tmp_path, monkeypatch, capsys):
    learn = Probe.learn

    def failing(self, h, labels):
        if self.steps == 2 and what == "error":
            raise torch.OutOfMemoryError("out of memory")
        learn(self, h * (math.nan if self.steps == 2 else 1), labels)

    plain = pretrain(tiny(), tmp_path / "plain", OFF)
    monkeypatch.setattr(Probe, "learn", failing)
    watched = pretrain(tiny(), tmp_path / "watched", ON)
    assert_same_training(watched, plain)
    told = said(capsys)
    assert "online evaluation ends at step 3" in told and ("nan" if what == "value" else "out of memory") in told
    assert [line["step"] for line in lines(watched) if "online_accuracy" in line] == [1, 2]


def test_a_test_split_that_cannot_be_read_leaves_the_probe(tmp_path, monkeypatch, capsys):
    load = Scenes.load

    def broken(self, split):
        if split == "test":
            raise UserError("no test split here")
        return load(self, split)

    monkeypatch.setattr(Scenes, "load", broken)
    watched = pretrain(tiny(), tmp_path / "watched", ON)
    told = said(capsys)
    assert told.count("no test split here") == 1 and "training goes on" in told
    assert [FIELDS & line.keys() for line in lines(watched)] == [{"online_accuracy"}] * 6


def test_a_test_split_that_draws_while_it_loads_moves_nothing(tmp_path, monkeypatch):
    load = Scenes.load
    monkeypatch.setattr(Scenes, "load", lambda self, split: (split == "test" and torch.rand(3), load(self, split))[1])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pretrain(tiny(), tmp_path / "run", ON)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_line_switches_it_off(tmp_path):
    assert command("pretrain", *WORDS, "--no-online", "--out", tmp_path / "off") == 0
    assert command("pretrain", *WORDS, "--online-every", "2", "--out", tmp_path / "on") == 0
    assert_same_training(RunFolder(tmp_path / "off"), RunFolder(tmp_path / "on"))
    assert not any(FIELDS & line.keys() for line in lines(RunFolder(tmp_path / "off")))
    assert [line["step"] for line in lines(RunFolder(tmp_path / "on")) if "online_knn" in line] == [6]
