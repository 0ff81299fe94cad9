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
from wingspan.network import Network, load_network, read_weights
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
    _, found = load_network(folder, runtime)
    backbone = found.backbone.train()  # however it is handed over
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    features.extract(found, images, layers=True, batch=8, label="test")
    found.views(images.images.batch(torch.arange(4)), 2, seed=0, step=0)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not backbone.training


def test_the_backbone_is_the_trained_one_and_no_generator_moves(folder: RunFolder) -> None:
    from safetensors.torch import load_file

    state = torch.get_rng_state()
    run, found = load_network(folder, Runtime("cpu", "fp32"))
    backbone = found.backbone
    assert torch.equal(torch.get_rng_state(), state)
    assert run == RUN and not backbone.training
    saved = load_file(folder.checkpoints()[-1] / "learner.safetensors")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, saved[f"backbone.{name}"]), name
    assert int(backbone.get_buffer("bn1.num_batches_tracked")) == 2


def test_features_are_those_of_every_image_alone_whatever_the_batch(
    folder: RunFolder, runtime: Runtime, images: ImageSet
) -> None:
    _, found = load_network(folder, runtime)
    slow = []
    mean, std = (torch.tensor(values)[:, None, None] for values in (RUN.augment.mean, RUN.augment.std))
    with torch.no_grad():
        for index in range(len(images)):
            pixels = images.images.batch(torch.tensor([index]))[0]
            slow.append(found.backbone(((pixels / 255 - mean) / std)[None])[0])
    expected = torch.stack(slow)
    assert float(expected.std(0).max()) > 1e-3, "rows must differ, or their order cannot show"
    for batch in (5, 32, 100):
        h = features.extract(found, images, batch=batch, label="test")["h"]
        assert h.shape == (32, 12) and h.dtype == torch.float16 and not h.requires_grad
        torch.testing.assert_close(h.float(), expected, rtol=2e-3, atol=1e-4)


def test_the_bank_holds_both_splits_with_their_labels(folder: RunFolder, runtime: Runtime, images: ImageSet) -> None:
    _, network = load_network(folder, runtime)
    found = features.bank(network, RUN.data, spec.fingerprint(RUN))
    assert found.data == "scenes" and found.fingerprint == spec.fingerprint(RUN)
    assert found.train.h.shape == (64, 12) and found.test.h.shape == (32, 12)
    assert torch.equal(found.test.h, features.extract(network, images, label="test")["h"])
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
    with pytest.raises(UserError, match=r"runs/broken, test: features of 6 images are not finite \(rows 3, 17, 18, 30, 31\)"):
        network = Network(Stained(value), augment.PRESETS["none"], runtime, name="runs/broken")
        features.extract(network, ImageSet(InMemory(pixels)), batch=16, label="test")


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
        load_network(copied(folder, tmp_path / "wider", width=16), Runtime("cpu"))
    said = str(caught.value)
    assert "layer4.1.bn3.bias: (12,) found, (16,) expected" in said and "width" in said and "more" in said
    with pytest.raises(UserError, match=r"bias: absent found, \(2,\) expected"):
        read_weights(nn.Linear(2, 2), folder.checkpoints()[-1] / "learner.safetensors")


def test_a_folder_without_weights_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    bare = copied(folder, tmp_path / "bare")
    shutil.rmtree(bare.path / "checkpoints")
    with pytest.raises(UserError, match=r"holds no checkpoint yet: wingspan pretrain --resume"):
        load_network(bare, Runtime("cpu"))
    with pytest.raises(UserError, match="does not exist"):
        load_network(RunFolder(tmp_path / "nowhere"), Runtime("cpu"))


@pytest.mark.parametrize("cut", [0, 100])
def test_damaged_weights_are_refused(folder: RunFolder, tmp_path: Path, cut: int) -> None:
    broken = copied(folder, tmp_path / "broken")
    file = broken.checkpoints()[-1] / "learner.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_network(broken, Runtime("cpu"))


def test_layers_are_the_projectors_outputs_one_after_another(folder: RunFolder, runtime: Runtime, images: ImageSet) -> None:
    _, found = load_network(folder, runtime)
    assert found.projector is not None and found.layer_names() == ("h", "projector 1", "projector 2")
    views = found.plain(images.images.batch(torch.arange(8)))
    made = found.layers(views)
    assert {name: tuple(values.shape) for name, values in made.items()} == {
        "h": (8, 12),
        "projector 1": (8, 16),
        "projector 2": (8, 8),
    }
    torch.testing.assert_close(made["h"], found.h(views), rtol=0, atol=0)  # an in-place ReLU has not touched it
    with torch.no_grad():
        torch.testing.assert_close(made["projector 2"], found.projector(found.backbone(views)))
        torch.testing.assert_close(made["projector 1"], found.projector[:3](found.backbone(views)))
    stored = features.extract(found, images, layers=True, label="test")
    torch.testing.assert_close(stored["projector 2"][:8].float(), made["projector 2"], rtol=2e-3, atol=1e-4)


def test_a_module_without_projector_has_one_layer(runtime: Runtime) -> None:
    network = Network(Stained(1.0), augment.PRESETS["none"], runtime)
    assert network.layer_names() == ("h",) and set(network.layers(torch.zeros(2, 3, 8, 8))) == {"h"}


def test_only_the_features_that_are_needed_are_made(folder: RunFolder, runtime: Runtime) -> None:
    _, network = load_network(folder, runtime)
    found = features.bank(network, RUN.data, "", ("test", "network"))
    assert found.train.h.shape == (64, 0) and found.test.h.shape == (32, 12) and not found.test.layers
    layered = features.bank(network, RUN.data, "", ("test", "layers"))
    assert set(layered.test.layers) == {"h", "projector 1", "projector 2"} and layered.test.layers["h"] is layered.test.h


def test_large_features_lie_in_a_file_that_leaves_nothing_behind(
    folder: RunFolder, runtime: Runtime, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, network = load_network(folder, runtime)
    in_memory = features.extract(network, images, label="test")["h"]
    monkeypatch.setattr(features, "_MAPPED", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped = features.extract(network, images, label="test")["h"]
    assert torch.equal(mapped, in_memory) and not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="TMPDIR"):
        features.extract(network, images, label="test")
