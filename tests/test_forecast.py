from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wingspan.backbones.resnet import PLANS, ResNet
from wingspan.forecast import forecast
from wingspan.learner import Learner
from wingspan.objectives.barlow import Barlow
from wingspan.objectives.base import Objective
from wingspan.objectives.byol import BYOL
from wingspan.objectives.simclr import SimCLR
from wingspan.objectives.supervised import Supervised
from wingspan.objectives.vicreg import VICReg
from wingspan.optim import Optim
from wingspan.pretrain import Pretrain
from wingspan.streaming.rule import Streamed

CLASSES = 1000  # what the forecast counts a classifier for
OBJECTIVES = [SimCLR(), VICReg(), Barlow(), BYOL(hidden=20), Supervised()]


def run(objective: Objective, width: int = 24, **more: object) -> Pretrain:
    backbone = ResNet(arch="small", width=width, stem="half")
    return Pretrain(backbone=backbone, projector="40-16", objective=objective, batch=8, **more)  # type: ignore[arg-type]


def learner(of: Pretrain) -> Learner:
    torch.manual_seed(0)
    return Learner(of.backbone, of.projector_text, of.objective, CLASSES if of.objective.supervised else 0)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
def test_parameters_are_those_of_the_real_modules(objective: Objective) -> None:
    found, real = forecast(run(objective), 16, "fp32"), learner(run(objective))
    assert found.backbone_parameters == count(real.backbone)
    assert found.projector_parameters == count(real.projector) == 24 * 40 + 3 * 40 + 40 * 16
    assert found.head_parameters == count(real.heads)
    heads = {"BYOL": (16 * 20 + 20) + 2 * 20 + (20 * 16 + 16), "Supervised": 16 * CLASSES + CLASSES}
    assert found.head_parameters == heads.get(type(objective).__name__, 0)


@pytest.mark.parametrize(("name", "copies"), [("lars", 3), ("sgd", 3), ("adamw", 4)])
def test_weight_bytes_by_hand(name: str, copies: int) -> None:
    plain = run(SimCLR(), optim=Optim(name))  # type: ignore[arg-type]
    real = learner(plain)
    trained = count(real.backbone) + count(real.projector)  # weight, gradient, and one or two moments
    assert forecast(plain, 16, "fp32").weight_bytes == 4 * copies * trained
    averaged = replace(plain, objective=BYOL(hidden=20))
    predictor = count(learner(averaged).heads)
    assert forecast(averaged, 16, "fp32").weight_bytes == 4 * (copies * (trained + predictor) + trained)


def flops_by_hand(D: int, side: int) -> int:
    """Multiply-adds times two of one image through the small net with stem `half`, the projector 40-16 and the classifier."""

    def conv(inputs: int, outputs: int, kernel: int, size: int) -> int:
        return 2 * inputs * outputs * kernel**2 * size**2

    size = side // 2
    total = conv(3, 16, 3, size)
    inputs = 16
    for stage, planes in enumerate((16, 32, 64, 128)):
        for block in range(PLANS["small"].blocks[stage]):
            before, size = size, size // 2 if stage > 0 and block == 0 else size
            outputs = D if (stage, block) == (3, 1) else 4 * planes
            total += conv(inputs, planes, 1, before) + conv(planes, planes, 3, size) + conv(planes, outputs, 1, size)
            if inputs != outputs:
                total += conv(inputs, outputs, 1, size)
            inputs = outputs
    return total + 2 * (D * 40 + 40 * 16 + 16 * CLASSES)


@pytest.mark.parametrize(("D", "side"), [(24, 16), (512, 16), (1000, 32)])
def test_forward_flops_by_hand(D: int, side: int) -> None:
    assert forecast(run(Supervised(), width=D), side, "fp32").forward_flops == flops_by_hand(D, side)


def really_saved(of: Pretrain, side: int) -> int:
    """Bytes that autograd keeps for the backward pass, parameters and buffers aside, each storage counted once."""
    real = learner(of)
    own = {each.untyped_storage().data_ptr() for each in (*real.parameters(), *real.buffers())}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    views = of.objective.views
    images = torch.randn(of.batch * views, 3, side, side).to(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = real(images, torch.zeros(of.batch, dtype=torch.int64))
        assert terms
        return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in own)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("width", [24, 2048])
@pytest.mark.parametrize("streamed", ["on", "off"])
def test_activation_bytes_are_what_autograd_keeps(objective: Objective, width: int, streamed: Streamed) -> None:
    settings = replace(run(objective, width), batch=16)
    settings = replace(settings, backbone=replace(settings.backbone, streamed=streamed))
    real = really_saved(settings, 32)
    assert forecast(settings, 32, "fp32").activation_bytes == pytest.approx(real, rel=0.02)


def test_activations_grow_with_the_batch_and_shrink_with_parts() -> None:
    one = forecast(run(SimCLR()), 16, "fp32")
    four = forecast(replace(run(SimCLR()), batch=32), 16, "fp32")
    parts = forecast(replace(run(SimCLR()), batch=32, accumulate=4), 16, "fp32")
    assert one.activation_bytes > 0 and four.activation_bytes == pytest.approx(
        4 * one.activation_bytes, rel=0.01
    )  # norms also keep a mean and a deviation a channel
    assert (one.views, four.views) == (16, 64)
    assert parts == one


def test_half_precision_halves_most_activations_and_no_weight() -> None:
    full, half = (forecast(run(VICReg()), 32, precision) for precision in ("fp32", "bf16"))
    assert (full.precision, half.precision) == ("fp32", "bf16")
    assert 0.45 < half.activation_bytes / full.activation_bytes < 0.75
    assert half.weight_bytes == full.weight_bytes and half.forward_flops == full.forward_flops


def test_the_widest_run_is_forecast_and_no_generator_moves() -> None:
    before = torch.get_rng_state()
    found = forecast(Pretrain(backbone=ResNet(width=32768)), 224, "bf16")
    assert torch.equal(torch.get_rng_state(), before)
    assert round(found.backbone_parameters / 1e6, 1) == 106.5
    assert round(found.projector_parameters / 1e6) == 403
