"""A study does what is missing, resumes what was cut, skips what is done, and never mixes settings."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tiny_runs import command, said, same, tiny

from wingspan import loop
from wingspan.data.hub import Hub
from wingspan.data.scenes import CLASSES
from wingspan.errors import UserError
from wingspan.measures.linear import Linear
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder, read_json
from wingspan.study import Study, carry_out, plan, results, widths
from wingspan.verbs.study import names

WORDS = [
    *("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16"),
    *("--epochs", "1", "--batch", "32", "--precision", "fp32", "--seeds", "0", "--jobs", "1"),
    *("--objectives", "simclr", "supervised", "--widths", "8", "16"),
]
PLAN = set(itertools.product(("simclr", "supervised"), (8, 16)))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A study carried out once; tests work on copies."""
    out = tmp_path_factory.mktemp("study") / "done"
    assert command(*WORDS, "--out", out) == 0
    return out


@pytest.fixture
def out(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "study"))  # times of files are copied too


def written(out: Path) -> dict[str, int]:
    """When each checkpoint and result was written."""
    kept = ("learner.safetensors", "done.json")
    files = [file for file in out.rglob("*") if file.name in kept or file.parent.name == "results"]
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in files}


def runs(out: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in (out / "runs").iterdir()}


def test_it_writes_a_table_and_a_page(done):
    table = pd.read_parquet(done / "results.parquet")
    assert {(row.objective, row.width) for row in table.itertuples()} == PLAN
    accuracies = table[table.metric == "accuracy"]
    assert len(accuracies) == len(PLAN) * len(CLASSES) and set(table.metric) == {"accuracy", "r2"}
    own = table[table.role == "in-distribution"]
    assert set(own.task) == {"shape"} and len(own) == len(PLAN)
    assert set(table.seed) == {0} and accuracies.value.between(0, 1).all()
    page = (done / "report.html").read_text()
    assert "Width study: scenes" in page and "data:image/png;base64" in page
    assert (done / "views.png").exists()


def test_a_second_time_nothing_is_computed(out, capsys):
    before, page = written(out), (out / "report.html").stat().st_mtime_ns
    assert command(*WORDS, "--out", out) == 0
    assert len(before) == 3 * len(PLAN) and written(out) == before
    assert (out / "report.html").stat().st_mtime_ns > page  # the page is made anew
    assert f"Wrote {out}/report.html" in said(capsys)


def test_only_what_is_missing_is_measured(out):
    before = written(out)
    (gone,) = [file for file in before if "simclr-small-D16" in file and "results" in file]
    table = pd.read_parquet(out / "results.parquet")
    (out / gone).unlink()
    assert command(*WORDS, "--out", out) == 0
    after = written(out)
    assert {file for file in before if after[file] != before[file]} == {gone}
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), table)


def test_a_dry_run_tells_and_does_nothing(out, tmp_path, capsys):
    shutil.rmtree(runs(out)["supervised-small-D8-s0"])
    before = written(out)
    assert command(*WORDS, "--out", out, "--dry-run") == 0
    told = said(capsys)
    assert told.count(" done") == 3 and told.count("not run") == 1
    assert written(out) == before


def test_a_study_cut_half_way_goes_on(done, tmp_path, monkeypatch, capsys):
    """Stopped in the first step of its third run."""
    out, steps, compute = tmp_path / "study", itertools.count(1), loop.step

    def watched(*arguments):
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", watched)
        assert command(*WORDS, "--out", out) == 128 + signal.SIGINT
    assert "saved. To go on" in said(capsys)
    before = written(out)
    assert len(before) == 3 * 2 + 1  # two runs whole, and the checkpoint of the third
    assert statuses(out) == ["done", "done", "cut short", "not run"]
    assert command(*WORDS, "--out", out) == 0
    assert {file: at for file, at in written(out).items() if file in before and "step-000000001" not in file} == {
        file: at for file, at in before.items() if "step-000000001" not in file
    }
    assert statuses(out) == ["done"] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), pd.read_parquet(done / "results.parquet"))


def statuses(out: Path) -> list[str]:
    """How far each run of the plan is, as study.json has it."""
    note = read_json(out / "study.json")
    for run in note["runs"]:
        assert (out / run["path"] / "run.json").exists() == (run["status"] != "not run")
    return [run["status"] for run in note["runs"]]


def started_side_by_side(out: Path) -> subprocess.Popen:
    """The study with two jobs, in a session of its own as from a terminal, once a run has taken a step."""
    line = [sys.executable, "-m", "wingspan.cli", *WORDS, "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    end = time.monotonic() + 120
    while not any(file.stat().st_size for file in out.glob("runs/*/metrics.jsonl")) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


def assert_goes_on(out: Path, done: Path) -> None:
    before = {file: at for file, at in written(out).items() if not file.endswith("learner.safetensors")}
    assert command(*WORDS, "--out", out) == 0
    assert before.items() <= written(out).items()
    keys = ["run", "fingerprint", "task", "role", "n", "classes"]
    pd.testing.assert_frame_equal(*(pd.read_parquet(each / "results.parquet")[keys] for each in (out, done)))


@pytest.mark.parametrize(
    ("signum", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGINT, os.kill), (signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg)],
    ids=["SIGTERM to the parent", "SIGINT to the parent", "Ctrl-C to all", "SIGTERM to all"],
)
def test_runs_side_by_side_save_when_stopped(done, tmp_path, signum, send):
    out = tmp_path / "study"
    process = started_side_by_side(out)
    send(process.pid, signum)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signum and "give the same command again" in told, told
    assert "Traceback" not in told and not (out / "results.parquet").exists()
    assert any((path / "checkpoints").is_dir() for path in (out / "runs").iterdir())
    assert_goes_on(out, done)


