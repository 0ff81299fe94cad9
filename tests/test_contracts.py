"""What every file of a folder that is a choice owes. A new file is picked up by being there."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from tiny_runs import same
from torch import Tensor, nn

from wingspan import projector, spec
from wingspan.augment import PRESETS
from wingspan.backbones.base import Backbone
from wingspan.chance import generator
from wingspan.data.base import Data, ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.features import Bank, Split, extract
from wingspan.measures.base import Measure, Measured, NotApplicableError
from wingspan.network import Network
from wingspan.objectives.base import Batch, Objective
from wingspan.runtime import Runtime

CHOICES: tuple[Any, ...] = (Data, Backbone, Objective, Measure)
FILES = [(base, name) for base in CHOICES for name in spec.files(base)]
B, K, CLASSES = 6, 8, 3


@pytest.mark.parametrize(("base", "name"), FILES, ids=[f"{base.__name__}-{name}" for base, name in FILES])
def test_a_file_defines_one_frozen_value_with_defaults(base: Any, name: str) -> None:
    kind = spec.file_class(base, name)
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert len(kind.title) > 10 and "\n" not in kind.title and "title" not in vars(base)
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("), "dataclass wrote the docstring itself"
    value = kind()
    assert spec.kind_of(value) == name and spec.named(base, name) == value
    assert hash(value) == hash(kind())
    assert spec.from_json(base, json.loads(json.dumps(spec.to_json(value)))) == value
    assert spec.from_json(base, {"kind": name}) == value, "every field has a default"


@pytest.mark.parametrize("base", CHOICES)
def test_presets_are_values_of_their_choice_and_hide_no_file(base: Any) -> None:
    assert not set(spec.presets(base)) & set(spec.files(base)) - {
        name for name, value in spec.presets(base).items() if spec.kind_of(value) == name
    }
    for name, value in spec.presets(base).items():
        assert isinstance(value, base), name


@pytest.mark.parametrize("name", spec.files(Data))
def test_a_data_set_says_its_side_and_name_before_it_is_read(name: str) -> None:
    data = spec.named(Data, name)
    assert isinstance(data.side, int) and data.side > 0
    assert data.label_name and "/" not in data.label_name


@pytest.mark.parametrize("name", [*spec.files(Backbone), *spec.presets(Backbone)])
def test_a_backbone_gives_features_of_its_width(name: str) -> None:
    backbone = spec.named(Backbone, name)
    assert backbone.label_name
    with torch.device("meta"):
        try:
            net = backbone.build()
        except UserError as error:
            if "cannot be imported" in str(error):
                pytest.skip(str(error))
            raise
        h = net(torch.empty(2, 3, 64, 64))
    assert h.shape == (2, backbone.D)


@pytest.mark.parametrize("name", spec.files(Objective))
def test_an_objective_gives_finite_terms_with_gradients(name: str) -> None:
    objective = spec.named(Objective, name)
    assert objective.views >= 1 and isinstance(objective.supervised, bool)
    projector.widths(objective.projector)
    draw = generator(0, "test")

    def normal() -> Tensor:
        return torch.randn(objective.views, B, K, generator=draw)

    z = normal().requires_grad_()
    torch.manual_seed(0)
    heads = objective.heads(K, CLASSES)
    outputs = {key: head(z.flatten(0, 1)).unflatten(0, z.shape[:2]) for key, head in heads.items()}
    momenta = [objective.momentum(progress) for progress in (0.0, 0.3, 1.0)]
    kept = [m for m in momenta if m is not None]
    assert len(kept) in (0, 3) and all(0 <= m <= 1 for m in kept)
    labels = torch.arange(B) % CLASSES if objective.supervised else None
    terms = objective.terms(Batch(z, outputs, normal() if kept else None, labels))
    assert terms and all(term.shape == () and bool(torch.isfinite(term)) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    trained = [z, *(p for head in heads.values() for p in head.parameters())]
    assert z.grad is not None and float(z.grad.abs().sum()) > 0
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)


def small_bank() -> Bank:
    """60 and 30 random images of three classes, and a network of one convolution with a projector of two layers."""
    draw = generator(0, "test")
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, K, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(trunk, PRESETS["paper"], Runtime("cpu", "fp32"), projector.build("6-4", K), "made")

    def split(n: int) -> Split:
        pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=draw, dtype=torch.uint8)
        labels = {"kind": torch.arange(n) % CLASSES}
        quantities = {"weight": torch.rand(n, generator=draw)}
        images = ImageSet(InMemory(pixels), labels, {"kind": ("a", "b", "c")}, target="kind", quantities=quantities)
        made = extract(network, images, layers=True, label="test")
        return Split(made["h"], images, made)

    return Bank("made", split(60), split(30), "0", network)


@pytest.mark.parametrize("name", [*spec.files(Measure), *spec.presets(Measure)])
def test_a_measure_gives_numbers_that_say_what_they_are(name: str) -> None:
    measure, bank = spec.named(Measure, name), small_bank()
    if hasattr(measure, "hidden"):
        measure = spec.override(measure, {"hidden": 16})  # of an MLP: the paper's 2048 would take most of this test's time
    assert bank.network is not None
    assert measure.needs <= {"train", "test", "layers", "network"}
    assert measure.reading and measure.source, "the page says where a measure comes from and how it is read"
    before = copy.deepcopy([bank.train.h, bank.test.h, bank.network.backbone.state_dict()])
    state = torch.get_rng_state()
    try:
        found = measure.measure(bank, seed=0)
    except NotApplicableError as error:
        assert "made" in str(error), "the message names the images"
        return
    assert same([bank.train.h, bank.test.h, bank.network.backbone.state_dict()], before), "what is measured does not change"
    assert torch.equal(torch.get_rng_state(), state)
    assert found.numbers and len({(n.metric, n.task, n.series) for n in found.numbers}) == len(found.numbers)
    for number in found.numbers:
        assert number.metric and math.isfinite(number.value) and number.n > 0
        assert number.error is None or 0 <= number.error < math.inf
    assert len({(c.name, c.task, c.series, c.expected) for c in found.curves}) == len(found.curves)
    for curve in found.curves:
        assert 0 < len(curve.x) == len(curve.y) <= 500 and curve.x_label and curve.y_label
        assert all(map(math.isfinite, [*curve.x, *curve.y]))
    assert spec.from_json(Measured, json.loads(json.dumps(spec.to_json(found)))) == found, "results are read back as written"
    assert measure.measure(small_bank(), seed=0) == found, "pure in bank and seed"
