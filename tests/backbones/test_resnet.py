from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wingspan.backbones.resnet import PLANS, ResNet
from wingspan.chance import generator
from wingspan.errors import UserError

# torchvision's published parameter counts less its classifier fc, which has 1000 (inputs + 1) of them.
TORCHVISION = {
    "resnet18": 11_689_512 - 1000 * 513,
    "resnet34": 21_797_672 - 1000 * 513,
    "resnet50": 25_557_032 - 1000 * 2049,
    "resnet101": 44_549_160 - 1000 * 2049,
    "resnet152": 60_192_808 - 1000 * 2049,
    "wide_resnet50_2": 68_883_240 - 1000 * 2049,
}
BLOCKS = {
    "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3), "wide_resnet50_2": (3, 4, 6, 3),
}  # fmt: skip


def unallocated(spec: ResNet) -> nn.Module:
    with torch.device("meta"):
        return spec.build()


def count(spec: ResNet) -> int:
    return sum(p.numel() for p in unallocated(spec).parameters())


def pictures(side: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, side, side, generator=generator(0, "test"))


@pytest.mark.parametrize(("arch", "parameters"), TORCHVISION.items())
def test_standard_width_has_torchvisions_parameter_count(arch: str, parameters: int) -> None:
    for scope in ("block", "stage", "planes"):
        assert count(ResNet(arch=arch, width_scope=scope)) == parameters  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("D", "block", "stage", "planes"),
    [(512, 23.8, 18.0, 10.0), (2048, 23.5, 23.5, 23.5), (8192, 43.5, 45.6, 216), (32768, 106.5, 133.9, 3205)],
)
def test_cost_of_every_scope_in_millions(D: int, block: float, stage: float, planes: float) -> None:
    assert round(count(ResNet(width=D, width_scope="block")) / 1e6, 1) == block
    assert round(count(ResNet(width=D, width_scope="stage")) / 1e6, 1) == stage
    millions = count(ResNet(width=D, width_scope="planes")) / 1e6
    assert round(millions, 1 if planes < 100 else 0) == planes


def test_a_narrow_and_a_wide_last_block_by_hand() -> None:
    standard = TORCHVISION["resnet50"] - 512 * 2048 - 2 * 2048  # without conv3 and bn3 of layer4.2
    for D in (7, 4096):
        assert count(ResNet(width=D)) == standard + 512 * D + 2 * D + 2048 * D + 2 * D  # conv3, bn3, shortcut, its norm
    assert count(ResNet(width=2048, shortcut="projection")) == TORCHVISION["resnet50"] + 2048 * 2048 + 2 * 2048
    basic = TORCHVISION["resnet18"] - 512 * 512 * 9 - 2 * 512
    assert count(ResNet(arch="resnet18", width=9)) == basic + 512 * 9 * 9 + 2 * 9 + 512 * 9 + 2 * 9


def torchvision_names(arch: str) -> Iterator[str]:
    bottleneck = arch not in ("resnet18", "resnet34")
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield "conv1.weight"
    yield from (f"bn1.{name}" for name in norm)
    for layer, blocks in enumerate(BLOCKS[arch], 1):
        for block in range(blocks):
            for conv in range(1, 4 if bottleneck else 3):
                yield f"layer{layer}.{block}.conv{conv}.weight"
                yield from (f"layer{layer}.{block}.bn{conv}.{name}" for name in norm)
            if block == 0 and (bottleneck or layer > 1):
                yield f"layer{layer}.0.downsample.0.weight"
                yield from (f"layer{layer}.0.downsample.1.{name}" for name in norm)


@pytest.mark.parametrize("arch", BLOCKS)
def test_names_are_torchvisions(arch: str) -> None:
    names = unallocated(ResNet(arch=arch)).state_dict().keys()  # type: ignore[arg-type]
    assert set(names) == set(torchvision_names(arch))
    if arch == "resnet50":
        assert len(names) == 320 - 2  # fc.weight, fc.bias


