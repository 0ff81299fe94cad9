"""`wingspan measure`: several measures on several image sets and runs, kept and never done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_runs import command, said, tiny
from torch import nn

from wingspan import results, spec
from wingspan.augment import Augment
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.features import bank
from wingspan.loop import pretrain
from wingspan.measures.base import Measure, NotApplicableError
from wingspan.measures.linear import PRESETS, Linear
from wingspan.measures.spectrum import Spectrum
from wingspan.network import Network
from wingspan.results import Entry, label_of, measure_run, result_file, tables
from wingspan.runs import RunFolder, read_json
from wingspan.runtime import Runtime
from wingspan.verbs._measures import measures

QUICK = ("--measures", "linear_fast", "--set", "linear_fast.epochs=1")


@pytest.fixture(scope="session")
def wider(tmp_path_factory) -> RunFolder:
    return pretrain(tiny(backbone__width=24), tmp_path_factory.mktemp("wider") / "run24")


@pytest.fixture
def runs(finished, wider, tmp_path) -> list[RunFolder]:
    """Two finished runs of widths 16 and 24, to be measured."""
    made = []
    for run, name in ((finished, "narrow"), (wider, "wide")):
        shutil.copytree(run.path, tmp_path / name)
        made.append(RunFolder(tmp_path / name))
    return made


@pytest.fixture
def pets(tmp_path) -> Path:
    """A folder of class folders with 24 training and 12 test images."""
    for split, n in (("train", 24), ("test", 12)):
        for at in range(n):
            file = tmp_path / "pets" / split / ("cat" if at % 2 else "dog") / f"{at}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (9 * at, 100, 200 * (at % 2))).save(file)
    return tmp_path / "pets"


def results_of(folder: RunFolder) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in sorted(folder.results.glob("*.json"))}


def test_several_runs_and_image_sets_make_one_table_and_are_not_measured_twice(runs, pets, tmp_path, capsys):
    paths = [run.path for run in runs]
    assert command("measure", *paths, *QUICK, "--data", "own", pets, "--out", tmp_path / "out", "--jobs", "1") == 0
    assert "Wrote" in said(capsys)
    table = pd.read_parquet(tmp_path / "out/results.parquet")
    assert set(table.width) == {16, 24} and set(table.data) == {"scenes", "pets"} and table.error.notna().all()
    roles = {(row.data, row.task): row.role for row in table.itertuples()}
    assert roles["scenes", "shape"] == "in-distribution" and roles["scenes", "colour"] == roles["pets", "label"] == "transfer"
    assert set(table.measure) == {"linear_fast(epochs=1)"}
    assert (tmp_path / "out/report.html").exists()
    before = {file: file.stat().st_mtime_ns for run in runs for file in run.results.iterdir()}
    assert len(before) == 4
    assert command("measure", *paths, *QUICK, "--data", "own", pets, "--out", tmp_path / "out", "--jobs", "1") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "out/results.parquet"))
    assert command("measure", *paths, *QUICK, "--data", pets, "--again", "--out", tmp_path / "out", "--jobs", "1") == 0
    again = {file.name for file in before if file.stat().st_mtime_ns != before[file]}
    assert len(again) == 1 and again.pop().startswith("linear-pets")  # one name, in both runs
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "out/results.parquet"))


def test_runs_side_by_side_give_the_same_table(runs, tmp_path):
    paths = [run.path for run in runs]
    assert command("measure", *paths, *QUICK, "--out", tmp_path / "two", "--jobs", "2") == 0
    two = pd.read_parquet(tmp_path / "two/results.parquet")
    assert command("measure", *paths, *QUICK, "--again", "--out", tmp_path / "one", "--jobs", "1") == 0
    pd.testing.assert_frame_equal(two, pd.read_parquet(tmp_path / "one/results.parquet"))
    assert not list(tmp_path.rglob(".measuring*"))


def test_what_fails_stops_nothing_else(runs, tmp_path, capsys):
    narrow = runs[0]
    assert command("measure", narrow.path, *QUICK, "--data", tmp_path / "nowhere", "own") == 2
    told = said(capsys)
    assert "failed:" in told and "nowhere" in told
    (found,) = results_of(narrow).values()
    assert found["data"]["name"] == "scenes" and found["numbers"]
    assert (narrow.path / "report.html").exists() and (narrow.path / "results.parquet").exists()


def test_earlier_results_survive_a_later_failure(runs, tmp_path):
    narrow = runs[0]
    assert command("measure", narrow.path, *QUICK) == 0
    before = results_of(narrow)
    assert command("measure", narrow.path, *QUICK, "--data", tmp_path / "nowhere") == 2
    assert results_of(narrow) == before


def test_a_measure_that_does_not_fit_the_images_is_a_note(runs, pets, capsys, monkeypatch):
    narrow = runs[0]
    measure = Linear.measure

    def picky(self: Linear, bank: Any, seed: int) -> Any:
        if bank.data == "pets":
            raise NotApplicableError("pets have nothing of the kind")
        return measure(self, bank, seed)

    monkeypatch.setattr(Linear, "measure", picky)
    assert command("measure", narrow.path, *QUICK, "--data", "own", pets) == 0
    assert "pets have nothing of the kind" in said(capsys)
    kept = {found["data"]["name"]: found for found in results_of(narrow).values()}
    assert kept["pets"]["skipped"] and not kept["pets"]["numbers"] and kept["scenes"]["numbers"]
    shutil.rmtree(narrow.results)
    assert command("measure", narrow.path, *QUICK, "--data", pets) == 2, "nothing at all was measured"


def test_a_result_of_an_earlier_checkpoint_is_measured_again(runs):
    narrow = runs[0]
    assert command("measure", narrow.path, *QUICK) == 0
    (file,) = narrow.results.iterdir()
    value = read_json(file)
    file.write_text(json.dumps({**value, "step": value["step"] - 1, "numbers": []}))
    assert command("measure", narrow.path, *QUICK) == 0
    assert read_json(file)["numbers"] == value["numbers"] and read_json(file)["step"] == value["step"]


def test_a_stop_keeps_what_was_measured(runs, pets, monkeypatch):
    narrow = runs[0]
    write = results.write_json

    def stopped(path: Path, value: Any) -> None:
        write(path, value)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(results, "write_json", stopped)
    assert command("measure", narrow.path, *QUICK, "--data", "own", pets) == 128 + signal.SIGINT
    (found,) = results_of(narrow).values()
    assert found["data"]["name"] == "scenes"


def test_a_published_set_is_named_with_its_folder(runs, tmp_path, capsys):
    for kind in ("Forest", "River"):
        for at in range(10):
            file = tmp_path / "EuroSAT/2750" / kind / f"{kind}_{at + 1}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (20 * at, 150, 90 if kind == "River" else 0)).save(file)
    words = ("--data", "eurosat", "--data.folder", tmp_path / "EuroSAT")
    assert command("measure", runs[0].path, *QUICK, *words) == 0, said(capsys)
    (found,) = results_of(runs[0]).values()
    assert found["data"]["name"] == "eurosat" and found["data"]["settings"]["size"] == 16
    assert [number["n"] for number in found["numbers"]] == [4]


def test_results_of_the_first_version_are_read(runs):
    """They had neither series nor error, and no step."""
    narrow = runs[0]
    run = tiny()
    file = result_file(narrow, run.data, Linear())
    file.parent.mkdir()
    number = {"metric": "accuracy", "task": "shape", "value": 0.5, "n": 32, "classes": 12, "chance": 0.1}
    data = {"name": "scenes", "target": "shape", "settings": spec.to_json(run.data)}
    measure = {"kind": "linear", "lr": 1e-4, "batch": 1024}
    file.write_text(json.dumps({"run": "x", "data": data, "measure": measure, "seed": 0, "numbers": [number]}))
    found = tables([Entry(narrow, run, {})])
    (row,) = found.numbers.to_dict("records")
    assert row["value"] == 0.5 and row["series"] == "" and row["error"] != row["error"] and row["role"] == "in-distribution"
    assert found.measures == {"linear": Linear()} and found.curves.empty
    assert results.known(narrow, run.data, Linear())


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("--set linear_fast.epoch=1", ("'epoch'", "'epochs'")),
        ("--set linear_fast.epochs=many", ("'many'", "int")),
        ("--set epochs=1", ("'epochs=1'", "NAME.FIELD=VALUE")),
        ("--set knn.k=1", ("'knn'", "linear_fast")),
        ("--set linear_fast.epochs=0", ("epochs 0", "positive")),
        ("--measures linear_fast,liner", ("'liner'", "'linear'")),
        ("--measures", ("--measures needs a value",)),
        ("--data own own", ("two image sets called 'scenes'",)),
        ("--data.siez 16", ("--data.siez", "--data.size")),
        ("--epochs 5", ("--epochs",)),
    ],
)
def test_mistakes_are_explained(runs, capsys, words, texts):
    assert command("measure", runs[0].path, *words.split()) == 2
    told = said(capsys)
    assert all(text in told for text in texts), told
    assert not runs[0].results.exists()


def test_all_means_every_measure_in_its_cheapest_setting():
    found = measures(["all"], [])
    assert sorted(spec.kind_of(measure) for measure in found) == spec.files(Measure)
    assert PRESETS["linear_fast"] in found and Linear() not in found


def test_a_measures_name_tells_its_settings():
    assert label_of(Linear()) == "linear" and label_of(PRESETS["linear_fast"]) == "linear_fast"
    assert label_of(Linear(epochs=5)) == "linear(epochs=5)"
    assert label_of(replace(PRESETS["linear_fast"], epochs=5)) == "linear_fast(epochs=5)"


def test_nan_features_name_the_run(runs, monkeypatch):
    narrow = runs[0]
    h = Network.h
    monkeypatch.setattr(Network, "h", lambda self, views: h(self, views) * float("nan"))
    _, failed = measure_run(narrow, [(tiny().data, Linear())], "cpu")
    assert len(failed) == 1 and "narrow" in failed[0] and "not finite" in failed[0] and "rows 0, 1" in failed[0]


def test_any_module_that_gives_a_vector_an_image_is_measured():
    """As docs/measures.md shows it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network, measure = Network(module, Augment(), Runtime("cpu")), Spectrum()
    found = measure.measure(bank(network, Scenes(train=8, test=40, size=16), "mine", measure.needs), seed=0)
    assert {number.n for number in found.numbers} == {40} and found.curves


