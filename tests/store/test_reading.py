"""Measures read a store where it lies, and a store's form is chosen by what measuring says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from made_stores import Made, Small, made, truth
from tiny_runs import WORDS, command, said
from torch import Tensor, nn

from wingspan import features, results, storage
from wingspan.augment import PRESETS
from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory, Split
from wingspan.features import Bank
from wingspan.measures.base import NotApplicableError
from wingspan.measures.binary import Binary, codes
from wingspan.measures.collisions import Collisions
from wingspan.measures.few import Few
from wingspan.measures.jacobian import Jacobian
from wingspan.measures.knn import Knn
from wingspan.measures.linear import Linear
from wingspan.measures.mlp import Mlp
from wingspan.network import Network
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

FAST = Linear(lr=1e-2, epochs=3, batch=64, standardise=True)


def in_memory(width: int, binary: bool) -> Bank:
    """What the network gives, as 16-bit numbers; with `binary` zeros and ones."""
    data = Made()

    def split(name: Split) -> features.Split:
        h = truth(width, name)
        return features.Split(codes(h) if binary else h, data.load(name))

    return Bank("made", split("train"), split("test"), "0123456789")


PROBES = [
    FAST,
    dataclasses.replace(FAST, standardise=False, grid_lr=(1e-3, 1e-2)),
    Mlp(hidden=8, epochs=2),
    Few(draws=1, fractions=(0.5,), per_class=()),
]


@pytest.mark.parametrize("width", [256, 100])
@pytest.mark.parametrize("measure", PROBES)
def test_a_probe_of_a_packed_store_is_that_of_the_same_bits_in_memory(measure, width: int, tmp_path: Path) -> None:
    stored = features.stored_bank(made(tmp_path / "store", width))
    assert stored.train.h.dtype == torch.uint8 and stored.train.h.shape[1] == -(-width // 8)
    assert measure.measure(stored, 0).numbers == measure.measure(in_memory(width, True), 0).numbers


@pytest.mark.parametrize("form", ["fp16", "sparse"])
def test_a_probe_of_a_store_without_loss_is_that_of_features_in_memory(form: str, tmp_path: Path) -> None:
    stored = features.stored_bank(made(tmp_path / "store", 100, format=form))
    assert FAST.measure(stored, 0) == FAST.measure(in_memory(100, False), 0)
    assert Knn(k=5).measure(stored, 0) == Knn(k=5).measure(in_memory(100, False), 0)


def test_neighbours_and_collisions_of_codes_are_those_of_features(tmp_path: Path) -> None:
    stored, memory = features.stored_bank(made(tmp_path / "store", 100)), in_memory(100, False)
    wanted = {number for number in Knn(k=5).measure(memory, 0).numbers if number.series == "hamming"}
    assert set(Knn(k=5).measure(stored, 0).numbers) == wanted
    assert Collisions(subsets=2).measure(stored, 0) == Collisions(subsets=2).measure(memory, 0)


def test_a_probe_never_unpacks_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wingspan import bits

    stored = features.stored_bank(made(tmp_path / "store"))
    unpack, most = bits.unpack, 0

    def watched(part: Tensor, *rest: object) -> Tensor:
        nonlocal most
        most = max(most, len(part))
        return unpack(part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(bits, "unpack", watched)
    monkeypatch.setattr("wingspan.inputs._PART", 4096)
    FAST.measure(stored, 0)
    assert most == 16


def test_what_a_store_lacks_is_said(tmp_path: Path) -> None:
    stored = features.stored_bank(made(tmp_path / "store"))
    with pytest.raises(NotApplicableError, match="binary looks at values of h, and this store holds packed bits"):
        results.check_reads(stored, Binary())
    with pytest.raises(NotApplicableError, match="jacobian looks at the network itself"):
        results.check_reads(stored, Jacobian())
    results.check_reads(stored, FAST)
    results.check_reads(features.stored_bank(made(tmp_path / "dense", format="fp16")), Binary())


def test_pixels_are_loaded_when_a_measure_looks(tmp_path: Path) -> None:
    images = features.stored_bank(made(tmp_path / "store")).test.images
    some = torch.tensor([3, 80])
    assert torch.equal(images.images.batch(some), Made().load("test").images.batch(some)) and images.images.side == 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading") / "run"
    assert command("pretrain", *WORDS, "--width", "64", "--epochs", "1", "--out", path) == 0
    return path


def test_the_verb_measures_a_store_beside_its_run(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.undo()
    words = ["--measures", "linear", "knn", "jacobian", "--set", "linear.epochs=2"]
    for form in ("packed", "fp16"):
        assert command("features", run, "--out", tmp_path / form, "--format", form) == 0
    capsys.readouterr()
    assert command("measure", run, tmp_path / "fp16", tmp_path / "packed", *words, "--out", tmp_path / "measured") == 0
    told = said(capsys)
    assert "packed" in told and "D=64" in told
    tables = results.tables(
        results.Entry(RunFolder(path), results.load_run(RunFolder(path)), {"features": path.name})
        for path in (run, tmp_path / "fp16", tmp_path / "packed")
    )
    numbers = tables.numbers.set_index(["features", "measure", "metric", "task", "series"])["value"]
    linear = [numbers[name]["linear(epochs=2)"] for name in ("run", "fp16", "packed")]
    assert linear[0].equals(linear[1]) and not linear[0].equals(linear[2])
    assert numbers["run"]["jacobian"].size and "jacobian" not in numbers["packed"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "packed" / "results").iterdir()}
    assert command("measure", tmp_path / "packed", *words) == 0
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "packed" / "results").iterdir()}, "not done again"
    assert command("measure", tmp_path / "packed", "--data", "scenes") == 2
    assert "is a store of features of 'scenes'" in said(capsys)


# ------------------------------------------------------------------------------------------------------ choosing the form


@dataclasses.dataclass(frozen=True)
class Sides(Small):
    """Two classes; `told` says where the class is: in the signs of h, or in how large one value is."""

    told: str = "signs"
    labelled: bool = True

    def load(self, split: Split) -> ImageSet:
        n = 3000 if split == "test" else 600
        draw = generator(0, "sides", len(split))
        kind = torch.randint(2, (n,), generator=draw)
        pixels = torch.randint(0, 256, (n, 3, 4, 4), generator=draw, dtype=torch.uint8)
        first = pixels.view(n, -1)[:, :8]
        first[:] = (255 * kind if self.told == "signs" else 200 + 55 * kind).unsqueeze(1).to(torch.uint8)
        return ImageSet(InMemory(pixels), *(({"kind": kind}, {"kind": ("a", "b")}, "kind") if self.labelled else ()))


class Pixels(nn.Module):
    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.least).relu() if self.least > -9 else x.flatten(1)


def choose(told: str, least: float = 0.0, allowed: float = 0.02, labelled: bool = True) -> storage.Chosen:
    seen = Network(Pixels(least), PRESETS["paper"], Runtime("cpu", "fp32"), name="made")
    return storage.choose(seen, Sides(told, labelled), "h", 0, allowed)


def test_bits_are_chosen_where_they_cost_nothing() -> None:
    chosen = choose("signs")
    assert chosen.format == "packed"
    assert "reads 100.0% from h and loses 0.0 ± 0.0 points on bits (3,000 test images" in chosen.why[0]


def test_values_are_kept_where_bits_lose_the_task() -> None:
    chosen = choose("size")
    assert chosen.format == "sparse", "half of h is 0"
    lost = float(chosen.why[0].split("loses ")[1].split()[0])
    assert lost > 20 and "not packed" in chosen.why[0] and "above the 2 points allowed" in chosen.why[0]
    share, images = chosen.why[1], Sides("size").load("test").images
    seen = Network(Pixels(0.0), PRESETS["paper"], Runtime("cpu", "fp32")).at(4)
    h = seen.h(seen.plain(images.batch(torch.arange(3000))))
    assert f"{1 / 16 + float((h > 0).float().mean()):.0%} of fp16's 96 bytes" in share
    assert choose("size", allowed=1.0).format == "packed", "who allows everything gets bits"


def test_values_below_0_or_few_zeros_leave_fp16() -> None:
    assert choose("size", least=-10).format == "fp16" and "has values below 0" in choose("size", least=-10).why[1]
    assert choose("size", least=-3).format == "fp16" and "sparse would take 106% of" in choose("size", least=-3).why[1]


def test_without_labels_nothing_is_given_up() -> None:
    chosen = choose("signs", labelled=False)
    assert chosen.format == "sparse" and "what bits cost is not known" in chosen.why[0]


def test_a_begun_store_keeps_its_form(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.undo()
    assert command("features", run, "--out", tmp_path / "store", "--max-loss", "100") == 0
    about = json.loads((tmp_path / "store" / "store.json").read_text())
    assert about["format"] == "packed" and "100 points allowed" in about["notes"][0] and "packed:" in said(capsys)
    assert command("features", run, "--out", tmp_path / "store") == 0, "and is not chosen anew"
