"""The stand-ins for timm's and torchvision's networks are built as these are, and take a width as these do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import stand_in_resnets as resnets
import stand_in_transformers as transformers
import stand_ins
import torch
from stand_in_parts import CLASSES, SIDE
from torch import Tensor, nn

from wingspan import interop, set_width
from wingspan.errors import UserError
from wingspan.width import anatomy

SHORT, STRIDES = (1, 1, 1, 2), (1, 2, 2, 2)


def images(count: int = 4, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def side_of(name: str) -> int:
    """Four positions and more in the last map, at the libraries' strides."""
    return 2 * SIDE if "resnet" in name or "regnet" in name else SIDE


def h(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(x)


# ------------------------------------------------------------------------------------------------------ beside the libraries


def timm(name: str, **options: object) -> nn.Module:
    return interop.timm().create_model(name, num_classes=CLASSES, **options)


def timm_regnet() -> nn.Module:
    regnet = interop.timm().models.regnet
    return regnet.RegNet(regnet.RegNetCfg(6, 8, 8.0, 1.5, 8, 1.0, 0.25, stem_width=16), num_classes=CLASSES)


def torchvision(module: str, kind: str, *given: object, **options: object) -> nn.Module:
    return getattr(getattr(interop.torchvision().models, module), kind)(*given, num_classes=CLASSES, **options)


def torchvision_resnet(block: str, **options: object) -> nn.Module:
    made = getattr(interop.torchvision().models.resnet, block)
    return torchvision("resnet", "ResNet", made, list(SHORT), **options)


def torchvision_regnet() -> nn.Module:
    numbers: list[list[Any]] = [[1, 1, 1, 2], [8, 16, 24, 32], [8] * 4, [1.0] * 4, [2] * 4]
    made = interop.torchvision().models.regnet.BlockParams(*numbers, se_ratio=0.25)
    return torchvision("regnet", "RegNet", made, stem_width=16)


def torchvision_convnext() -> nn.Module:
    setting = interop.torchvision().models.convnext.CNBlockConfig
    return torchvision("convnext", "ConvNeXt", [setting(16, 32, 1), setting(32, None, 2)])


TIMM_DIMS, STANDARD = (8, 16, 24, 32), (64, 128, 256, 512)
_bottlenecks = {"layers": SHORT, "channels": TIMM_DIMS}
_wide = tuple(4 * C for C in TIMM_DIMS)
_swin = {"img_size": 32, "embed_dim": 24, "depths": (2,), "num_heads": (3,), "window_size": 4}
_vit = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
_two = {"dims": (16, 32, 48, 64), "depths": SHORT}
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "timm-resnet-basic": (
        partial(timm, "resnet18", **_bottlenecks), partial(resnets.TimmResNet, TIMM_DIMS, stem=64, strides=STRIDES)
    ),
    "timm-resnet-bottleneck": (
        partial(timm, "resnet50", **_bottlenecks), partial(resnets.TimmResNet, _wide, 4, stem=64, strides=STRIDES)
    ),
    "timm-resnet-se": (
        partial(timm, "seresnet50", **_bottlenecks), partial(resnets.TimmResNet, _wide, 4, se=True, stem=64, strides=STRIDES)
    ),
    "timm-regnet": (timm_regnet, partial(resnets.TimmRegNet, (8, 16, 24, 40), (1, 1, 2, 2), stem=16, strides=[2] * 4)),
    "timm-convnext": (partial(timm, "convnext_tiny", **_two), partial(transformers.TimmConvNeXt, **_two)),
    "timm-vit-token": (partial(timm, "vit_tiny_patch16_224", **_vit), transformers.TimmViT),
    "timm-vit-pooled": (
        partial(timm, "vit_tiny_patch16_224", global_pool="avg", **_vit), partial(transformers.TimmViT, pooled=True)
    ),
    "timm-swin": (partial(timm, "swin_tiny_patch4_window7_224", **_swin), transformers.TimmSwin),
    "torchvision-resnet-basic": (
        partial(torchvision_resnet, "BasicBlock"),
        partial(resnets.TorchvisionResNet, STANDARD, stem=64, strides=STRIDES),
    ),
    "torchvision-resnet-bottleneck": (
        partial(torchvision_resnet, "Bottleneck", width_per_group=4),
        partial(resnets.TorchvisionResNet, [4 * C for C in STANDARD], 64, stem=64, strides=STRIDES),
    ),
    "torchvision-regnet": (torchvision_regnet, partial(resnets.TorchvisionRegNet, stem=16, strides=[2] * 4)),
    "torchvision-convnext": (torchvision_convnext, transformers.TorchvisionConvNeXt),
    "torchvision-vit": (
        partial(torchvision, "vision_transformer", "VisionTransformer", 32, 8, 2, 3, 24, 48), transformers.TorchvisionViT
    ),
    "torchvision-swin": (
        partial(torchvision, "swin_transformer", "SwinTransformer", [4, 4], 24, [2], [3], [4, 4], stochastic_depth_prob=0.0),
        transformers.TorchvisionSwin,
    ),
}  # fmt: skip


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The library's network and the stand-in of the same sizes; skips where the library cannot be imported."""
    theirs, ours = PAIRS[name]
    torch.manual_seed(0)
    try:
        return stand_ins.lively(theirs()), ours().eval()
    except UserError as error:
        pytest.skip(str(error))