def test_few_numbers_are_printed_whole_and_many_in_part(runs, pets, capsys):
    narrow = runs[0]
    assert command("measure", narrow.path, *QUICK) == 0
    told = said(capsys)
    assert "Shown is one number" not in told and told.count("accuracy") >= 10 and "light" in told
    assert command("measure", narrow.path, "--measures", "linear_fast,knn,sparsity,geometry", "--data", "own", pets) == 0
    told = said(capsys)
    assert "Shown is one number of each measure and image set" in told and "zeros per image" in told


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="a run's folder"):
        from wingspan.verbs.measure import main

        main([str(tmp_path / "absent")])


@pytest.mark.parametrize("name", [*spec.files(Measure), *spec.presets(Measure)])
def test_help_tells_every_setting_of_a_measure_and_when_to_change_it(name, capsys):
    assert command("measure", "--measures", name, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    measure = spec.named(Measure, name)
    assert lines[0].startswith(f"{name}: {measure.title}")
    for field in fields(measure):
        (at,) = (at for at, line in enumerate(lines) if line.startswith(f"  --set {name}.{field.name}="))
        assert len(lines[at + 1].strip()) > 10, f"{field.name} has no docstring"
        text = lines[at].strip().removeprefix("--set ")
        assert measures([name], [text]) == [measure], "what help shows can be given back"
