"""Answers are mapped and counted as a slow loop does it; scenes are recombined as they claim; a gap is what it should be."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from wingspan.augment import PRESETS as AUGMENTATIONS
from wingspan.chance import generator
from wingspan.data import scenes as scenes_module
from wingspan.data.base import ImageSet, InMemory
from wingspan.data.hub import Hub
from wingspan.data.scenes import CLASSES, Factors, Scenes, render_all
from wingspan.errors import UserError
from wingspan.features import Bank, Split, bank
from wingspan.measures import _variants
from wingspan.measures._variants import VARIANTS
from wingspan.measures.backgrounds import Backgrounds
from wingspan.measures.base import Measured, NotApplicableError, Number
from wingspan.network import Network
from wingspan.runtime import Runtime

SHARED = Path(__file__).parents[3] / "shared" / "data"
FINE = tuple(f"fine {k}" for k in range(6))
SUPER = ("beast", "bird", "boat")  # fine k belongs to SUPER[k // 2]
SOURCES = 60
PROBE = Backgrounds(lr=0.1)  # a few hundred easy images


def network(backbone: nn.Module) -> Network:
    """Its views are the pixels themselves, 0..255."""
    plain = replace(AUGMENTATIONS["none"], mean=(0, 0, 0), std=(1 / 255,) * 3)
    return Network(backbone, plain, Runtime("cpu", "fp32"))


def split(h: Tensor, labels: dict[str, Tensor], classes: dict[str, tuple[str, ...]]) -> Split:
    return Split(h.half(), ImageSet(InMemory(torch.zeros(len(h), 3, 8, 8, dtype=torch.uint8)), labels, classes))


def made(names: tuple[str, ...] = VARIANTS, with_source: bool = True) -> tuple[Bank, Tensor]:
    """A bank in which h says the fine class to be answered, and those answers (8 x SOURCES,).

    The superclasses are numbered differently in the two splits, and the training split's second half are images that are not
    originals and contradict the first.
    """
    draw = generator(0, "test")
    fine = torch.arange(600) % 6
    variant = (torch.arange(600) >= 300).long() * 3
    shown = torch.where(variant == 0, fine, (fine + 1) % 6)
    classes = {"variant": names, "fine": FINE, "label": SUPER}
    train = split(8 * torch.eye(6)[shown], {"variant": variant, "fine": fine, "label": shown // 2}, classes)
    truth = torch.randint(3, (SOURCES,), generator=draw).repeat(8)
    answers = torch.where(torch.rand(8 * SOURCES, generator=draw) < 0.6, truth * 2, torch.randint(6, (1,), generator=draw))
    labels = {"variant": torch.arange(8).repeat_interleave(SOURCES), "label": 2 - truth}
    if with_source:
        labels["source"] = torch.arange(SOURCES).repeat(8)
    order = torch.randperm(8 * SOURCES, generator=draw)
    names_test = {"variant": names, "label": SUPER[::-1], "source": tuple(map(str, range(SOURCES)))}
    test = split(8 * torch.eye(6)[answers][order], {task: values[order] for task, values in labels.items()}, names_test)
    return Bank("made", train, test, "0"), answers[order]


def by_name(found: Measured) -> dict[str, Number]:
    return {number.task or number.metric: number for number in found.numbers}


@pytest.mark.parametrize("names", [VARIANTS, tuple("01234567"), tuple(v.replace("_", "-").title() for v in VARIANTS)])
def test_answers_are_mapped_and_counted_as_a_slow_loop_does(names: tuple[str, ...]) -> None:
    given, answers = made(names)
    found = by_name(PROBE.measure(given, 0))
    right: dict[str, dict[int, float]] = {name: {} for name in VARIANTS}
    labels = given.test.images.labels
    for row in range(8 * SOURCES):
        name = VARIANTS[int(labels["variant"][row])]
        answer = SUPER[int(answers[row]) // 2]
        right[name][int(labels["source"][row])] = float(answer == SUPER[::-1][int(labels["label"][row])])
    assert list(found) == [*(name.replace("_", "-") for name in VARIANTS), "background accuracy gap"]
    for name, scores in right.items():
        number = found[name.replace("_", "-")]
        assert number.value == pytest.approx(sum(scores.values()) / SOURCES) and 0.4 < number.value < 0.95
        assert (number.metric, number.n, number.classes) == ("accuracy", SOURCES, 3)
        assert number.chance == pytest.approx(int(labels["label"].bincount().max()) / 8 / SOURCES)
    pairs = [right["mixed_same"][source] - right["mixed_rand"][source] for source in range(SOURCES)]
    gap, mean = found["background accuracy gap"], sum(pairs) / SOURCES
    assert gap.value == pytest.approx(mean) and gap.n == SOURCES and gap.value != 0
    assert gap.error == pytest.approx(math.sqrt(sum((d - mean) ** 2 for d in pairs)) / SOURCES)


def test_without_sources_the_two_sides_count_as_independent_and_a_note_says_so() -> None:
    with_them, without = (PROBE.measure(made(with_source=given)[0], 0) for given in (True, False))
    paired, free = by_name(with_them), by_name(without)
    assert free["background accuracy gap"].value == pytest.approx(paired["background accuracy gap"].value)
    errors = [free[name].error or 0.0 for name in ("mixed-same", "mixed-rand")]
    assert free["background accuracy gap"].error == pytest.approx(math.hypot(*errors))
    assert not with_them.notes and "'source'" in without.notes[0]


def test_only_sources_that_both_variants_have_are_paired() -> None:
    # Source 0: 1 and 1, source 5: 0 and 1; sources 2 and 7 stand alone.
    first, by = torch.tensor([True, True, False, True]), torch.tensor([0, 0, 5, 2])
    second, also_by = torch.tensor([True, True, False]), torch.tensor([5, 0, 7])
    assert _variants.paired(first, by, second, also_by) == pytest.approx((-0.5, 0.5 / math.sqrt(2), 2))
    with pytest.raises(UserError, match="column 'source' pairs no mixed_same image"):
        _variants.paired(first, by, second[:1], also_by[2:])


def test_a_fine_class_of_two_superclasses_does_not_map() -> None:
    given, _ = made()
    images = given.train.images
    label = images.labels["label"].clone()
    label[4] = 0
    given = replace(given, train=replace(given.train, images=replace(images, labels={**images.labels, "label": label})))
    with pytest.raises(UserError, match=r"classes do not map: fine class 'fine 4'.*'beast' and 'boat'"):
        PROBE.measure(given, 0)


def test_other_images_are_not_for_this_measure() -> None:
    given, _ = made()
    with pytest.raises(NotApplicableError, match=r"Lacking: 'variant' in the test split, 'fine' in the training split\."):
        labels = {"label": given.test.images.labels["label"]}
        bare = [replace(part, images=replace(part.images, labels=labels)) for part in (given.test, given.test)]
        PROBE.measure(replace(given, train=bare[0], test=bare[1]), 0)
    with pytest.raises(UserError, match=r"'variant' holds 'mixed_sam'.*Did you mean 'mixed_same'"):
        PROBE.measure(made(("mixed_sam", *VARIANTS[1:]))[0], 0)
    with pytest.raises(UserError, match="no image of the training split has variant 'original'"):
        PROBE.measure(made((VARIANTS[1], VARIANTS[0], *VARIANTS[2:]))[0], 0)


@pytest.mark.parametrize("fields", [{"lr": 0.0}, {"epochs": 0}, {"weight_decay": -1.0}])
def test_what_cannot_be_used_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(fields)).replace("_", " ")):
        Backgrounds(**fields)  # type: ignore[arg-type]


# ---- a larger fine-grained set, through files ----


class Grey(nn.Module):
    """Which of eight grey levels an image has: (B, 8)."""

    def forward(self, views: Tensor) -> Tensor:
        return 8 * nn.functional.one_hot((views.mean((1, 2, 3)) / 32).long(), 8).float()


def parquet(file: Path, levels: list[int], **columns: tuple[list[int] | list[str], list[str] | None]) -> None:
    """Images of one grey level each; a column with class names is a ClassLabel."""
    cells = []
    for level in levels:
        held = io.BytesIO()
        Image.new("RGB", (8, 8), (level * 32 + 16,) * 3).save(held, "PNG")
        cells.append({"bytes": held.getvalue(), "path": None})
    features = {name: {"_type": "ClassLabel", "names": names} for name, (_, names) in columns.items() if names}
    features |= {name: {"_type": "Value", "dtype": "string"} for name, (v, names) in columns.items() if isinstance(v[0], str)}
    features |= {name: {"_type": "Value", "dtype": "int64"} for name in columns if name not in features}
    images = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": images, **{name: values for name, (values, _) in columns.items()}})
    meta = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta), file)


def files(folder: Path, fine_names: list[str] | None, larger_names: list[str]) -> tuple[Hub, str]:
    """Fine classes 1, 3 and 6 of the larger set's eight, as superclasses a, a, b; level = class in the larger set."""
    fine = [1, 3, 6] * 20
    sup = ["a", "b"]
    parquet(
        folder / "in9" / "train.parquet", fine,
        label=([int(f == 6) for f in fine], sup), fine=(fine, fine_names),
        variant=([0] * 60, list(VARIANTS)), source=([f"s{i}" for i in range(60)], None),
    )  # fmt: skip
    # mixed_same answers 1, 3, 6; mixed_rand answers 1, 2 (outside the map), 6.
    parquet(
        folder / "in9" / "test.parquet", [1, 3, 6, 1, 2, 6] * 4,
        label=([0, 0, 1] * 8, sup), fine=([1, 3, 6] * 8, fine_names),
        variant=([5, 5, 5, 6, 6, 6] * 4, list(VARIANTS)),
        source=([f"t{i // 6}-{i % 3}" for i in range(24)], None),
    )  # fmt: skip
    parquet(folder / "larger" / "train.parquet", list(range(8)) * 20, label=(list(range(8)) * 20, larger_names))
    parquet(folder / "larger" / "test.parquet", list(range(8)), label=(list(range(8)), larger_names))
    return Hub(path=str(folder / "in9"), size=8), str(folder / "larger")


