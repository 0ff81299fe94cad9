"""Our ResNets with torchvision's and timm's weights give the libraries' own features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wingspan import interop, weights
from wingspan.backbones.resnet import ResNet
from wingspan.errors import UserError


def theirs(library: str, arch: str) -> nn.Module:
    """A model with random weights, norms and statistics, and its classifier."""
    torch.manual_seed(0)
    try:
        made = interop.timm().create_model(arch) if library == "timm" else getattr(interop.torchvision().models, arch)()
    except UserError as error:
        pytest.skip(str(error))
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    return made


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def headless(model: nn.Module) -> nn.Module:
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_our_resnets_give_the_librarys_features_with_its_weights(library: str, arch: str) -> None:
    model = theirs(library, arch)
    for streamed in ("off", "on"):
        ours = ResNet(arch=arch, streamed=streamed).build()
        ours.load_state_dict(weights.fitted(model.state_dict(), shapes(ours), arch))
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            h, h_theirs = ours.eval()(x), headless(model).eval()(x)
        assert float((h - h_theirs).abs().max() / h_theirs.abs().max()) < 1e-5


@pytest.mark.parametrize("streamed", ["off", "on"])
@pytest.mark.parametrize(("library", "arch"), [("torchvision", "resnet50"), ("torchvision", "resnet18"), ("timm", "resnet50")])
def test_in_training_and_in_float64_they_agree_too(library: str, arch: str, streamed: str) -> None:
    model = headless(theirs(library, arch)).double()
    ours = ResNet(arch=arch, streamed=streamed).build().double()
    ours.load_state_dict(weights.fitted(model.state_dict(), shapes(ours), "a file"))
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (False, True, False):  # the last one with statistics that the middle one moved
        with torch.no_grad():
            h, h_theirs = ours.train(training)(x), model.train(training)(x)
        assert float((h - h_theirs).abs().max() / h_theirs.abs().max()) < 1e-12
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-10, atol=1e-12)