def test_workers_end_when_their_parent_is_killed(done, tmp_path):
    out = tmp_path / "study"
    process = started_side_by_side(out)
    process.kill()
    process.stdout.read()  # ends when the last process that holds it has ended
    assert_goes_on(out, done)


def test_a_run_that_fails_does_not_stop_the_others(done, tmp_path, capsys):
    out = tmp_path / "study"
    failing = runs(done)["simclr-small-D8-s0"].name
    (out / "runs").mkdir(parents=True)
    (out / "runs" / failing).write_text("a file where the run's folder should be")
    assert command(*WORDS, "--out", out) == 2
    told = said(capsys)
    assert f"failed: cannot write {out}/runs/{failing}" in told and f"Wrote {out}/report.html" in told
    table = pd.read_parquet(out / "results.parquet")
    assert {(row.objective, row.width) for row in table.itertuples()} == PLAN - {("simclr", 8)}
    page = (out / "report.html").read_text()
    assert "failed: cannot write" in page
    (out / "runs" / failing).unlink()
    assert command(*WORDS, "--out", out) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), pd.read_parquet(done / "results.parquet"))


def test_other_settings_never_mix(out, capsys):
    before, table = written(out), pd.read_parquet(out / "results.parquet")
    said(capsys)
    assert command(*WORDS, "--out", out) == 0
    assert "other settings" not in said(capsys)
    assert command(*WORDS, "--objectives", "supervised", "--epochs", "2", "--out", out) == 0
    told = said(capsys)
    assert f"{out} holds tables of other settings: 4 of their 4 runs are not in this plan (epochs: 1 -> 2)" in told
    assert "the runs are kept" in told
    after = written(out)
    assert {file: after[file] for file in before} == before and len(after) == len(before) + 3 * 2
    other = pd.read_parquet(out / "results.parquet")
    assert {(row.objective, row.width) for row in other.itertuples()} == {("supervised", 8), ("supervised", 16)}
    assert not set(other.run) & set(table.run)


def test_seeds_are_runs_of_their_own(out):
    assert command(*WORDS, "--objectives", "simclr", "--widths", "8", "--seeds", "0", "1", "--out", out) == 0
    table = pd.read_parquet(out / "results.parquet")
    assert set(table.seed) == {0, 1} and table.run.nunique() == 2
    first, second = (RunFolder(runs(out)[f"simclr-small-D8-s{seed}"]).read_metrics() for seed in (0, 1))
    assert not same([line["loss"] for line in first], [line["loss"] for line in second])


def test_an_axis_that_a_study_does_not_have_is_named(capsys):
    assert command("study", "fig2", "--objectives", "simclr") == 2
    assert "study 'fig2' has no axis 'objective'." in said(capsys)
    assert command("study", "fig6", "--widths", "64") == 2
    assert "study 'fig6' has no axis 'width'." in said(capsys)


def test_the_list_of_studies(capsys):
    assert command("study", "--list") == 0
    told = said(capsys)
    assert names() and all(name in told for name in names())


def test_a_data_set_keeps_its_name_in_the_table(tmp_path: Path) -> None:
    """A hub set has a field called `name`, empty for local files; the table must hold the set's own short name."""
    images = tmp_path / "pets"
    for split, n in (("train", 24), ("test", 8)):
        for at in range(n):
            file = images / split / ("cat" if at % 2 else "dog") / f"{at}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (10 * at, 100, 0)).save(file)
    run = tiny(data=Hub(path=str(images), size=16), batch=8, epochs=1)
    one = Study("pets", "?", run, {"width": widths(8)}, (Linear(epochs=1),))
    assert carry_out(one, tmp_path / "out", Sitting(), jobs=1) == {}
    table = results(one, tmp_path / "out").numbers
    assert list(table["data"]) == ["pets"] and list(table["role"]) == ["in-distribution"] and list(table["n"]) == [8]


def test_two_data_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    same_name = (Hub(path=str(tmp_path / "a" / "pets")), Hub(path=str(tmp_path / "b" / "pets")))
    with pytest.raises(UserError, match=r"two data sets .* called 'pets'"):
        plan(Study("pets", "?", tiny(), {"width": widths(8)}, (Linear(),), same_name), tmp_path)


def test_a_study_measures_what_is_asked_for(out, capsys):
    words = [*WORDS, "--objectives", "simclr", "--measures", "linear_fast,sparsity", "--set", "linear_fast.epochs=1"]
    assert command(*words, "--out", out) == 0
    table = pd.read_parquet(out / "results.parquet")
    assert set(table.measure) == {"linear_fast(epochs=1)", "sparsity"} and set(table.objective) == {"simclr"}
    assert set(pd.read_parquet(out / "curves.parquet").measure) == {"sparsity"}
    assert (out / "pages/sparsity.html").exists()
    assert command(*words, "--measures", "linaer", "--out", out) == 2
    assert "'linaer'" in said(capsys)


def test_studies_that_share_a_folder_of_runs_train_what_they_have_in_common_once(done, tmp_path):
    shared = tmp_path / "runs"
    shutil.copytree(done / "runs", shared)
    before = {file: file.stat().st_mtime_ns for file in shared.rglob("learner.safetensors")}
    assert len(before) == len(PLAN)
    assert command(*WORDS, "--runs", shared, "--out", tmp_path / "other") == 0
    assert {file: file.stat().st_mtime_ns for file in shared.rglob("learner.safetensors")} == before
    assert not (tmp_path / "other/runs").exists()
    pd.testing.assert_frame_equal(*(pd.read_parquet(each / "results.parquet") for each in (done, tmp_path / "other")))
