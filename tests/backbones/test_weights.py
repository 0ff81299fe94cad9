"""Files of weights: other programs' layouts come in, what does not fit is refused with what was found."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import safetensors.torch
import tiny_runs
import torch
from torch import nn

from wingspan import interop, warm, weights
from wingspan.backbones.resnet import ResNet
from wingspan.errors import UserError
from wingspan.pretrain import prepare
from wingspan.runtime import Runtime
from wingspan.start import Start


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def small(**changes: object) -> ResNet:
    return ResNet(arch="small", stem="half", **changes)


def wrapped(layout: str, state: dict[str, torch.Tensor]) -> object:
    """How others save a backbone: (facts) key layouts of their checkpoints, beside what else they hold."""
    noise = torch.randn(4, 4)
    if layout == "moco":  # facebookresearch/moco main_moco.py: a data-parallel wrapper around encoder_q and encoder_k
        both = {f"module.encoder_{side}.{name}": value + (side == "k") for side in "qk" for name, value in state.items()}
        return {"epoch": 3, "arch": "resnet50", "state_dict": both | {"module.encoder_q.fc.0.weight": noise}}
    if layout == "vicreg":  # facebookresearch/vicreg: {"model": {"module.backbone....", "module.projector...."}}
        return {
            "epoch": 3,
            "model": {f"module.backbone.{k}": v for k, v in state.items()} | {"module.projector.0.weight": noise},
        }
    if layout == "solo":  # solo-learn: a Lightning checkpoint, "backbone."
        return {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"projector.0.weight": noise}}
    if layout == "dino":  # facebookresearch/dino: {"student": ..., "teacher": {"backbone....", "head...."}}
        sides = {side: {f"backbone.{k}": v + (side == "student") for k, v in state.items()} for side in ("student", "teacher")}
        return {**sides, "epoch": 1}
    if layout == "lightly":  # lightly's examples: nn.Sequential(*list(resnet.children())[:-1]), and its momentum twin
        numbered = {weights._numbered(name): value for name, value in state.items()}
        twin = {f"backbone_momentum.{name}": value + 1 for name, value in numbered.items()}
        return {
            "state_dict": {f"backbone.{k}": v for k, v in numbered.items()} | twin | {"projection_head.layers.0.weight": noise}
        }
    if layout == "ema":  # timm's train.py: the average is what it validates; options stand beside
        average = {name: value + 1 for name, value in state.items()}
        return {"state_dict": average, "state_dict_ema": state, "args": argparse.Namespace(model="resnet50", lr=0.1)}
    return state | {"fc.weight": noise, "fc.bias": noise[0]}


@pytest.mark.parametrize("layout", ["plain", "moco", "vicreg", "solo", "dino", "lightly", "ema"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_of_other_programs_come_in(layout: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = small().build()
    file = tmp_path / f"x{suffix}"
    saved = wrapped(layout, module.state_dict())
    if suffix == ".pth":
        torch.save(saved, file)
    else:
        safetensors.torch.save_file({name: value.clone() for name, value in weights._flat(saved, "")}, file)
    got = weights.fitted(weights.read(file), shapes(module), str(file))
    for name, value in module.state_dict().items():
        assert torch.equal(got[name], value)


def test_a_library_s_sequential_of_children_is_numbered_as_we_think() -> None:
    try:
        model = interop.torchvision().models.resnet18()
    except UserError as error:
        pytest.skip(str(error))
    rows = nn.Sequential(*list(model.children())[:-1]).state_dict()
    ours = ResNet(arch="resnet18").build()
    got = weights.fitted({f"backbone.{name}": value for name, value in rows.items()}, shapes(ours), "lightly's")
    for name, value in model.state_dict().items():
        if not name.startswith("fc"):
            assert torch.equal(got[name], value)


def test_a_deeper_network_or_another_shortcut_is_not_taken_for_ours() -> None:
    deeper = ResNet(arch="resnet34").build().state_dict()
    with pytest.raises(UserError, match=r"layer1\.2\.conv1\.weight is one too many"):
        weights.fitted(deeper, shapes(ResNet(arch="resnet18").build()), "resnet34.pth")
    straight = {"a.0.weight": (1,), "a.0.bias": (1,)}
    held = {"a.0.weight": torch.ones(1), "a.0.bias": torch.ones(1), "head.fc.weight": torch.ones(1)}
    assert len(weights.fitted(held, straight, "x")) == 2
    with pytest.raises(UserError, match=r"a\.0\.downsample\.0\.weight is one too many"):
        weights.fitted(held | {"a.0.downsample.0.weight": torch.ones(1)}, straight, "x")


def test_counts_of_batches_may_be_missing() -> None:
    module = small().build()
    state = {name: value for name, value in module.state_dict().items() if "num_batches" not in name}
    module.load_state_dict(weights.fitted(state, shapes(module), "old"))


def test_a_run_begins_with_a_file_of_weights_at_any_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = small().build()
    safetensors.torch.save_file(old.state_dict(), tmp_path / "old.safetensors")
    for D in (512, 700):
        run = tiny_runs.tiny(
            backbone=small(), backbone__width=D, start=Start(weights=str(tmp_path / "old.safetensors"), images=32)
        )
        images = run.data.load("train")
        learner = prepare(run, images, Runtime("cpu", "fp32")).learner
        warm.begin(run, learner, images, Runtime("cpu", "fp32"))
        x = torch.randn(4, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(learner.backbone.eval()(x)[:, :512], old.eval()(x), rtol=1e-4, atol=1e-5)


class Danger:
    def __reduce__(self):
        return (Path.touch, (Path("never"),))


def test_files_that_do_not_fit_are_refused_with_what_was_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = small().build()
    state = module.state_dict()
    with pytest.raises(UserError, match=r"layer4.1.conv3.weight: \(512, 128, 1, 1\) found, \(64, 128, 1, 1\) wanted"):
        weights.fitted(state, shapes(small(width=64).build()), "x.pth")
    with pytest.raises(UserError, match="is not there"):
        weights.fitted({name: value for name, value in state.items() if "layer1" not in name}, shapes(module), "x.pth")
    with pytest.raises(UserError, match="0 fit"):
        weights.fitted({"a": torch.zeros(1)}, shapes(module), "x.pth")
    torch.save({"state_dict": state, "danger": Danger()}, "danger.pth")
    with pytest.raises(UserError, match="more than weights"):
        weights.read(Path("danger.pth"))
    assert not Path("never").exists()
    Path("cut.safetensors").write_bytes(b"1234")
    Path("cut.pth").write_bytes(b"1234")
    torch.save({"epoch": 3}, "empty.pth")
    for name in ("cut.safetensors", "cut.pth", "empty.pth"):
        with pytest.raises(UserError, match=name.partition(".")[0]):
            weights.read(Path(name))
