"""Fine-tuning: a classifier from a run and a few labels, as one more run, and what it is worth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, recall_score
from tiny_runs import command, said

from wingspan import finetuned, finetuning, loop
from wingspan.augment import Augment
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes
from wingspan.data.subset import Subset
from wingspan.errors import UserError
from wingspan.finetuning import Wish, labelled, plan, schedule, source, views
from wingspan.network import load_network
from wingspan.pretrain import Pretrain, Sitting, load_run
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

SHORT = ("--epochs", "1", "--batch", "12", "--no-online")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Noise that is redder for cats and bluer for dogs: 40 training and 20 test images, 24 pixels a side."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        for at in range(count):
            file = tmp_path / "pets" / split / ("cat" if at % 2 else "dog") / f"{at}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 120, (24, 24, 3), dtype=np.uint8)
            pixels[..., 0 if at % 2 else 2] += 100
            Image.fromarray(pixels).save(file)
    return tmp_path / "pets"


# -------------------------------------------------------------------------------------------------------------- the plan


def test_the_plan_is_a_supervised_run_that_begins_with_the_other_and_keeps_how_it_looks(finished: RunFolder) -> None:
    before = load_run(finished)
    run = plan(finished.path, Wish(before.data, labels="25%", seed=3)).run
    assert run.data == Subset(before.data, 12, 3) and run.seed == 3
    assert run.backbone == before.backbone and run.precision == before.precision and run.projector_text == ""
    assert (run.augment.mean, run.augment.std, run.augment.size) == (
        before.augment.mean,
        before.augment.std,
        before.augment.size,
    )
    assert run.start.weights == str(finished.path) and run.start.head and not run.start.frozen
    assert plan(finished.path, Wish(before.data, "head")).run.start.frozen
    assert plan(finished.path, Wish(before.data, labels="100%")).run.data == before.data


def test_views_drop_what_labels_do_not_ask_for_and_bring_nothing_back() -> None:
    whole = views(Augment(grey=(0.5,), blur=(1.0, 0.1), flip=(0.0,), jitter=(0.0,)), "whole")
    assert whole.grey == whole.blur == whole.solarise == whole.flip == whole.jitter == (0.0,)
    assert whole.scale == (0.5, 1.0) and views(Augment(), "whole").brightness == 0.2
    assert views(Augment(scale=(0.7, 1.0)), "whole").scale == (0.7, 1.0)
    head = views(Augment(), "head")
    assert head.scale == head.ratio == (1.0, 1.0) and head.flip == (0.5,) and head.jitter == (0.0,)


@pytest.mark.parametrize("images", [2, 3, 15, 16, 17, 50, 100, 1000, 5000, 100_000])
def test_the_schedule_fits_any_number_of_labels(images: int) -> None:
    batch, epochs = schedule(images)
    steps = images // batch * epochs
    assert 2 <= batch <= images and steps >= 200 and epochs >= 20
    assert epochs == 20 or steps - images // batch < 200, "no more passes than they take"


def test_what_is_given_is_kept() -> None:
    assert schedule(100, 50, 3) == (50, 3)
    with pytest.raises(UserError, match="--batch 101 is larger than the 100 labelled images"):
        schedule(100, 101)


def test_the_rate_is_that_of_the_peak_and_follows_pretraining(finished: RunFolder) -> None:
    def peak(run: Pretrain) -> float:
        return run.optim.lr * run.batch / 256

    data = load_run(finished).data
    assert peak(plan(finished.path, Wish(data, lr=0.02)).run) == pytest.approx(0.02)
    assert peak(plan(finished.path, Wish(data)).run) == pytest.approx(1e-4)
    assert finetuning.rate(Pretrain(), "whole") == 3e-4
    rates = [finetuning.rate(tiny_runs.tiny(batch=batch), "whole") for batch in (16, 64, 256, 2048)]
    assert rates == pytest.approx([1e-4, 2.5e-4, 1e-3, 1e-3])


def test_how_labels_are_counted() -> None:
    assert [labelled(text, 2000) for text in ("", "100", "10%", "0.5%", "100%")] == [2000, 100, 200, 10, 2000]
    for text, message in (
        ("ten", "'ten' is no number of images"), ("nan%", "is no number"), ("inf%", "is no number"),
        ("2001", "--labels 2001 is 2001 of 2000"), ("0", "from one a class"), ("-5", "-5 of 2000"), ("0.001%", "0 of 2000"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            labelled(text, 2000)


# ------------------------------------------------------------------------------------------------------------- the score


def test_scores_are_scikit_learn_s() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 200) * 2  # classes 1 and 3 have no image
    given = np.where(draw.random(200) < 0.6, truth, draw.integers(0, 5, 200))
    names = ("a", "b", "c", "d", "e")
    found = finetuned.scores(torch.from_numpy(given), torch.from_numpy(truth), names)
    assert found["accuracy"] == pytest.approx((given == truth).mean())
    exact = binomtest(int((given == truth).sum()), 200).proportion_ci(method="wilson")
    assert found["interval"] == pytest.approx([exact.low, exact.high])
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, given))
    own = recall_score(truth, given, labels=[0, 2, 4], average=None)
    assert [each["accuracy"] for each in found["per_class"].values()] == pytest.approx(own.tolist())
    assert list(found["per_class"]) == ["a", "c", "e"] and sum(each["n"] for each in found["per_class"].values()) == 200


def test_standard_errors_are_the_spread_over_test_sets() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 60, 40]))
    able = torch.tensor([0.9, 0.5, 0.3])[truth]
    made = []
    for _ in range(400):
        right = torch.rand(len(truth), generator=draw) < able
        made.append(finetuned.scores(torch.where(right, truth, (truth + 1) % 3), truth, ("a", "b", "c")))
    spread = np.std([each["balanced_accuracy"] for each in made])
    assert np.mean([each["balanced_error"] for each in made]) == pytest.approx(spread, rel=0.1)


# ----------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("what", ["whole", "head"])
def test_a_folder_of_photos_becomes_a_classifier(finished: RunFolder, pets: Path, what: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert (
        command("finetune", finished.path, "--data.path", pets, "--what", what, "--lr", "1e-3", "--out", out, "--no-online")
        == 0
    )
    told = said(capsys)
    assert f"wingspan export {out} --to onnx" in told and "40 labelled images of 2 classes, 20 each" in told
    found = json.loads((out / "finetuned.json").read_text())
    assert found["n"] == 20 and found["chance"] == 0.5 and found["now"]["accuracy"] >= 0.9
    assert found["labels"] == {"cat": 20, "dog": 20} and set(found["now"]["per_class"]) == {"cat", "dog"}
    assert f"{100 * found['now']['accuracy']:.1f} ±" in told
    backbone = {name: value for name, value in tiny_runs.learner(finished).items() if name.startswith("backbone.")}
    after = tiny_runs.learner(RunFolder(out))
    assert all(torch.equal(value, after[name]) for name, value in backbone.items()) == (what == "head")
    assert load_run(RunFolder(out)).data == Hub(path=str(pets), size=16)


def test_the_printed_json_is_the_file_and_the_classifier_is_what_the_checkpoint_holds(
    finished: RunFolder, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert command("finetune", finished.path, "--labels", "24", *SHORT, "--lr", "0.05", "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "finetuned.json").read_text())
    run, weights = load_run(RunFolder(out)), tiny_runs.learner(RunFolder(out))
    test = run.data.load("test")
    network = load_network(RunFolder(out), Runtime("cpu", "fp32"))[1].at(16)
    h = network.h(network.plain(test.images.batch(torch.arange(len(test)))))
    answers = (h @ weights["heads.classifier.weight"].T + weights["heads.classifier.bias"]).argmax(1)
    assert found["now"]["accuracy"] == pytest.approx(float((answers == test.task()[0]).double().mean()))
    gain = found["now"]["accuracy"] - found["began"]["accuracy"]
    assert gain, "so high a rate changes answers: else this test would not see which weights are scored"
    assert found["gain"]["value"] == pytest.approx(gain) and found["gain"]["error"] >= 0
    assert sum(found["labels"].values()) == 24 and found["from"]["width"] == 16


def test_the_first_score_is_that_of_the_probe_it_began_with(finished: RunFolder, tmp_path: Path, monkeypatch) -> None:
    run = plan(finished.path, Wish(load_run(finished).data, epochs=1, batch=12)).run
    seen = {}
    train = loop._train

    def watched(run, state, images, sampler, runtime, *rest):
        test = run.data.load("test")
        seen["right"] = (finetuned.answers(run, state, runtime, test, "") == test.task()[0]).double().mean()
        state.learner.train()
        return train(run, state, images, sampler, runtime, *rest)

    monkeypatch.setattr(loop, "_train", watched)
    loop.pretrain(run, tmp_path / "out", Sitting(online=False))
    assert finetuned.score(tmp_path / "out")["began"]["accuracy"] == pytest.approx(float(seen["right"]))


def test_cut_short_the_same_command_goes_on_bitwise_and_a_score_is_not_made_twice(
    finished: RunFolder, tmp_path: Path, monkeypatch, capsys
) -> None:
    words = ("finetune", finished.path, "--labels", "24", "--epochs", "3", "--batch", "12", "--no-online")
    assert command(*words, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        tiny_runs.signal_at(patched, 3)
        assert command(*words, "--out", tmp_path / "cut") == 143
    assert "give the same command again" in said(capsys)
    assert command(*words, "--out", tmp_path / "cut") == 0
    tiny_runs.assert_equal_runs(RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut"))
    monkeypatch.setattr(finetuned, "prepare", None)
    assert command(*words, "--out", tmp_path / "cut") == 0
    assert command(*words, "--seed", "1", "--out", tmp_path / "cut") == 2
    assert "seed: 0 -> 1" in said(capsys)


def test_another_width_and_another_side_are_done_and_told(finished: RunFolder, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ("--data", "scenes", "--data.train", "48", "--data.test", "32", "--data.size", "24", "--width", "24")
    assert command("finetune", finished.path, *words, *SHORT, "--out", out) == 0
    told = said(capsys)
    assert "the run has D = 16, and 24 is asked for" in told and "saw images of 16 pixels a side and will now see 24" in told
    found = json.loads((out / "finetuned.json").read_text())
    assert found["width"] == 24 and found["from"]["width"] == 16


# ---------------------------------------------------------------------------------------------------------- what is wrong


def test_a_folder_that_is_no_run_names_the_nearest(finished: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "runs" / "first")
    with pytest.raises(UserError, match=r"frist' is no run: it holds no run.json. Did you mean '.*runs/first'"):
        source(tmp_path / "runs" / "frist")
    with pytest.raises(UserError, match=r"Did you mean '.*runs/first'"):
        source(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "first" / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        source(tmp_path / "runs" / "first")


def test_what_cannot_be_learnt_is_said_before_anything_is_written(
    finished: RunFolder, pets: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"

    def refused(message: str, *words: object) -> None:
        assert command("finetune", finished.path, *words, "--out", out) == 2
        assert message in said(capsys) and not out.exists()

    refused("from 40 images of 2 classes", "--data.path", pets, "--labels", "1")
    refused("--labels 41 is 41 of 40", "--data.path", pets, "--labels", "41")
    refused("width 0 is not a positive integer", "--width", "0")
    refused("each name the images", "--data.path", pets, "--data", "scenes")
    shutil.rmtree(pets / "train" / "dog")
    refused("show a single class ('cat')", "--data.path", pets)
    for split in ("train", "test"):
        for file in (pets / split).rglob("*.png"):
            file.rename(pets / split / file.name)
    refused("no labels", "--data.path", pets)
    assert command("finetune") == 2 and "which run?" in said(capsys)
    assert command("finetune", finished.path, "--out", finished.path) == 2
    assert "choose another folder" in said(capsys)


def test_classes_without_a_labelled_image_are_named(finished: RunFolder) -> None:
    rare = Scenes(train=30, test=12, size=16, imbalance=1000.0)
    counts = plan(finished.path, Wish(rare)).counts
    assert 0 in counts
    assert any(
        f"{counts.count(0)} of 12 classes have no labelled image" in note for note in plan(finished.path, Wish(rare)).notes
    )
