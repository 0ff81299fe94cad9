"""Setting the width of other libraries' models: what is kept exactly, what comes new, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from torch import nn

from wingspan import set_width
from wingspan.backbones.resnet import PRESETS, ResNet
from wingspan.errors import UserError

BATCH_NORMED = [name for name in zoo.MAKERS if "res" in name or "reg" in name]
SIGNED = [name for name in zoo.MAKERS if name not in BATCH_NORMED]


def h(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(x)


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_a_widened_network_keeps_its_old_channels_and_a_narrowed_one_some_of_them(name: str) -> None:
    model, x = zoo.model(name), zoo.images()
    before = h(set_width(model, None), x)
    C = before.shape[1]
    for seen in (None, x):
        wide = h(set_width(model, 2 * C + 3, images=seen), x)
        assert wide.shape == (8, 2 * C + 3)
        torch.testing.assert_close(wide[:, :C], before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    if name not in ("timm-seresnet50",):  # squeeze and excitation sees fewer channels then
        narrow = h(set_width(model, C // 4), x)
        torch.testing.assert_close(narrow, before[:, : C // 4], rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("name", [name for name in SIGNED if "swinv2" not in name])
def test_pairs_behind_a_relu_lose_nothing(name: str) -> None:
    model, x = zoo.model(name), zoo.images()
    gated = set_width(model, None)
    C = h(gated, x).shape[1]
    replaced = copy.deepcopy(gated)  # the same network with the norm where it is now, and no ReLU
    [place] = [path for path, part in gated.named_modules() if isinstance(part, nn.ReLU) and path.endswith(("gate", "second"))]
    replaced.get_submodule(place.rpartition(".")[0])._modules[place.rpartition(".")[2]] = nn.Identity()
    signed = h(replaced, x)
    for seen in (None, x):
        pairs = h(set_width(model, 2 * C, images=seen), x)
        assert bool((pairs >= 0).all())
        torch.testing.assert_close(pairs[:, :C] - pairs[:, C:], signed, rtol=1e-3, atol=1e-3 * float(signed.abs().max()))


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_images_so_small_that_the_last_map_is_one_pixel_change_nothing(name: str) -> None:
    model, x = zoo.model(name), zoo.images()
    wide = {side: set_width(model, 700, side=side) for side in (32, 64)}
    torch.testing.assert_close(h(wide[32], x), h(wide[64], x))


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("gate", ["relu", "none"])
def test_a_network_with_signed_features_takes_any_width(name: str, gate: str) -> None:
    model, x = zoo.model(name), zoo.images()
    for D in (7, 1024 + 1):
        made = h(set_width(model, D, gate=gate, images=x), x)
        assert made.shape == (8, D) and bool(torch.isfinite(made).all())
        assert bool((made >= 0).all()) == (gate == "relu")
        assert float(made.std(0).median()) > 0


def test_without_a_gate_the_representation_at_its_own_width_is_the_librarys() -> None:
    x = zoo.images()
    for name in ("timm-convnext_atto", "timm-vit-pooled", "timm-swin_tiny_patch4_window7_224", "timm-resnet18"):
        model = zoo.model(name)
        theirs = copy.deepcopy(model)
        theirs.reset_classifier(0)
        assert torch.equal(h(set_width(model, None, gate="none"), x), h(theirs, x))


@pytest.mark.parametrize("name", list(zoo.MAKERS))
def test_a_linear_shortcut_at_the_same_width_changes_nothing(name: str) -> None:
    model, x = zoo.model(name), zoo.images(2)
    before = h(set_width(model, None, gate="none"), x)
    projected = set_width(model, None, gate="none", shortcut="projection")
    torch.testing.assert_close(h(projected, x), before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
    assert sum(p.numel() for p in projected.parameters()) >= before.shape[1] ** 2


@pytest.mark.parametrize("name", ["timm-seresnet50", "timm-vit_tiny_patch16_224", "torchvision-swin"])
def test_the_model_that_was_given_stays_as_it_was(name: str) -> None:
    model, x = zoo.model(name).train(), zoo.images(2)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    paths = [path for path, _ in model.named_modules()]
    wide = set_width(model, 999, images=x)
    assert type(wide) is type(model) and wide.training
    assert [path for path, _ in model.named_modules()] == paths and all(part.training for part in model.modules())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in wide.modules())
    again = set_width(model, 999, images=x)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in wide.state_dict().items())
    copy.deepcopy(wide).load_state_dict(wide.state_dict())


@pytest.mark.parametrize(
    "name", ["timm-resnet18", "timm-convnext_atto", "timm-vit_tiny_patch16_224", "timm-vit-pooled", "torchvision-swin"]
)
def test_a_width_can_be_set_again_and_again(name: str) -> None:
    """Names depend on the last width only, so that a checkpoint loads whatever way led to it."""
    model, x = zoo.model(name), zoo.images(2)
    straight = set_width(model, 96)
    for first in (None, 33, 700):
        around = set_width(set_width(model, first), 96)
        assert {k: v.shape for k, v in around.state_dict().items()} == {k: v.shape for k, v in straight.state_dict().items()}
        around.load_state_dict(straight.state_dict())
        torch.testing.assert_close(h(around, x), h(straight, x))


def test_our_own_resnets_take_a_width_like_any_other() -> None:
    torch.manual_seed(0)
    model, x = zoo.lively(PRESETS["small"].build()), torch.randn(8, 3, 32, 32)
    before = h(model, x)
    wide = set_width(model, 1300, images=x)
    torch.testing.assert_close(h(wide, x)[:, :512], before, rtol=1e-4, atol=1e-5)
    built = ResNet(arch="small", stem="half", width=1300).build()
    built.load_state_dict(wide.state_dict())
    torch.testing.assert_close(h(built, x), h(wide, x))
    assert wide.width == 1300 and wide.streamed == model.streamed


def test_new_channels_are_as_active_as_old_ones() -> None:
    model, x = zoo.model("timm-resnet18"), zoo.images(64)
    made = h(set_width(model, 1000, images=x), x)
    old, new = made[:, :128], made[:, 128:]
    for statistic in (lambda v: v.mean(), lambda v: v.std(0).mean()):
        assert 1 / 3 < float(statistic(new) / statistic(old)) < 3  # equal at one position, before the ReLU
    assert float((new.std(0) > 1e-3 * old.std(0).median()).float().mean()) > 0.95


def test_fresh_layers_follow_torchs_generator_and_start_like_the_librarys() -> None:
    model = zoo.model("timm-resnet18")
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(set_width(model, 1024, keep=False))
    first, same, other = (each.layer4[-1].conv2.weight.detach() for each in made)
    assert torch.equal(first, same) and not torch.equal(first, other)
    wanted = (2 / (1024 * 9)) ** 0.5  # Kaiming, fan out
    assert abs(float(first.std()) / wanted - 1) < 0.02
    assert float(made[0].layer4[-1].downsample[1].weight.mean()) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficientnet_b0", "mixes channels"), ("densenet121", "no residual addition"), ("vgg11", "no residual addition"),
    ],
)  # fmt: skip
def test_networks_without_such_a_block_are_refused_by_name(name: str, said: str) -> None:
    try:
        model = zoo.interop.timm().create_model(name)
    except UserError as error:
        pytest.skip(str(error))
    with pytest.raises(UserError, match=said) as told:
        set_width(model, 64, side=64)
    assert type(model).__name__ in str(told.value)


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_what_cannot_be_meant_is_said_so() -> None:
    with pytest.raises(UserError, match=r"Unpooled gives \(2, 8, 32, 32\)"):
        set_width(Unpooled(), 16, side=32)
    for D in (0, -1, 2.5, True, "64"):
        with pytest.raises(UserError, match="not a positive integer"):
            set_width(PRESETS["small"].build(), D)
    with pytest.raises(UserError, match="side"):
        set_width(zoo.model("timm-vit_tiny_patch16_224"), 64, side=50)