NAMES = [f"class {letter}" for letter in "zyxwvuts"]


@pytest.mark.parametrize("fine_names", [None, NAMES], ids=["numbers", "names"])
def test_a_larger_fine_grained_set_trains_the_classifier(tmp_path: Path, fine_names: list[str] | None) -> None:
    data, larger = files(tmp_path, fine_names, NAMES)
    found = replace(PROBE, fine_data=larger).measure(bank(network(Grey()), data, "0", {"train", "test"}), 0)
    numbers = by_name(found)
    assert not found.notes, "sources are found though the training split has one an image"
    assert numbers["mixed-same"].value == 1 and numbers["mixed-rand"].value == pytest.approx(2 / 3)
    gap = numbers["background accuracy gap"]
    assert gap.value == pytest.approx(1 / 3) and gap.n == 12 and gap.error == pytest.approx(math.sqrt(2 / 9 / 12))


def test_a_fine_grained_set_without_the_fine_classes_is_refused(tmp_path: Path) -> None:
    data, larger = files(tmp_path, None, NAMES)
    parquet(Path(larger) / "train.parquet", [0, 1, 2, 3] * 5, label=([0, 1, 2, 3] * 5, NAMES[:4]))
    parquet(Path(larger) / "test.parquet", [0, 1, 2, 3], label=([0, 1, 2, 3], NAMES[:4]))
    with pytest.raises(UserError, match=r"fine class '6' of the training split is none of the 4 classes of '.*larger'"):
        replace(PROBE, fine_data=larger).measure(bank(network(Grey()), data, "0", {"train", "test"}), 0)


