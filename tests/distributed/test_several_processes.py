"""One process with 2n images a step, two with n, four with n / 2: the same losses, gradients, statistics and averages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import several
import tiny_runs
import torch

from wingspan import loop
from wingspan.backbones.resnet import ResNet
from wingspan.errors import AgreedError
from wingspan.loop import pretrain
from wingspan.pretrain import Pretrain, Sitting
from wingspan.runs import RunFolder
from wingspan.spec import override
from wingspan.stopping import Interrupted

# Plain descent, so that weights differ by as much as gradients do: AdamW's first steps are signs, and round either way.
PLAIN = {"optim.name": "sgd", "optim.lr": 0.05, "optim.warmup": 0.0}
CASES: dict[str, dict[str, object]] = {
    **{name: {"objective": name} for name in ("simclr", "vicreg", "barlow", "byol", "supervised")},
    "parts": {"objective": "byol", "accumulate": 2},
    "streamed": {"backbone": ResNet(arch="small", stem="half", width=48, streamed="on")},
    "classes": {"sampling.classes": 3},
    # Projectors in parts: LARS needs whole norms, and of 5 rows in 4 processes one has none.
    "fsdp": {"projector": "24-10-5", "objective": "byol", "optim.name": "lars", "optim.lr": 2.0},
    "fsdp, parts": {"projector": "24-5", "objective": "vicreg", "accumulate": 2},
    "fsdp, labels": {"objective": "supervised"},
}
SITTING = Sitting(device="cpu")
SHARDED = replace(SITTING, strategy="fsdp")


def run(case: str) -> Pretrain:
    return override(tiny_runs.tiny(epochs=1), PLAIN | CASES[case])


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """In fp32 a rounding that turns one ReLU is a thousandth of such small gradients."""
    prepare, apply = loop.prepare, loop.augmentation.apply

    def prepared(*given):
        state = prepare(*given)
        state.learner.double()
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", prepared)
        patch.setattr(loop.augmentation, "apply", lambda *given: apply(*given).double())
        yield


def work(rank: int, folder: Path) -> None:
    with in_float64():
        for case in CASES:
            pretrain(run(case), folder / case, SHARDED if case.startswith("fsdp") else SITTING)
            if "MASTER_PORT" in os.environ:
                several.meet_elsewhere()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {world: tmp_path_factory.mktemp(f"world{world}") for world in (1, 2, 4)}
    work(0, folders[1])
    for world in (2, 4):
        several.spawn(work, world, folders[world])
    return folders


def assert_near(one: RunFolder, other: RunFolder) -> None:
    lines, others = one.read_metrics(), other.read_metrics()
    assert len(lines) == len(others) == 3
    for line, same in zip(lines, others, strict=True):
        for name in line.keys() - tiny_runs.TIMING - {"online_accuracy", "online_test_accuracy", "online_knn"}:
            assert same[name] == pytest.approx(line[name], rel=1e-9, abs=1e-12), name
    ours, theirs = tiny_runs.learner(one), tiny_runs.learner(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_what_one_does(case: str, world: int, done: dict[int, Path]) -> None:
    assert_near(RunFolder(done[1] / case), RunFolder(done[world] / case))


def test_the_comparison_could_fail(done: dict[int, Path], tmp_path: Path) -> None:
    other = pretrain(replace(run("simclr"), batch=24, epochs=2), tmp_path / "other", SITTING)
    ours, theirs = tiny_runs.learner(RunFolder(done[1] / "simclr")), tiny_runs.learner(other)
    assert max(float((ours[name] - value).abs().max()) for name, value in theirs.items() if value.is_floating_point()) > 1e-3


def halted(rank: int, folder: Path) -> None:
    """Two steps, each saved, then a signal that only one process hears of."""
    compute = loop.step

    def watched(run, state, *rest):
        if rank == 1 and state.step == 1:
            os.kill(os.getpid(), 15)
        return compute(run, state, *rest)

    loop.step = watched
    with in_float64(), pytest.raises(Interrupted, match="step 2 of 3"):
        pretrain(run("byol"), folder, replace(how(folder), save_seconds=0))


def finished(rank: int, folder: Path) -> None:
    with in_float64():
        pretrain(run("byol"), folder, how(folder), resume=True)


def how(folder: Path) -> Sitting:
    return SHARDED if folder.name == "fsdp" else SITTING


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_stops_all_and_another_number_goes_on(strategy: str, done: dict[int, Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / strategy)
    several.spawn(halted, 2, folder.path)
    assert [each.name for each in folder.checkpoints()] == ["step-000000001", "step-000000002"]
    several.spawn(finished, 4, folder.path)
    assert_near(RunFolder(done[1] / "byol"), folder)


def test_a_damaged_checkpoint_lets_all_go_on_from_the_one_before(done: dict[int, Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "ddp")
    several.spawn(halted, 2, folder.path)
    cut = folder.checkpoint(2) / "optimiser.pt"
    cut.write_bytes(cut.read_bytes()[:-100])
    several.spawn(finished, 2, folder.path)
    assert_near(RunFolder(done[1] / "byol"), folder)


def half(rank: int, folder: Path) -> None:
    pretrain(replace(run("byol"), precision="bf16"), folder, how(folder))


def test_layers_that_travel_in_bf16_train_as_those_that_do_not(tmp_path: Path) -> None:
    losses = {}
    for strategy in ("ddp", "fsdp"):
        several.spawn(half, 2, tmp_path / strategy)
        losses[strategy] = [line["loss"] for line in RunFolder(tmp_path / strategy).read_metrics()]
    assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=2e-3)


def broken(rank: int, folder: Path) -> None:
    """Numbers that are none, in one process only."""
    apply = loop.augmentation.apply

    def spoilt(*given):
        views = apply(*given)
        return views * float("nan") if rank == 1 else views

    loop.augmentation.apply = spoilt
    with pytest.raises(AgreedError, match="not finite at step 1"):
        pretrain(run("simclr"), folder, SITTING)


def test_what_is_not_finite_in_one_ends_all_before_a_weight_moves(tmp_path: Path) -> None:
    several.spawn(broken, 2, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").checkpoints()


def uneven(rank: int, folder: Path) -> None:
    with pytest.raises(Exception, match="cannot be shared equally by 3" if rank == 0 else "first process could not begin"):
        pretrain(run("simclr"), folder, SITTING)


def test_a_batch_that_cannot_be_shared_is_refused_by_the_first(tmp_path: Path) -> None:
    several.spawn(uneven, 3, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
