"""wingspan draw: what it writes, and every refusal before anything is computed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_runs import command, said, tiny

from wingspan import company, taus
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting
from wingspan.rcdm import drawing
from wingspan.runs import RunFolder

HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None
needs_diffusers = pytest.mark.skipif(not HAS_DIFFUSERS, reason="diffusers is not installed")


@pytest.fixture(scope="module")
def place(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs narrow/ and wide/ of the same images, large/ of images twice the side, unfinished/ without a checkpoint; photos."""
    folder = tmp_path_factory.mktemp("draw")
    shutil.copytree(finished.path, folder / "narrow")
    pretrain(tiny(backbone__width=24, epochs=1), folder / "wide", Sitting(device="cpu"))
    pretrain(tiny(data__size=32, epochs=1), folder / "large", Sitting(device="cpu"))
    (folder / "unfinished").mkdir()
    shutil.copy(finished.spec, folder / "unfinished")
    for name in ("photos", "empty", "nothing"):
        (folder / name).mkdir()
    draw = np.random.default_rng(0)
    for at in range(3):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / "photos" / f"p{at}.png")
    (folder / "broken.png").write_bytes((folder / "photos" / "p0.png").read_bytes()[:100])
    (folder / "nothing" / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads true factors off pictures takes a while to train, a curve of each factor a while to draw."""
    monkeypatch.setattr(drawing, "train_reader", lambda *_, **__: None)
    monkeypatch.setattr(taus, "picture", lambda *_: None)


def draw(place: Path, *words: object, preset: str = "smoke") -> int:
    return command("draw", *words, "--preset", preset, "--device", "cpu")


@needs_diffusers
def test_samples_of_two_runs_are_drawn_with_references_and_pictures_from_outside(place: Path, tmp_path: Path, capsys) -> None:
    words = (place / "narrow", place / "wide", "--images", place / "photos", "--most", 2, "--own", 2, "--samples", 2)
    assert draw(place, *words, "--out", tmp_path / "out") == 0
    told = said(capsys)
    for name in ("simclr D=16", "simclr D=24", "untrained", "no information", "Wrote", "Next: open"):
        assert name in told
    table = pd.read_csv(tmp_path / "out" / "retention.csv")
    assert set(table["encoder"]) == {"simclr D=16", "simclr D=24", "untrained", "no information"}
    assert {"r2", "tau", "rho", "kappa", "mrr", "median rank"} == set(table["metric"])
    assert set(table["run"].dropna()) == {"narrow", "wide"}
    assert Image.open(tmp_path / "out" / "scenes" / "grid.png").width > 300
    assert "wingspan draw" in (tmp_path / "out" / "report.html").read_text()
    # the same command again trains nothing and finds the same
    weights = sorted((tmp_path / "out" / "scenes").rglob("weights.safetensors"))
    before = [file.stat().st_mtime_ns for file in weights]
    assert draw(place, *words, "--out", tmp_path / "out") == 0
    assert [file.stat().st_mtime_ns for file in weights] == before and len(before) == 2
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "retention.csv"), table)
    for edit in ("interpolate", "shared"):
        between = ("--between", "test:3", place / "photos" / "p1.png") if edit == "interpolate" else ()
        assert draw(place, *words[:2], "--out", tmp_path / "out", "--edit", edit, *between, "--samples", 2) == 0
        assert Image.open(tmp_path / "out" / "scenes" / f"{edit}.png").width > 300
    assert [file.stat().st_mtime_ns for file in weights] == before
    # others' features do not go into the same folder
    capsys.readouterr()
    assert draw(place, place / "wide", "--out", tmp_path / "out") == 2
    assert "holds a decoder of something else" in said(capsys)


def test_the_ridge_alone_needs_no_diffusion_and_every_data_set_is_a_company(
    place: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    monkeypatch.chdir(tmp_path)
    runs = (place / "narrow", place / "large")
    assert draw(place, *runs, "--rung", "ridge", "--no-references", "--own", "test:1,4") == 0
    out = tmp_path / "drawn" / "simclr-D16-smoke"
    table = pd.read_csv(out / "retention.csv")
    assert set(table["encoder"]) == {"simclr D=16"} and set(table["rung"]) == {"ridge"} and table["data"].nunique() == 2
    assert len(list(out.glob("*/grid.png"))) == 2
    assert "--rung samples" in said(capsys)


def test_notes_on_where_features_came_from_reach_the_files(place: Path, tmp_path: Path, capsys) -> None:
    assert command("features", place / "narrow", "--out", tmp_path / "kept", "--format", "fp16", "--device", "cpu") == 0
    assert draw(place, place / "narrow", "--rung", "ridge", "--store", tmp_path / "kept", "--out", tmp_path / "out") == 0
    (made,) = json.loads((tmp_path / "out" / "retention.json").read_text())["drawings"]
    assert any(str(tmp_path / "kept") in note for note in made["notes"])


@needs_diffusers
def test_a_dry_run_counts_and_writes_nothing(place: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "load_network", None)  # nothing is loaded
    monkeypatch.chdir(tmp_path)
    assert draw(place, place / "narrow", place / "wide", "--dry-run") == 0
    told = said(capsys)
    assert "scenes" in told and "7" in told and "about" in told and "Nothing was done" in told
    assert not list(tmp_path.glob("drawn*"))
    assert draw(place, place / "narrow", "--dry-run", "--rung", "ridge") == 0


def test_without_diffusers_samples_are_refused_at_once_and_the_message_says_what_goes_without(
    place: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    assert draw(place, place / "no run at all") == 2
    told = said(capsys)
    assert "pip install 'wingspan[rcdm]'" in told and "--rung ridge and --rung decoder do without" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "which runs?"),
        (("narrow", "photos"), "photos' holds neither a run nor a store"),
        (("gone",), "gone' does not exist"),
        (("unfinished",), "unfinished holds no checkpoint yet"),
        (("narrow", "--rung", "sample"), "invalid choice 'sample' for argument '--rung'"),
        (("narrow", "--side", "32"), "images of 16 pixels a side, and 32 are to be drawn: give --side 16"),
        (("narrow", "--preset", "cpu64"), "preset 'cpu64' is not known. Did you mean 'gpu64'?"),
        (("narrow", "--set", "stepz=3"), "--set 'stepz=3': a drawing has no setting 'stepz'. Did you mean 'steps'?"),
        (("narrow", "--set", "steps"), "--set 'steps' cannot be read"),
        (("narrow", "--set", "steps=many"), "many"),
        (("narrow", "--set", "steps=-3"), "steps -3 must be at least 1"),
        (("narrow", "--set", "side=20"), "side 20"),
        (("narrow", "--layer", "projector 3"), "--layer 'projector 3'"),
        (("narrow", "large", "--data", "scenes"), "runs of different sides"),
        (("narrow", "--own", "test:32"), "--own 'test:32': the test split holds rows 0 to 31"),
        (("narrow", "--own", "-2"), "--own"),
        (("narrow", "--own=-2"), "--own -2: give a number"),
        (("narrow", "--samples=-1"), "--samples -1 must be at least 1"),
        (("narrow", "--most", "0"), "--most 0 must be at least 1"),
        (("narrow", "--images", "empty"), "empty' is an empty folder"),
        (("narrow", "--images", "broken.png", "photos"), "1 of 4 pictures cannot be read: "),
        (("narrow", "--images", "missing.png"), "missing.png' does not exist"),
        (("narrow", "--edit", "interpolate", "--between", "test:1"), "--between test:1: name two pictures"),
        (("narrow", "--between", "test:1", "test:2"), "say which with --edit"),
        (("narrow", "--edit", "shared", "--rung", "decoder"), "leave out --rung decoder"),
        (("narrow", "--device", "cude"), "device 'cude'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_of_the_user(place: Path, capsys, monkeypatch, words, told: str) -> None:
    if not HAS_DIFFUSERS:
        pytest.skip("diffusers is not installed, which is told first")
    monkeypatch.chdir(place)
    rung = [] if {"--rung", "--edit"} & set(words) else ["--rung", "ridge"]
    preset = [] if "--preset" in words else ["--preset", "smoke"]
    assert command("draw", *words, *rung, *preset, "--out", place / "refused") == 2
    assert told in said(capsys)
    assert not list((place / "refused").rglob("ridge"))


@needs_diffusers
def test_edits_that_cannot_be_are_refused(place: Path, tmp_path: Path, capsys) -> None:
    for words, told in (
        (("interpolate", "--steps", 1), "--steps 1"),
        (("shared", "--neighbours", 99), "14 of 99 neighbours: there are 48 training images"),
        (("shared", "--layer", "projector 2"), "this layer has values below 0"),
    ):
        out = tmp_path / ("projector" if "projector 2" in words else "out")
        assert draw(place, place / "narrow", "--no-references", "--out", out, "--edit", *words) == 2
        assert told in said(capsys)
