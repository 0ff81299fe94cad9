"""What every file of a folder that is a choice owes. A new file is picked up by being there."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from wingspan import projector, spec
from wingspan.backbones.base import Backbone
from wingspan.chance import generator
from wingspan.data.base import Data, ImageSet, InMemory
from wingspan.features import Bank, Split
from wingspan.measures.base import Measure
from wingspan.objectives.base import Batch, Objective

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
        net = backbone.build()
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


@pytest.mark.parametrize("name", spec.files(Measure))
def test_a_measure_gives_numbers_that_say_what_they_are(name: str) -> None:
    draw = generator(0, "test")

    def split(n: int) -> Split:
        labels = {"kind": torch.arange(n) % CLASSES}
        images = ImageSet(
            InMemory(torch.zeros(n, 3, 4, 4, dtype=torch.uint8)), labels, {"kind": ("a", "b", "c")}, target="kind"
        )
        return Split(torch.rand(n, K, generator=draw).half(), images)

    bank = Bank("made", split(60), split(30), "0")
    before = bank.train.h.clone(), bank.test.h.clone()
    numbers = spec.named(Measure, name).measure(bank, seed=0)
    assert numbers and len({(number.metric, number.task) for number in numbers}) == len(numbers)
    for number in numbers:
        assert number.metric and number.value == number.value and number.n > 0
    assert torch.equal(bank.train.h, before[0]) and torch.equal(bank.test.h, before[1])
