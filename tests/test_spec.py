from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingspan import augment, spec
from wingspan.augment import Augment
from wingspan.backbones.base import Backbone
from wingspan.backbones.resnet import ResNet
from wingspan.data.base import Data
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.measures.base import Measure
from wingspan.objectives.base import Objective
from wingspan.objectives.byol import BYOL
from wingspan.objectives.simclr import SimCLR
from wingspan.objectives.vicreg import VICReg
from wingspan.optim import Optim
from wingspan.pretrain import Pretrain

CHOICES = (Data, Backbone, Objective, Measure)

# A default never changes: a run's fingerprint is a hash of what differs from them, and old folders are read by them. Add a
# field with its default here; change none.
DEFAULTS = {
    "data": {
        "kind": "scenes", "train": 10_000, "test": 2_000, "size": 32, "seed": 0, "target": "shape", "imbalance": 1.0,
        "priors": [], "bias": 0.0,
    },
    "sampling": {"classes": 0, "imbalance": 1.0},
    "augment": {
        "size": 0, "scale": [0.08, 1.0], "ratio": [0.75, 1.3333333333333333], "flip": [0.5], "jitter": [0.8],
        "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grey": [0.2], "blur": [0.0],
        "blur_sigma": [0.1, 2.0],
        "solarise": [0.0, 0.2], "threshold": 0.5, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
    "backbone": {
        "kind": "resnet", "arch": "resnet50", "width": None, "width_scope": "block", "shortcut": "auto", "stem": "imagenet",
        "streamed": "auto",
        "zero_init": False,
    },
    "projector": None,
    "objective": {"kind": "simclr", "temperature": 0.15},
    "optim": {"name": "lars", "lr": 0.5, "weight_decay": 1e-6, "momentum": 0.9, "warmup": 0.1, "floor": 0.001},
    "epochs": 100,
    "batch": 512,
    "accumulate": 1,
    "seed": 0,
    "precision": "auto",
    "start": {"weights": "", "images": 1024, "narrow": "channels", "new": "random", "frozen": False, "head": False},
}  # fmt: skip
OBJECTIVE_DEFAULTS = {
    "barlow": {"redundancy": 0.0051},
    "byol": {"momentum_start": 0.996, "hidden": 4096},
    "simclr": {"temperature": 0.15},
    "supervised": {"smoothing": 0.0},
    "vicreg": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
}
MEASURE_DEFAULTS = {
    "backgrounds": {"fine_data": "", "lr": 0.003, "weight_decay": 0.01, "batch": 128, "epochs": 30},
    "binary": {
        "hidden": 2048,
        "lr": 0.0001,
        "linear_lr": 0.0001,
        "weight_decay": 0.04,
        "batch": 1024,
        "epochs": 100,
        "standardise": False,
        "cosine": False,
        "grid": [],
        "probes": ["linear", "mlp", "knn"],
        "k": 20,
        "temperature": 0.07,
    },
    "collisions": {"subsets": 8},
    "few": {"fractions": [0.01, 0.1], "per_class": [5, 20], "draws": 3, "prior": 10.0},
    "geometry": {"images": 2048},
    "invariance": {"images": 1024, "epochs": 10},
    "jacobian": {"images": 64, "exact": 256, "dims": 128},
    "knn": {"k": 20, "temperature": 0.07},
    "linear": {
        "lr": 0.0001,
        "weight_decay": 0.04,
        "batch": 1024,
        "epochs": 100,
        "standardise": False,
        "cosine": False,
        "layers": False,
        "augmented": False,
        "grid_lr": [],
        "grid_weight_decay": [],
    },
    "mlp": {
        "hidden": 2048,
        "lr": 0.0001,
        "linear_lr": 0.0001,
        "weight_decay": 0.04,
        "batch": 1024,
        "epochs": 100,
        "standardise": False,
        "cosine": False,
        "grid": [],
    },
    "retention": {"rung": "ridge", "preset": "cpu32", "longer": 1.0},
    "sparsity": {},
    "spectrum": {"images": 4096, "fit": [11, 100]},
}


def through_json(value: object) -> object:
    return json.loads(json.dumps(spec.to_json(value)))


def test_a_default_never_changes() -> None:
    assert through_json(Pretrain()) == DEFAULTS
    for name, numbers in OBJECTIVE_DEFAULTS.items():
        assert spec.to_json(spec.named(Objective, name)) == {"kind": name, **numbers}
    for name, fields in MEASURE_DEFAULTS.items():  # a result is kept under a name made of what differs from them
        assert spec.to_json(spec.named(Measure, name)) == {"kind": name, **fields}
    assert set(MEASURE_DEFAULTS) == set(spec.files(Measure))
    assert spec.from_json(Pretrain, DEFAULTS) == Pretrain() == spec.from_json(Pretrain, {})


@pytest.mark.parametrize(
    ("base", "name"), [(base, name) for base in CHOICES for name in (*spec.files(base), *spec.presets(base))]
)
def test_every_choice_and_preset_survives_json(base: type, name: str) -> None:
    value: object = spec.named(base, name)
    again: object = spec.from_json(base, through_json(value))
    assert again == value and type(again) is type(value)


RUNS = st.builds(
    Pretrain,
    data=st.builds(
        Scenes, train=st.integers(1, 10**6), imbalance=st.floats(1, 100), priors=st.just((0.25,) * 12) | st.just(())
    ),
    augment=st.sampled_from(list(augment.PRESETS.values()))
    | st.builds(Augment, blur=st.tuples(st.floats(0, 1), st.floats(0, 1))),
    backbone=st.builds(ResNet, width=st.none() | st.integers(1, 65536), zero_init=st.booleans()),
    projector=st.sampled_from([None, "", "32", "512-128"]),
    objective=st.builds(SimCLR, st.floats(1e-3, 10))
    | st.builds(VICReg, st.floats(0, 100))
    | st.builds(BYOL, hidden=st.integers(1, 9)),
    optim=st.builds(Optim, st.sampled_from(["lars", "adamw", "sgd"]), lr=st.floats(1e-9, 10), floor=st.floats(0, 1)),
    seed=st.integers(-(2**62), 2**62),
    precision=st.sampled_from(["auto", "bf16", "fp32"]),
)


@given(run=RUNS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_run_survives_json_and_keeps_its_name(run: Pretrain) -> None:
    again = spec.from_json(Pretrain, through_json(run))
    assert again == run
    assert spec.fingerprint(again) == spec.fingerprint(run)
    sparse = json.loads(json.dumps(spec.to_json(run, sparse=True)))
    assert spec.from_json(Pretrain, sparse) == run
    assert spec.differences(run, again) == []


@given(a=RUNS, b=RUNS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_different_runs_have_different_names(a: Pretrain, b: Pretrain) -> None:
    assert (a == b) == (spec.fingerprint(a) == spec.fingerprint(b))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"epoch": 3}, "unknown key 'epoch'. Did you mean 'epochs'"),
        ({"optim": {"learning": 1.0, "momentun": 0.9}}, "unknown key 'momentun'. Did you mean 'momentum'"),
        ({"objective": {"kind": "simclr", "temprature": 0.1}}, "unknown key 'temprature'. Did you mean 'temperature'"),
        ({"objective": {"kind": "vicregg"}}, "'vicregg' is not one of objectives. Did you mean 'vicreg'"),
        ({"objective": {"kind": "base"}}, "'base' is not one of objectives"),
        ({"objective": {"temperature": 0.1}}, "an object with 'kind' expected"),
        ({"objective": "simclr"}, "an object with 'kind' expected, 'simclr' found"),
        ({"epochs": True}, "epochs: int expected, True found"),
        ({"epochs": 3.0}, "epochs: int expected, 3.0 found"),
        ({"epochs": "3"}, "epochs: int expected, '3' found"),
        ({"epochs": None}, "epochs: int expected, None found"),
        ({"optim": {"lr": "0.5"}}, "float expected, '0.5' found"),
        ({"optim": {"lr": False}}, "float expected, False found"),
        ({"backbone": {"kind": "resnet", "zero_init": 1}}, "bool expected, 1 found"),
        ({"backbone": {"kind": "resnet", "width": 8.5}}, "int expected, 8.5 found"),
        ({"projector": 32}, "str expected, 32 found"),
        ({"precision": "fp8"}, "precision"),
        ({"augment": {"grey": ["often"]}}, "float expected, 'often' found"),
        ({"batch": 0}, "--batch 0 must be at least 1"),
        ({"objective": {"kind": "simclr", "temperature": 0}}, "temperature 0.0 is not positive"),
    ],
)
def test_json_is_read_strictly(value: Mapping[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        spec.from_json(Pretrain, value)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", [[], 3, "x", None])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(UserError):
        spec.from_json(Pretrain, value)


def test_a_whole_number_is_fine_where_a_real_one_is_asked_for() -> None:
    found = spec.from_json(Optim, {"lr": 1})
    assert found == Optim(lr=1.0) and isinstance(found.lr, float)


def test_override_replaces_dotted_paths() -> None:
    before = Pretrain()
    changes = {
        "objective.covariance": 4.0,  # below a choice that the same call makes
        "objective": "vicreg",
        "backbone": "resnet18",
        "backbone.width": 64,
        "optim.lr": 1,
        "augment.grey": (0.0, 0.5),
        "data": Scenes(train=77),
        "seed": 3,
    }
    after = spec.override(before, changes)
    assert after == Pretrain(
        data=Scenes(train=77),
        augment=Augment(grey=(0.0, 0.5)),
        backbone=ResNet(arch="resnet18", width=64),
        objective=VICReg(covariance=4.0),
        optim=Optim(lr=1.0),
        seed=3,
    )
    assert before == Pretrain()
    assert spec.override(before, {}) == before
    assert spec.override(before, {"backbone.width": None}).backbone == ResNet()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sed": 1}, "'sed' does not exist: no 'sed' there. Did you mean 'seed'"),
        ({"backbone.widht": 1}, "'backbone.widht' does not exist: no 'widht' there. Did you mean 'width'"),
        ({"seed.deep": 1}, "'seed.deep' does not exist: nothing lies below 'seed'"),
        ({"objective": "simclrr"}, "Did you mean 'simclr'"),
        ({"objective.covariance": 1.0}, "no 'covariance' there"),
        ({"epochs": "many"}, "'many' found"),
        ({"epochs": True}, "True found"),
        ({"epochs": 0}, "--epochs 0 must be at least 1"),
        ({"backbone.width": 0}, "width 0 is not a positive integer"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(changes: Mapping[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        spec.override(Pretrain(), changes)
    assert said in str(caught.value)


@dataclass(frozen=True)
class Inner:
    a: int = 1


@dataclass(frozen=True)
class InnerLater:
    a: int = 1
    b: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Before:
    name: str
    inner: Inner = Inner()


@dataclass(frozen=True)
class After:
    name: str
    inner: InnerLater = InnerLater()
    new: str | None = None
    more: InnerLater = field(default_factory=InnerLater)


def test_a_new_field_with_a_default_renames_nothing() -> None:
    assert spec.fingerprint(Before("x")) == spec.fingerprint(After("x"))
    assert spec.fingerprint(Before("x", Inner(2))) == spec.fingerprint(After("x", InnerLater(2)))
    others = [
        After("y"),
        After("x", InnerLater(2)),
        After("x", new=""),
        After("x", InnerLater(b=())),
        After("x", more=InnerLater(2)),
    ]
    names = {spec.fingerprint(value) for value in [After("x"), *others]}
    assert len(names) == 1 + len(others)


@dataclass(frozen=True)
class Shifted:
    """A field whose default is not its class's."""

    inner: Inner = Inner(5)


def test_a_field_at_its_classs_default_but_not_at_its_own_is_told_apart() -> None:
    assert spec.to_json(Shifted(), sparse=True) == {}
    assert spec.to_json(Shifted(Inner()), sparse=True) == {"inner": {}}
    assert spec.fingerprint(Shifted()) != spec.fingerprint(Shifted(Inner()))


def test_every_changed_leaf_changes_the_name() -> None:
    run = Pretrain()
    changed = [
        replace(run, seed=1), replace(run, epochs=99), replace(run, projector=""), replace(run, precision="fp32"),
        replace(run, objective=SimCLR(0.2)), replace(run, objective=VICReg()), replace(run, optim=Optim(floor=0.0)),
        replace(run, backbone=ResNet(width=2048)), replace(run, augment=Augment(blur=(0.5,))),
        replace(run, data=Scenes(size=64)),
    ]  # fmt: skip
    names = {spec.fingerprint(value) for value in [run, *changed]}
    assert len(names) == 1 + len(changed)
    assert all(len(name) == 10 and int(name, 16) >= 0 for name in names)


def test_differences_name_every_leaf() -> None:
    old, new = Pretrain(), Pretrain(objective=VICReg(), optim=Optim(lr=0.1), seed=4)
    assert spec.differences(old, new) == [
        "objective.kind: 'simclr' -> 'vicreg'",
        "objective.temperature: 0.15 -> None",
        "objective.invariance: None -> 25.0",
        "objective.variance: None -> 25.0",
        "objective.covariance: None -> 1.0",
        "optim.lr: 0.5 -> 0.1",
        "seed: 0 -> 4",
    ]


@pytest.mark.parametrize("base", CHOICES)
def test_an_unknown_name_lists_or_suggests_what_is_known(base: type) -> None:
    with pytest.raises(UserError, match=r"Known: |Did you mean"):
        spec.named(base, "zzzz")
    known = spec.files(base)[0]
    with pytest.raises(UserError, match=f"Did you mean '{known}'"):
        spec.named(base, known + "x")
