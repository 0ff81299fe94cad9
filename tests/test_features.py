from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wingspan import augment, features, spec
from wingspan.backbones.resnet import ResNet
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.loop import pretrain
from wingspan.optim import Optim
from wingspan.pretrain import Pretrain, Sitting
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

RUN = Pretrain(
    data=Scenes(train=64, test=32, size=16),
    augment=augment.PRESETS["small"],
    backbone=ResNet(arch="small", width=12, stem="half"),
    projector="16-8",
    optim=Optim("adamw", lr=1e-3),
    epochs=1,
    batch=32,
    precision="fp32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return pretrain(RUN, tmp_path_factory.mktemp("features") / "run", Sitting(device="cpu"))


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime("cpu", "fp32")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return RUN.data.load("test")


def test_frozen_means_frozen(folder: RunFolder, runtime: Runtime, images: ImageSet) -> None:
    _, backbone = features.load_backbone(folder)
    backbone.train()  # however it is handed over
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    features.extract(backbone, images, RUN.augment, runtime, batch=8, label="test")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not backbone.training


def test_the_backbone_is_the_trained_one_and_no_generator_moves(folder: RunFolder) -> None:
    from safetensors.torch import load_file

    state = torch.get_rng_state()
    run, backbone = features.load_backbone(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert run == RUN and not backbone.training
    saved = load_file(folder.checkpoints()[-1] / "learner.safetensors")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, saved[f"backbone.{name}"]), name
    assert int(backbone.get_buffer("bn1.num_batches_tracked")) == 2


def test_features_are_those_of_every_image_alone_whatever_the_batch(
    folder: RunFolder, runtime: Runtime, images: ImageSet
) -> None:
    _, backbone = features.load_backbone(folder)
    slow = []
    mean, std = (torch.tensor(values)[:, None, None] for values in (RUN.augment.mean, RUN.augment.std))
    with torch.no_grad():
        for index in range(len(images)):
            pixels = images.images.batch(torch.tensor([index]))[0]
            slow.append(backbone(((pixels / 255 - mean) / std)[None])[0])
    expected = torch.stack(slow)
    assert float(expected.std(0).max()) > 1e-3, "rows must differ, or their order cannot show"
    for batch in (5, 32, 100):
        h = features.extract(backbone, images, RUN.augment, runtime, batch=batch, label="test")
        assert h.shape == (32, 12) and h.dtype == torch.float16 and not h.requires_grad
        torch.testing.assert_close(h.float(), expected, rtol=2e-3, atol=1e-4)


def test_the_bank_holds_both_splits_with_their_labels(folder: RunFolder, runtime: Runtime, images: ImageSet) -> None:
    found = features.bank(folder, RUN.data, runtime)
    assert found.data == "scenes" and found.fingerprint == spec.fingerprint(RUN)
    assert found.train.h.shape == (64, 12) and found.test.h.shape == (32, 12)
    _, backbone = features.load_backbone(folder)
    assert torch.equal(found.test.h, features.extract(backbone, images, RUN.augment, runtime, label="test"))
    assert torch.equal(found.test.images.task()[0], images.task()[0])
    assert not torch.equal(found.train.h[:32], found.test.h)


class Stained(nn.Module):
    """Gives the value for images whose first pixel is black, and 1 for all others."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        black = x[:, :, 0, 0].sum(1) < -5  # of normalised pixels
        h = torch.ones(len(x), 3)
        h[black, 1] = self.value
        return h


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])  # 1e6 is beyond half precision
def test_features_that_are_not_finite_name_their_rows(value: float, runtime: Runtime) -> None:
    pixels = torch.randint(100, 256, (40, 3, 8, 8), generator=generator(0, "test"), dtype=torch.uint8)
    pixels[[3, 17, 18, 30, 31, 39], :, 0, 0] = 0
    with pytest.raises(UserError, match=r"features of 6 images are not finite \(rows 3, 17, 18, 30, 31\)"):
        features.extract(Stained(value), ImageSet(InMemory(pixels)), augment.PRESETS["none"], runtime, batch=16, label="test")


def copied(folder: RunFolder, place: Path, **backbone: object) -> RunFolder:
    """The run's folder again, its run.json claiming another backbone."""
    shutil.copytree(folder.path, place)
    claimed = json.loads((place / "run.json").read_text())
    claimed["backbone"].update(backbone)
    del claimed["fingerprint"]
    claimed["fingerprint"] = spec.fingerprint(spec.from_json(Pretrain, claimed))
    (place / "run.json").write_text(json.dumps(claimed))
    return RunFolder(place)


def test_weights_of_another_width_are_refused(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        features.load_backbone(copied(folder, tmp_path / "wider", width=16))
    said = str(caught.value)
    assert "layer4.1.bn3.bias: (12,) found, (16,) expected" in said and "width" in said and "more" in said
    with pytest.raises(UserError, match=r"bias: absent found, \(2,\) expected"):
        features.read_weights(nn.Linear(2, 2), folder.checkpoints()[-1] / "learner.safetensors")


def test_a_folder_without_weights_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    bare = copied(folder, tmp_path / "bare")
    shutil.rmtree(bare.path / "checkpoints")
    with pytest.raises(UserError, match=r"holds no checkpoint yet: wingspan pretrain --resume"):
        features.load_backbone(bare)
    with pytest.raises(UserError, match="does not exist"):
        features.load_backbone(RunFolder(tmp_path / "nowhere"))


@pytest.mark.parametrize("cut", [0, 100])
def test_damaged_weights_are_refused(folder: RunFolder, tmp_path: Path, cut: int) -> None:
    broken = copied(folder, tmp_path / "broken")
    file = broken.checkpoints()[-1] / "learner.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot be read as weights"):
        features.load_backbone(broken)