def scattered(name: str, value: Tensor) -> Tensor:
    """Weights that make every part of a network count, which most of a library's first ones do not."""
    if not value.is_floating_point():
        return value
    if name.endswith("running_var"):
        return torch.rand_like(value) + 0.5
    if value.ndim == 1:
        return torch.randn_like(value) / 4 + ("weight" in name)
    return torch.randn_like(value) * 2 / value[0].numel() ** 0.5


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_every_stand_in_is_held_against_a_library() -> None:
    assert list(PAIRS) == list(stand_ins.MODELS)


@pytest.mark.parametrize("name", PAIRS)
def test_names_shapes_and_results_are_the_librarys(name: str) -> None:
    theirs, ours = pair(name)
    assert shapes(ours) == shapes(theirs)
    state = {key: scattered(key, value) for key, value in theirs.state_dict().items()}
    for each in (theirs, ours):
        each.load_state_dict(state)
    x = images(4, side_of(name))
    torch.testing.assert_close(h(ours, x), h(theirs, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_the_last_block_is_found_where_the_librarys_is(name: str) -> None:
    found = []
    for model in pair(name):
        x = images(2, side_of(name))
        anatomy.without_classifier(model, x)
        found.append(anatomy.dissect(model, x))
    theirs, ours = ([getattr(each, key) for key in vars(each) if key != "seen"] for each in found)
    assert ours == theirs


@pytest.mark.parametrize("gate", ["relu", "none"])
@pytest.mark.parametrize("name", PAIRS)
def test_widened_they_have_the_same_names_as_the_library_widened(name: str, gate: str) -> None:
    theirs, ours = (set_width(model, 100, gate=gate, side=side_of(name)) for model in pair(name))
    assert shapes(ours) == shapes(theirs)


# ---------------------------------------------------------------------------------------------------------- without a library


@pytest.mark.parametrize("name", stand_ins.MODELS)
def test_a_stand_in_gives_the_same_logits_every_time(name: str) -> None:
    x = images()
    first, again = (h(stand_ins.MODELS[name](), x) for _ in range(2))
    assert first.shape == (4, CLASSES) and torch.equal(first, again)
    assert float(first.std(0).min()) > 1e-3
    assert sum(value.numel() for value in stand_ins.MODELS[name]().parameters()) < 60_000


@pytest.mark.parametrize("name", [name for name in stand_ins.MODELS if "net-" in name or "regnet" in name])
@pytest.mark.parametrize("seen", [False, True])
def test_widened_a_batch_normed_stand_in_keeps_what_it_computed(name: str, seen: bool) -> None:
    model, x = stand_ins.MODELS[name](), images(16)
    before = h(set_width(model, None, side=SIDE), x)
    wide = h(set_width(model, 75, images=x if seen else None, side=SIDE), x)
    assert wide.shape == (16, 75) and before.shape == (16, 32)
    torch.testing.assert_close(wide[:, :32], before, rtol=1e-4, atol=1e-5)
    assert float((wide[:, 32:].std(0) > 0).float().mean()) > 0.8


@pytest.mark.parametrize("name", [name for name in stand_ins.MODELS if "vit" in name or "swin" in name or "convnext" in name])
def test_a_layer_normed_stand_in_takes_any_width_with_and_without_a_gate(name: str) -> None:
    model, x = stand_ins.MODELS[name](), images(16)
    plain = h(set_width(model, None, gate="none", side=SIDE), x)
    [classifier] = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == CLASSES]
    torch.testing.assert_close(classifier(plain), h(model, x))
    for gate in ("relu", "none"):
        for D in (7, 101):
            made = h(set_width(model, D, gate=gate, images=x), x)
            assert made.shape == (16, D) and bool(torch.isfinite(made).all())
            assert bool((made >= 0).all()) == (gate == "relu")
