"""The run's network as timm's own model: timm's names, timm's blocks, our weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from wingspan.backbones.resnet import PLANS, Block, ResNet, ResNetModule
from wingspan.backbones.timm import Timm, create
from wingspan.errors import UserError
from wingspan.export.base import Subject


@dataclass(frozen=True)
class Twin:
    """name and arguments: what `timm.create_model` makes `base` of. model: what it must become, with the run's weights."""

    name: str
    base: nn.Module
    model: nn.Module
    arguments: Mapping[str, Any] = field(default_factory=dict)


def twin(subject: Subject) -> Twin:
    """Raises UserError when timm is missing, or has nothing like the run's backbone."""
    classes = 0 if subject.classifier is None else subject.classifier.out_features
    backbone = subject.run.backbone
    if isinstance(backbone, ResNet):
        made = _of_resnet(backbone, subject.backbone, classes)
    elif isinstance(backbone, Timm):
        base, arguments = create(backbone.timm, backbone.arguments, num_classes=classes)
        made = Twin(backbone.timm, base.eval(), copy.deepcopy(subject.backbone), arguments)
    else:
        raise UserError(f"timm has no model like {backbone.label_name}. Try --to onnx or --to torch.export.")
    if subject.classifier is not None:
        _put_classifier(made, subject.classifier)
    return made


def _of_resnet(backbone: ResNet, ours: nn.Module, classes: int) -> Twin:
    assert isinstance(ours, ResNetModule)
    plan = PLANS[backbone.arch]
    name, asked = backbone.arch, {}
    if backbone.arch.startswith("small"):  # timm's ResNet-50 with other numbers
        name = "resnet50"  # type: ignore[assignment]
        asked = {
            "layers": plan.blocks,
            "channels": tuple(plan.planes * 2**stage for stage in range(4)),
            "base_width": 64 * plan.inner,
        }
    base, arguments = create(name, asked, num_classes=classes)
    model = copy.deepcopy(base.eval())
    model.conv1, model.bn1 = ours.conv1, ours.bn1
    if isinstance(ours.pool, nn.Identity):
        model.maxpool = nn.Identity()
    for path, block in ours.named_modules():
        if isinstance(block, Block):
            for part, module in block.named_children():
                setattr(model.get_submodule(path), part, module)
            if block.downsample is None:
                setattr(model.get_submodule(path), "downsample", None)  # noqa: B010
    model.num_features = model.head_hidden_size = backbone.D  # type: ignore[assignment]
    return Twin(name, base, model, arguments)


def _put_classifier(made: Twin, classifier: nn.Linear) -> None:
    path = made.base.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
    if not isinstance(path, str):
        raise UserError(f"timm does not say where {made.name} has its classifier: export h (--output h), or --to onnx.")
    parent, _, name = path.rpartition(".")
    setattr(made.model.get_submodule(parent), name, classifier)
    made.model.num_classes = classifier.out_features  # type: ignore[assignment]