def test_tiny_in9_gives_every_variant_and_a_paired_gap() -> None:
    if not (SHARED / "tiny_in9").is_dir():
        pytest.skip("needs the image set 'tiny_in9' in ../shared/data")
    pooled = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
    found = Backgrounds(epochs=5).measure(bank(network(pooled), Hub(path=str(SHARED / "tiny_in9"), size=32), "0"), 0)
    numbers = by_name(found)
    assert not found.notes and len(numbers) == 9 and all(number.n == 492 for number in numbers.values())
    assert numbers["original"].value > 0.15 > numbers["only-bg-b"].value - 0.1
    free = math.hypot(numbers["mixed-same"].error or 0, numbers["mixed-rand"].error or 0)
    assert 0 < (numbers["background accuracy gap"].error or 0) < 0.99 * free, (
        "answers to one foreground agree, so pairing helps"
    )


# ---- scenes ----


def test_scenes_are_rendered_as_the_variants_say(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = Scenes(train=400, test=50, bias=1.0, target="colour"), []

    def spy(factors: Factors, size: int, foreground: bool = True, background: bool = True) -> Tensor:
        seen.append(factors)
        return render_all(factors, size, foreground, background)

    monkeypatch.setattr(_variants, "render_all", spy)
    made_ = dict(_variants.rendered(data, seed=0))
    assert tuple(made_) == VARIANTS
    factors = data.factors("test")
    full, alone = render_all(factors, 32), render_all(factors, 32, background=False)
    assert torch.equal(made_["original"], full) and torch.equal(made_["only_fg"], alone)
    assert torch.equal(made_["only_bg_t"], render_all(factors, 32, foreground=False))
    for i in range(50):
        rows, columns = (alone[i] > 0).any(0).nonzero(as_tuple=True)
        boxed = full[i].clone()
        boxed[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 0
        assert torch.equal(made_["only_bg_b"][i], boxed)
        outside = (alone[i] == 0).all(0)
        assert torch.equal(made_["no_fg"][i][:, outside], full[i][:, outside])
        assert (made_["no_fg"][i].int() + alone[i].int() - full[i].int()).abs().max() <= 1
    colour = factors.labels()["colour"]
    same, rand, following = seen[-3:]
    assert torch.equal(same.background, colour) and torch.equal(following.background, (colour + 1) % 8)
    assert len(set(rand.background.tolist())) >= 7 and 0 < int((rand.background == colour).sum()) < 20
    for mixed in (same, rand, following):
        assert torch.equal(mixed.centre, factors.centre) and torch.equal(mixed.light, factors.light)
        trained_on = data.factors("train").key
        assert len(set(mixed.key.tolist()) & set(trained_on.tolist())) < 5, "backdrops that no classifier was trained on"


class Sees(nn.Module):
    """(B, 10): which backdrop, or which colour, images made by `told` show."""

    def __init__(self, plane: int) -> None:
        super().__init__()
        self.plane = plane

    def forward(self, views: Tensor) -> Tensor:
        return 8 * torch.eye(11)[(views[:, self.plane, 0, 0].round() / 10).long()]


def told(factors: Factors, size: int, foreground: bool = True, background: bool = True) -> Tensor:
    """In place of pixels: plane 0 says the backdrop, plane 1 the object's colour, each times ten; 100 where there is none."""
    pixels = torch.full((len(factors), 3, size, size), 100, dtype=torch.uint8)
    if background:
        pixels[:, 0] = (factors.background * 10).to(torch.uint8)[:, None, None]
    if foreground:
        pixels[:, 1] = (factors.colour[:, 0] * 10).to(torch.uint8)[:, None, None]
    return pixels


@pytest.fixture
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_variants, scenes_module):
        monkeypatch.setattr(module, "render_all", told)


@pytest.fixture
def measured(_told: None) -> Callable[[int, float], Measured]:
    def found(plane: int, bias: float) -> Measured:
        data = Scenes(train=2000, test=400, size=8, target="colour", bias=bias)
        return Backgrounds().measure(bank(network(Sees(plane)), data, "0"), 0)

    return found


def test_what_sees_the_backdrop_alone_has_the_whole_gap(measured: Callable[[int, float], Measured]) -> None:
    found = measured(0, 1.0)
    numbers = by_name(found)
    rand = numbers["mixed-rand"].value
    assert numbers["mixed-same"].value == 1 and numbers["mixed-next"].value == 0 and not found.notes
    assert abs(rand - 1 / 8) < 0.06 and abs(numbers["original"].value - 1 / 10) < 0.06
    gap = numbers["background accuracy gap"]
    assert (gap.value, gap.n) == (pytest.approx(1 - rand), 400)
    assert gap.error == pytest.approx(math.sqrt(rand * (1 - rand) / 400))


def test_what_sees_the_object_alone_has_no_gap(measured: Callable[[int, float], Measured]) -> None:
    numbers = by_name(measured(1, 1.0))
    assert all(numbers[name].value == 1 for name in ("original", "mixed-same", "mixed-rand", "mixed-next", "only-fg"))
    assert (numbers["background accuracy gap"].value, numbers["background accuracy gap"].error) == (0, 0)
    assert abs(numbers["only-bg-t"].value - 1 / 8) < 0.06 and numbers["original"].classes == len(CLASSES["colour"])


def test_without_bias_there_is_no_gap_and_a_note_says_so(measured: Callable[[int, float], Measured]) -> None:
    found = measured(0, 0.0)
    gap = by_name(found)["background accuracy gap"]
    assert abs(gap.value) < 3 * (gap.error or 0) and "bias 0" in found.notes[0]


def test_a_class_without_training_images_lends_no_backdrop() -> None:
    with pytest.raises(UserError, match="no training image to lend its backdrop: raise train=20"):
        list(_variants.rendered(Scenes(train=20, test=12, size=8, imbalance=1000), 0))


def test_scenes_need_the_network() -> None:
    data = Scenes(train=30, test=12, size=8)
    given = bank(network(nn.Sequential(nn.AvgPool2d(4), nn.Flatten())), data, "0")
    with pytest.raises(NotApplicableError, match="features from a file"):
        Backgrounds().measure(replace(given, network=None), 0)
    assert any("'x' is not used" in note for note in Backgrounds(fine_data="x", epochs=1).measure(given, 0).notes)