def test_some_shapes_of_torchvision() -> None:
    shapes = {name: tuple(value.shape) for name, value in unallocated(ResNet()).state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (64, 64, 1, 1)
    assert shapes["layer4.0.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert shapes["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    wide = unallocated(ResNet(arch="wide_resnet50_2")).state_dict()
    assert tuple(wide["layer1.0.conv1.weight"].shape) == (128, 64, 1, 1)
    assert tuple(wide["layer4.2.conv3.weight"].shape) == (2048, 1024, 1, 1)


@given(
    D=st.integers(1, 700),
    arch=st.sampled_from(["small", "resnet18"]),
    scope=st.sampled_from(["block", "stage"]),
    shortcut=st.sampled_from(["auto", "projection"]),
)
@example(1, "small", "block", "auto")
@example(3, "small", "stage", "projection")
@example(1000, "small", "block", "auto")
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_width_gives_nonnegative_features_of_that_width(D: int, arch: str, scope: str, shortcut: str) -> None:
    spec = ResNet(arch=arch, width=D, width_scope=scope, shortcut=shortcut, stem="half")  # type: ignore[arg-type]
    h = spec.build()(pictures(16))
    assert h.shape == (2, D) and spec.D == D
    assert bool((h >= 0).all()) and bool(torch.isfinite(h).all())


@pytest.mark.parametrize("D", [4, 200])
def test_planes_scale_the_inner_width_too(D: int) -> None:
    net = ResNet(arch="small", width=D, width_scope="planes", stem="half").build()
    assert net(pictures(16)).shape == (2, D)
    inner = {
        name: value.shape[0] for name, value in net.state_dict().items() if re.fullmatch(r"layer4\.\d\.conv[12]\.weight", name)
    }
    assert set(inner.values()) == {D // 4} and len(inner) == 4


@pytest.mark.parametrize(("scope", "where"), [("block", "layer4.1."), ("stage", "layer4."), ("planes", "layer4.")])
def test_the_width_changes_only_what_its_scope_says(scope: str, where: str) -> None:
    def shapes(width: int | None) -> dict[str, tuple[int, ...]]:
        net = unallocated(ResNet(arch="small", width=width, width_scope=scope))  # type: ignore[arg-type]
        return {name: tuple(value.shape) for name, value in net.state_dict().items()}

    standard, wide = shapes(None), shapes(640)
    changed = {name for name in {*standard, *wide} if standard.get(name) != wide.get(name)}
    assert changed and all(name.startswith(where) for name in changed)
    inner = {name for name in changed if re.search(r"conv[12]|bn[12]\.", name)}
    assert scope == "planes" or inner <= {"layer4.1.conv1.weight"}, "inner widths stay, but for what the block before gives"


@pytest.mark.parametrize(
    ("stem", "side", "first", "last"), [("imagenet", 64, 16, 2), ("cifar", 32, 32, 4), ("half", 32, 16, 2), ("half", 15, 8, 1)]
)
def test_spatial_sizes_of_the_stems(stem: str, side: int, first: int, last: int) -> None:
    net = ResNet(arch="small", stem=stem).build()  # type: ignore[arg-type]
    sizes: list[tuple[int, ...]] = []
    net.get_submodule("layer1").register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    net.get_submodule("layer4").register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    net(pictures(side))
    assert sizes == [(first, first), (last, last)]


@pytest.mark.parametrize(
    ("width", "shortcut", "projected"),
    [(None, "auto", False), (512, "auto", False), (512, "projection", True), (100, "auto", True)],
)
def test_shortcut_of_the_last_block(width: int | None, shortcut: str, projected: bool) -> None:
    net = ResNet(arch="small", width=width, shortcut=shortcut).build()  # type: ignore[arg-type]
    assert ("layer4.1.downsample.0.weight" in net.state_dict()) == projected
    assert sum(name.endswith("downsample.0.weight") for name in net.state_dict()) == 4 + projected  # each stage's first block


def functional(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """A bottleneck ResNet in evaluation mode from torchvision-named weights, stem 3x3 stride 2, written straight down."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, offset = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + offset

    x = torch.relu(norm(F.conv2d(x, weights["conv1.weight"], stride=2, padding=1), "bn1"))
    for layer in range(1, 5):
        for block in itertools.count():
            at = f"layer{layer}.{block}"
            if f"{at}.conv1.weight" not in weights:
                break
            stride = 2 if layer > 1 and block == 0 else 1
            shortcut = x
            if f"{at}.downsample.0.weight" in weights:
                shortcut = norm(F.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            y = torch.relu(norm(F.conv2d(x, weights[f"{at}.conv1.weight"]), f"{at}.bn1"))
            y = torch.relu(norm(F.conv2d(y, weights[f"{at}.conv2.weight"], stride=stride, padding=1), f"{at}.bn2"))
            y = norm(F.conv2d(y, weights[f"{at}.conv3.weight"]), f"{at}.bn3")
            x = torch.relu(y + shortcut)
    return x.flatten(2).mean(2)


@pytest.mark.parametrize("width", [512, 24])
def test_forward_is_torchvisions_v15_bottleneck(width: int) -> None:
    net = ResNet(arch="small", width=width, stem="half").build().double().eval()
    draw = generator(0, "test")
    for name, value in net.state_dict().items():
        if "running_var" in name:
            value.copy_(torch.rand(value.shape, generator=draw, dtype=torch.float64) + 0.5)
        elif "bn" in name or "downsample.1" in name:
            value.copy_(torch.randn(value.shape, generator=draw, dtype=torch.float64) if value.is_floating_point() else value)
    x = pictures(20).double()
    torch.testing.assert_close(net(x), functional(net.state_dict(), x))


def test_zero_init_silences_every_residual_branch() -> None:
    net = ResNet(arch="small", zero_init=True).build()
    last = [value for name, value in net.state_dict().items() if re.fullmatch(r"layer\d\.\d\.bn3\.weight", name)]
    assert len(last) == sum(PLANS["small"].blocks) and not any(bool(value.any()) for value in last)
    plain = ResNet(arch="small").build()
    assert all(bool((m.weight == 1).all()) for m in plain.modules() if isinstance(m, nn.BatchNorm2d))


def test_convolutions_start_as_he_normal_over_outputs() -> None:
    torch.manual_seed(0)
    weight = ResNet(arch="small", stem="half").build().get_parameter("layer4.1.conv2.weight")
    assert float(weight.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("width", [0, -1, True, 2.5, "12"])
def test_a_width_that_is_none_is_refused(width: object) -> None:
    with pytest.raises(UserError, match=re.escape(f"width {width!r} is not a positive integer")):
        ResNet(width=width)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "nearest"), [(2047, 2048), (1, 4), (1001, 1000)])
def test_planes_of_a_bottleneck_need_a_multiple_of_four(width: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"width {width} .* the nearest is {nearest}"):
        ResNet(width=width, width_scope="planes")
    assert width == ResNet(arch="resnet18", width=width, width_scope="planes").D


@pytest.mark.parametrize("arch", ["small", "resnet18"])
def test_the_same_seed_gives_the_same_trunk_at_every_width(arch: str) -> None:
    def weights(D: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return ResNet(arch=arch, width=D, shortcut="projection").build().state_dict()  # type: ignore[arg-type]

    narrow, wide = weights(8), weights(40)
    last = {name for name in narrow if narrow[name].shape != wide[name].shape}
    assert last and all(name.startswith("layer4.1.") for name in last)
    assert all(torch.equal(narrow[name], wide[name]) for name in set(narrow) - last)
