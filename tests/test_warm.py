"""What a run begins with: another run's weights at any width, timm's, a first classifier, a backbone that stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_runs
import torch
from sklearn.linear_model import LogisticRegression

from wingspan import augment, spec, warm
from wingspan.backbones.timm import Timm
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.loop import pretrain
from wingspan.network import load_network
from wingspan.objectives.supervised import Supervised
from wingspan.pretrain import Sitting, prepare
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.start import Start

CPU = Runtime("cpu", "fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return pretrain(tiny_runs.tiny(backbone__shortcut="projection"), tmp_path_factory.mktemp("trained") / "run")


def views(run, count: int = 16) -> torch.Tensor:
    return augment.plain(run.views, run.data.load("test").images.batch(torch.arange(count)))


def begun(run):
    images = run.data.load("train")
    learner = prepare(run, images, CPU).learner
    return learner, warm.begin(run, learner, images, CPU)


def after(run, folder: RunFolder) -> spec.Any:
    return spec.override(run, {"start": Start(weights=str(folder.path))})


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_a_run_begins_with_what_another_learnt_at_twice_its_width(trained: RunFolder, objective: str) -> None:
    run = after(tiny_runs.tiny(backbone__width=40, objective=objective), trained)
    learner, told = begun(run)
    _, network = load_network(trained, CPU)
    x = views(run)
    before, now = network.h(x), learner.backbone.eval()(x)
    torch.testing.assert_close(now[:, :16], before, rtol=1e-4, atol=1e-5)
    assert "D = 40" in told[0] and "D = 16" in told[0]
    if objective == "byol":
        for old, new in zip(learner.average[0].state_dict().values(), learner.backbone.state_dict().values(), strict=True):
            assert torch.equal(old, new)


@pytest.mark.parametrize(("narrow", "images"), [("channels", 32), ("projection", 32), ("channels", 0)])
def test_a_run_begins_with_half_of_what_another_learnt(trained: RunFolder, narrow: str, images: int) -> None:
    run = tiny_runs.tiny(backbone__width=8, start=Start(weights=str(trained.path), narrow=narrow, images=images))
    learner, _ = begun(run)
    _, network = load_network(trained, CPU)
    before, now = network.h(views(run)), learner.backbone.eval()(views(run))
    kept = [any(torch.allclose(column, other, atol=1e-4) for other in before.T) for column in now.T]
    assert all(kept) if narrow == "channels" else not all(kept)
    if not images:
        torch.testing.assert_close(now, before[:, :8], rtol=1e-4, atol=1e-5)


def test_a_begun_run_trains_resumes_bitwise_and_is_a_run_of_its_own(trained: RunFolder, tmp_path: Path, monkeypatch) -> None:
    run = after(tiny_runs.tiny(backbone__width=24), trained)
    assert spec.fingerprint(run) != spec.fingerprint(tiny_runs.tiny(backbone__width=24))
    whole = pretrain(run, tmp_path / "whole")
    folder = tiny_runs.cut(run, tmp_path / "cut", 2, monkeypatch)
    pretrain(run, folder.path, resume=True)
    one, other = (load_network(each, CPU)[1].backbone.state_dict() for each in (whole, folder))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_first_classifier_is_the_best_linear_one(trained: RunFolder) -> None:
    run = tiny_runs.tiny(
        objective=Supervised(), projector="", data=Scenes(train=300, test=32, size=16),
        start=Start(weights=str(trained.path), head=True), backbone__shortcut="projection",
    )  # fmt: skip
    learner, told = begun(run)
    images = run.data.load("train")
    h = learner.backbone.eval()(augment.plain(run.views, images.images.batch(torch.arange(300)))).detach()
    labels, head = images.task()[0], learner.heads["classifier"]
    found = (head(h).argmax(1) == labels).float().mean()
    decay = float(told[-1].split("decay ")[1].split(",")[0])
    std = h.std(0, correction=0)
    x = (h - h.mean(0)) / (std + 1e-3 * std.mean())
    oracle = LogisticRegression(C=1 / (decay * 300), max_iter=5000, tol=1e-8).fit(x.numpy(), labels.numpy())
    agree = (torch.from_numpy(oracle.predict(x.numpy())) == head(h).argmax(1)).float().mean()
    assert float(agree) > 0.97 and float(found) >= oracle.score(x.numpy(), labels.numpy()) - 0.01


def test_a_frozen_backbone_stays_to_the_bit_while_its_classifier_learns(trained: RunFolder, tmp_path: Path) -> None:
    start = Start(weights=str(trained.path), frozen=True)
    run = tiny_runs.tiny(objective=Supervised(), projector="", start=start, backbone__shortcut="projection", epochs=8)
    folder = pretrain(run, tmp_path / "run", Sitting(online_every=1))
    first, last = load_network(trained, CPU)[1].backbone, load_network(folder, CPU)[1].backbone
    assert all(torch.equal(value, last.state_dict()[name]) for name, value in first.state_dict().items())
    log = folder.read_metrics()
    losses = [entry["cross_entropy"] for entry in log]
    assert sum(losses[-6:]) < sum(losses[:6])


def test_what_a_run_cannot_begin_with_is_said_before_anything_is_written(trained: RunFolder, tmp_path: Path) -> None:
    def refused(said: str, **changes: object) -> None:
        with pytest.raises(UserError, match=said):
            pretrain(tiny_runs.tiny(**changes), tmp_path / "never")
        assert not (tmp_path / "never" / "run.json").exists()

    refused("is not there", start=Start(weights="runs/nowhere"))
    refused("stem", start=Start(weights=str(trained.path)), backbone__stem="cifar")
    refused("is for timm's models", start=Start(weights="pretrained"))
    (tmp_path / "empty").mkdir()
    refused("empty", start=Start(weights=str(tmp_path / "empty")))
    refused("shortcut projection", start=Start(weights=str(trained.path)), backbone__width=512)
    with pytest.raises(UserError, match="head"):
        tiny_runs.tiny(start=Start(head=True))
    with pytest.raises(UserError, match="-1"):
        Start(images=-1)


# ---------------------------------------------------------------------------------------------------------------------- timm


def timm(name: str, **options: object) -> Timm:
    made = Timm(timm=name, **options)
    try:
        made.plain()
    except UserError as error:
        if "cannot be imported" in str(error):
            pytest.skip(str(error))
        raise
    return made


def test_a_run_of_a_timm_model_is_trained_and_widened_into_another(tmp_path: Path) -> None:
    backbone = timm("convnext_atto", width=24, patch=2)
    run = tiny_runs.tiny(backbone=backbone, data=Scenes(train=48, test=32, size=32))
    first = pretrain(run, tmp_path / "first")
    wide = dataclasses.replace(
        run, backbone=dataclasses.replace(backbone, width=50), start=Start(weights=str(first.path), images=32)
    )
    learner, _ = begun(wide)
    assert learner.backbone.eval()(views(run)).shape == (16, 50)
    second = pretrain(wide, tmp_path / "second")
    assert load_network(second, CPU)[1].h(views(run)).shape == (16, 50)


def test_timms_models_have_their_own_width_unless_told() -> None:
    assert timm("resnet50").D == 2048 and timm("vit_small_patch16_224").D == 384 and timm("convnext_tiny", width=7).D == 7
    with pytest.raises(UserError, match="convnext_tiny"):
        Timm(timm="convnext_tinny").plain()
    with pytest.raises(UserError, match="patch_size 3"):
        timm("resnet18", patch=3).plain()
    with pytest.raises(UserError, match="0"):
        Timm(width=0)
    with pytest.raises(UserError, match="-3"):
        Timm(side=-3)


@pytest.mark.parametrize("objective", ["simclr", "vicreg"])
@pytest.mark.parametrize("D", [512, 4096, 16384])
@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "vit_small_patch16_224"])
def test_timms_models_train_two_steps_at_any_width(name: str, D: int, objective: str, tmp_path: Path) -> None:
    side = 64 if name.startswith("vit") else 0
    run = tiny_runs.tiny(
        backbone=timm(name, width=D, side=side), objective=objective, data=Scenes(train=8, test=4, size=64), batch=4, epochs=1
    )
    folder = pretrain(run, tmp_path / "run", Sitting(online=False))
    log = folder.read_metrics()
    assert len(log) == 2 and all(entry["gradient_norm"] > 0 for entry in log)
