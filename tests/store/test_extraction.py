"""Extraction goes on where it was cut, whatever cut it, and refuses to mix."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_stores import MODEL, Made, made, network
from tiny_runs import WORDS, command, contents, said

from wingspan import features
from wingspan.errors import UserError
from wingspan.extraction import Wanted, extract_to
from wingspan.runs import RunFolder
from wingspan.stopping import Interrupted
from wingspan.store import manifest, shards
from wingspan.store.checks import unfinished
from wingspan.store.store import open_store

STARTED_WITHIN = 120.0  # seconds


def stored(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("form", ["packed", "fp16", "sparse"])
@pytest.mark.parametrize("stop_at", [1, 3, 8])
def test_a_signal_keeps_finished_shards_and_the_next_call_makes_the_rest(
    form: str, stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(tmp_path / "whole", 256, format=form).path
    seen = network(256)
    calls = 0

    def counted(module: object, inputs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at + 1:  # one call is spent on finding the width
            os.kill(os.getpid(), signal.SIGTERM)

    handle = seen.backbone.register_forward_pre_hook(counted)
    wanted = Wanted(form, batch=50)  # type: ignore[arg-type]
    with pytest.raises(Interrupted, match="To go on: the same command again"):
        extract_to(tmp_path / "cut", seen, MODEL, Made(), wanted)
    handle.remove()
    assert not list((tmp_path / "cut").rglob("*.part")), "what is not whole is removed"
    with pytest.raises(UserError, match="Go on with the command that began it"):
        open_store(tmp_path / "cut")
    extract_to(tmp_path / "cut", seen, MODEL, Made(), wanted)
    assert stored(tmp_path / "cut") == stored(whole)


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    times = {file: file.stat().st_mtime_ns for file in store.train.folder.iterdir()}
    (store.train.folder / "00001.bits").write_bytes(b"broken")
    before = stored(store.test.folder)
    made(tmp_path / "store")
    again = {file.name for file in store.train.folder.iterdir() if file.stat().st_mtime_ns != times[file]}
    assert again == {"00001.bits", shards.SUMS} and stored(store.test.folder) == before
    open_store(store.path, verify=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extraction") / "run"
    assert command("pretrain", *WORDS, "--width", "512", "--epochs", "1", "--out", path) == 0
    return path


def words(run: Path, out: Path) -> list[object]:
    """1,300 scenes: six shards of 1,024 at 64 bytes a code, and fewer."""
    return [
        run,
        "--data",
        "scenes",
        "--data.train",
        "2400",
        "--data.test",
        "1100",
        "--format",
        "packed",
        "--batch",
        "64",
        "--out",
        out,
    ]


def test_five_kills_change_no_byte(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # other processes have shards as they are
    assert command("features", *words(run, tmp_path / "whole")) == 0
    chance, out, sitting = random.Random(2), tmp_path / "cut", 0
    line = [sys.executable, "-m", "wingspan.cli", "features", *map(str, words(run, out))]
    while sitting < 5:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        begun, end = len(contents(out)) if out.exists() else 0, time.monotonic() + STARTED_WITHIN
        while process.poll() is None and (len(list(out.rglob("*"))) if out.exists() else 0) <= begun and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.communicate()
        sitting += 1
    assert command("features", *words(run, out)) == 0
    assert stored(out) == stored(tmp_path / "whole")


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "store").lock(), pytest.raises(UserError, match="in use by another process"):
        made(tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": dataclasses.replace(MODEL, fingerprint="1", name="second")}, r"another model: of made at.*second at step 7"),
        ({"model": dataclasses.replace(MODEL, step=9)}, r"of another model: of made at step 7.*made at step 9"),
        ({"model": dataclasses.replace(MODEL, weights="0" * 64)}, r"weights ffffffff.*weights 00000000"),
        ({"wanted": Wanted("fp16", batch=50)}, r"format: 'packed' -> 'fp16'"),
        ({"wanted": Wanted("packed", batch=51)}, r"batch: 50 -> 51"),
        ({"wanted": Wanted("packed", batch=50, threshold=0.5)}, r"threshold: 0\.0 -> 0\.5"),
        ({"network": network(128)}, r"width: 256 -> 128"),
        ({"data": Made(rows=299)}, r"data\.rows: 300 -> 299"),
    ],
)  # fmt: skip
def test_features_made_otherwise_are_not_mixed(change: dict[str, object], message: str, tmp_path: Path) -> None:
    before = stored(made(tmp_path / "store").path)
    given = {"network": network(256), "model": MODEL, "data": Made(), "wanted": Wanted("packed", batch=50)} | change
    with pytest.raises(UserError, match=message):
        extract_to(tmp_path / "store", *given.values())  # type: ignore[arg-type]
    assert stored(tmp_path / "store") == before


def test_a_moved_run_is_the_same_model(tmp_path: Path) -> None:
    made(tmp_path / "store")
    moved = dataclasses.replace(MODEL, run="/elsewhere")
    extract_to(tmp_path / "store", network(256), moved, Made(), Wanted("packed", batch=50))


def test_changed_images_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "store")
    whole = Made.load
    monkeypatch.setattr(Made, "load", lambda self, split: dataclasses.replace(whole(self, split), quantities={}))
    with pytest.raises(UserError, match="made otherwise"):
        made(tmp_path / "store")
    monkeypatch.setattr(Made, "load", lambda self, split: dataclasses.replace(whole(self, split), rows=None))
    with pytest.raises(UserError, match="begun with other images"):
        made(tmp_path / "store")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match=r"is not empty and holds no store \(found thesis\.tex\)"):
        made(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"important"}


@pytest.mark.parametrize("form", ["packed", "sparse"])
def test_a_full_disk_keeps_what_was_written_and_says_so(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stored(made(tmp_path / "whole", format=form).path)
    add, rows = shards.ShardWriter.add, 0

    def full(self: shards.ShardWriter, h: torch.Tensor) -> None:
        nonlocal rows
        rows += len(h)
        if rows > 200:
            with shards.explained(self.folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, h)

    with monkeypatch.context() as patched:
        patched.setattr(shards.ShardWriter, "add", full)
        with pytest.raises(UserError, match="No space left on device"):
            made(tmp_path / "store", format=form)
    store = manifest.read(tmp_path / "store")
    assert unfinished(tmp_path / "store", store, "train") == [1, 2] and not list(tmp_path.rglob("*.part"))
    assert stored(made(tmp_path / "store", format=form).path) == whole


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"0\.00 GB are needed for packed features at D = 256, 0\.00 GB are free"):
        made(tmp_path / "store")
    assert not (tmp_path / "store" / "store.json").exists()


def test_features_that_are_not_finite_are_refused_by_row(tmp_path: Path) -> None:
    seen = network(256)
    calls = 0

    def spoil(module: object, inputs: object, h: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # rows 100 to 149, but 128 begins a shard
            h[3] = float("nan")
        return h

    seen.backbone.register_forward_hook(spoil)
    with pytest.raises(UserError, match=r"features of 1 images are not finite \(rows 103\).*diverged"):
        extract_to(tmp_path / "store", seen, MODEL, Made(), Wanted("packed", batch=50))


def test_memory_holds_a_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk, no more than some batches wait for it."""
    add, waiting, most = shards.ShardWriter.add, 0, 0
    seen = network(256)

    def forwarded(*given: object) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)

    def slow(self: shards.ShardWriter, h: torch.Tensor) -> None:
        nonlocal waiting
        time.sleep(0.01)
        add(self, h)
        waiting -= 1

    seen.backbone.register_forward_hook(forwarded)
    monkeypatch.setattr(shards.ShardWriter, "add", slow)
    extract_to(tmp_path / "store", seen, MODEL, Made(), Wanted("packed", batch=5))
    assert 3 < most <= 7


