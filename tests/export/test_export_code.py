"""The code of model.py against modules whose every weight is random, so that a wrong or shared weight shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from export_trials import needed
from torch import nn

from wingspan.backbones.base import Backbone
from wingspan.backbones.resnet import ResNet
from wingspan.backbones.timm import Timm
from wingspan.errors import UserError
from wingspan.export import timm as form
from wingspan.export._code import Code, of_torch
from wingspan.export.base import Subject
from wingspan.pretrain import Pretrain
from wingspan.runs import RunFolder
from wingspan.width.plain import Halves, Nothing, Residual, Scale

BACKBONES = {
    "resnet18 wide": ResNet("resnet18", 700),
    "resnet18 stage": ResNet("resnet18", 100, width_scope="stage", stem="cifar"),
    "small at its own width": ResNet("small", stem="half"),
    "small_wide projection": ResNet("small_wide", shortcut="projection"),
    "wide_resnet50_2 planes": ResNet("wide_resnet50_2", 64, width_scope="planes"),
    "regnety": Timm("regnety_002", 600),
    "convnext, gated": Timm("convnext_atto", 600),
    "convnext, narrow": Timm("convnext_atto", 64, gate="none"),
    "vit": Timm("vit_tiny_patch16_224", 500, side=64, patch=16, drop_path=0.1),
    "vit, not gated": Timm("vit_tiny_patch16_224", 50, side=64, gate="none"),
}
"""Title -> backbone."""


def subject(backbone: Backbone, classifier: nn.Linear | None = None) -> Subject:
    torch.manual_seed(0)
    module = backbone.build().eval().requires_grad_(False)
    for value in module.state_dict().values():
        if value.is_floating_point():
            drawn = torch.rand(value.shape)
            value.add_(0.2 * drawn if value.ndim < 2 else 0.2 * value * drawn)
    side = 64
    classes = tuple("abcdefgh"[: classifier.out_features]) if classifier is not None else ()
    return Subject(
        RunFolder(Path("run")), Pretrain(backbone=backbone), "0123456789", 1, module, classifier, classes, side,
        torch.randn(2, 3, side, side), "2 random images",
    )  # fmt: skip


@pytest.mark.parametrize("title", BACKBONES)
def test_model_py_builds_the_network(title, tmp_path):
    needed("timm")
    torch.manual_seed(1)
    backbone = BACKBONES[title]
    for place, classifier in (("h", None), ("classes", nn.Linear(backbone.D, 3).requires_grad_(False))):
        (tmp_path / place).mkdir()
        made = subject(backbone, classifier)
        assert form.write(made, tmp_path / place).difference < 1e-5  # raises above, too
        text = (tmp_path / place / "model.py").read_text()
        assert "wingspan" not in {
            line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import", "from"))
        }
        config = json.loads((tmp_path / place / "config.json").read_text())
        assert (config["num_features"], config["num_classes"]) == (backbone.D, len(made.classes))


def test_a_widened_resnet_is_five_lines(tmp_path):
    needed("timm")
    form.write(subject(ResNet("resnet18", 700)), tmp_path)
    text = (tmp_path / "model.py").read_text()
    assert [line.strip() for line in text.splitlines() if line.startswith("    model.") and "load_state" not in line] == [
        "model.num_features = 700",
        "model.head_hidden_size = 700",
        "model.layer4[1].conv2 = nn.Conv2d(512, 700, 3, padding=1, bias=False)",
        "model.layer4[1].bn2 = nn.BatchNorm2d(700)",
        "model.layer4[1].downsample = nn.Sequential(nn.Conv2d(512, 700, 1, bias=False), nn.BatchNorm2d(700))",
    ]


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    needed("timm")
    made = subject(ResNet("resnet18", 700))
    wanted = made.expected()
    monkeypatch.setattr(Subject, "expected", lambda self: wanted + 1e-3 * wanted.abs().max())
    with pytest.raises(
        UserError, match=r"model.py differs from the network by 1.0e-03 of its largest output, 1e-05 is allowed"
    ):
        form.write(made, tmp_path)


class _Block(nn.Module):
    """A module that the code has no expression for."""

    def __init__(self, n: int, m: int | None = None) -> None:
        super().__init__()
        self.n = n
        self.gain = nn.Parameter(torch.randn(m or n))
        self.linear = nn.Linear(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.gain


def test_what_moved_is_taken_from_where_it_was_and_nothing_is_used_twice():
    base = nn.Sequential(_Block(4), nn.Sequential(_Block(5), nn.ReLU()), _Block(4))
    target = nn.Sequential(
        _Block(4),
        Halves(Residual(_Block(5), Scale(torch.rand(5))), Nothing()),
        nn.Sequential(_Block(4, 1), nn.LayerNorm(4, eps=1e-3)),
    )
    code = Code(base, target)
    names = {
        "model": base,
        "nn": nn,
        "torch": torch,
        "Halves": Halves,
        "Residual": Residual,
        "Scale": Scale,
        "Nothing": Nothing,
    }
    exec("\n".join(code.lines), names)
    base.load_state_dict(target.state_dict(), strict=True)
    assert len({value.data_ptr() for value in base.parameters()}) == len(target.state_dict())
    assert str(base) == str(target)
    assert code.needed == {Halves, Residual, Scale, Nothing} and len(code.sources) == 4


def test_a_module_from_elsewhere_is_refused():
    with pytest.raises(UserError, match="_Block '0' of this network has no counterpart"):
        Code(nn.Sequential(nn.ReLU()), nn.Sequential(_Block(3)))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False, padding_mode="reflect"),
        nn.Linear(3, 2, bias=False), nn.BatchNorm2d(3, eps=1e-3, momentum=None), nn.BatchNorm2d(3, affine=False),
        nn.LayerNorm((3,), eps=1e-6), nn.LayerNorm(3, bias=False), nn.LayerNorm(3, elementwise_affine=False),
        nn.ReLU(inplace=True), nn.GELU(approximate="tanh"), nn.Identity(), nn.Dropout(0.3),
    ],
    ids=str,
)  # fmt: skip
def test_an_expression_makes_the_same_module(module):
    made = eval(of_torch(module), {"nn": nn})
    assert repr(made) == repr(module) and type(made) is type(module)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (made, module)]
    assert shapes[0] == shapes[1]