def test_the_verb_stores_shows_and_checks(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.undo()
    out = tmp_path / "codes"
    assert command("features", run, "--out", out, "--format", "packed") == 0
    told = said(capsys)
    assert "D = 512" in told and "packed" in told and "Next: wingspan search" in told
    store = features.open(out)
    assert store.splits == ("train", "test") and len(store.test) == 32 and store.manifest.model.run == str(run)
    assert (out / "run.json").read_text() == (run / "run.json").read_text()
    assert command("features", out, "--check") == 0 and "as it was written" in said(capsys)
    (out / "train" / "00000.bits").write_bytes(bytes(48 * 64))
    assert command("features", out) == 0
    capsys.readouterr()
    assert command("features", out, "--check") == 2 and "00000.bits is damaged" in said(capsys)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "which run?"),
        (["nowhere", "--out", "x"], "nowhere/run.json does not exist"),
        (["RUN"], "where to? wingspan features"),
        (["RUN", "--out", "x", "--max-loss", "-1"], "--max-loss -1.0 is points of accuracy"),
        (["RUN", "--out", "x", "--batch", "0"], "--batch 0 must be at least 1"),
        (["RUN", "--out", "x", "--layer", "head"], "--layer 'head'"),
        (["RUN", "--out", "x", "--formt", "fp16"], "--formt"),
        (["RUN", "--out", "x", "--format", "zip"], "zip"),
        (["RUN", "--data", "nowhere/", "--out", "x"], "nowhere"),
    ],
)
def test_bad_words_are_told(run: Path, given, message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("features", *[run if word == "RUN" else word for word in given]) == 2
    assert message in said(capsys)
    assert not (tmp_path / "x" / "store.json").exists()


def test_the_verb_hands_over(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.undo()
    assert command("features", run, "--out", tmp_path / "h", "--format", "fp16") == 0
    assert command("features", tmp_path / "h", "--to", "parquet", "--out", tmp_path / "h.parquet") == 0
    capsys.readouterr()
    assert command("features", tmp_path / "h", "--to", "npy", "--out", tmp_path / "c.npy", "--split", "test", "--codes") == 0
    assert str(tmp_path / "c.npy") in said(capsys)
    part = features.open(tmp_path / "h").test
    table = pq.read_table(tmp_path / "h-test.parquet")
    assert table["id"].to_pylist() == part.ids.tolist() and (tmp_path / "h-train.parquet").exists()
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "c.npy")), part.bits[:])
    for words, message in (
        (["--to", "parquet"], "where to?"),
        (["--to", "parquet", "--out", tmp_path / "c.npy", "--split", "test"], "c.npy"),
        (["--to", "parquet", "--out", "x", "--split", "tset"], "holds no split 'tset'"),
        (["--to", "excel", "--out", "x"], "excel"),
    ):
        assert command("features", tmp_path / "h", *words) == 2 and message in said(capsys)
