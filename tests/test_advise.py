"""`wingspan advise` on planted tables whose answer is known, on a real tiny study, and on what users get wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tiny_runs import command, said

from wingspan.runs import RunFolder

WIDTHS = (8, 16, 32)
SEEDS = (0, 1)
COMMAND = "wingspan study made --scale small --out here"


def planted(values: dict[str, tuple[float, ...]], **more: object) -> pd.DataFrame:
    """Accuracies in points at each width, by data set ('own' is what was trained on); seeds differ by a tenth of a point."""
    about = {"objective": "simclr", "measure": "linear_fast", "metric": "accuracy", "series": "", "task": "label"}
    made = [
        {
            **about, "width": width, "seed": seed, "data": data, "value": (value + 0.1 * seed) / 100, "error": 0.01, "n": 100,
            "role": "in-distribution" if data == "own_set" else "transfer", **more,
        }
        for data, found in values.items()
        for width, value in zip(WIDTHS, found, strict=True)
        for seed in SEEDS
    ]  # fmt: skip
    table = pd.DataFrame(made)
    extra = [name for name in more if name not in about]
    names = table[["objective", *extra, "width", "seed"]].astype(str).agg("-".join, axis=1)
    return table.assign(run=names, fingerprint="f-" + names)


def spectra(rankme: tuple[float, ...], **more: object) -> pd.DataFrame:
    table = planted({"own_set": rankme}, **more)
    return table.assign(measure="spectrum", metric="rankme", series="uncentred", task="", value=table["value"] * 100)


def written(folder: Path, table: pd.DataFrame, statuses: dict[str, str] | None = None) -> Path:
    """A study's folder: the table, and a study.json whose runs are the table's and those named in `statuses`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "results.parquet", index=False)
    keys = table[["run", "fingerprint"]].drop_duplicates().to_dict("records")
    keys += [{"run": name, "fingerprint": f"f-{name}"} for name in statuses or {} if name not in set(table["run"])]
    runs = [{**key, "path": f"runs/{key['run']}", "status": (statuses or {}).get(key["run"], "done")} for key in keys]
    about = {"name": "made", "question": "?", "command": COMMAND, "base": {}, "runs": runs}
    (folder / "study.json").write_text(json.dumps(about))
    return folder


def advice(capsys, *words: object) -> dict:
    assert command("advise", *words, "--json") == 0, said(capsys)
    return json.loads(capsys.readouterr().out)


def widths(found: dict) -> list[int]:
    return [block["advised"] for block in found["blocks"]]


MIXED = {"own_set": (70.0, 60.0, 50.0), "flowers": (30.0, 40.0, 60.0), "digits": (80.0, 80.0, 80.0)}


@pytest.mark.parametrize(
    ("values", "advised"),
    [((50.0, 50.0, 50.0), 8), ((50.0, 60.0, 70.0), 32), ((70.0, 60.0, 50.0), 8), ((50.0, 69.96, 70.0), 16)],
    ids=["flat", "rising", "falling", "level from the middle on"],
)
def test_the_narrowest_that_is_as_good_as_the_best_is_advised(values, advised, tmp_path, capsys):
    """Seeds .1 apart: one standard error is .05."""
    found = advice(capsys, written(tmp_path, planted({"own_set": values})))
    (block,) = found["blocks"]
    assert (block["advised"], block["seeds"], block["unit"]) == (advised, 2, "points")
    assert "(0.05 points, n = 2 seeds)" in block["sentence"] or advised == 8
    assert [each["mean"] for each in block["widths"]] == pytest.approx([value + 0.05 for value in values])
    assert [each["error"] for each in block["widths"]] == pytest.approx([0.05] * 3)
    assert [each["from_best"] for each in block["widths"]] == pytest.approx([value - max(values) for value in values])
    assert [each["vector_bytes"] for each in block["widths"]] == [16, 32, 64]
    assert [each["bit_bytes"] for each in block["widths"]] == [1, 2, 4]
    assert {each["parameters"] for each in block["widths"]} == {None}  # its runs are nowhere


@pytest.mark.parametrize(
    ("words", "advised", "tasks"),
    [
        ((), 32, {"own_set/label", "flowers/label", "digits/label"}),  # means 60, 60, 63.3
        (("--task", "own"), 8, {"own_set/label"}),
        (("--task", "transfer"), 32, {"flowers/label", "digits/label"}),
        (("--task", "own", "digits/label"), 8, {"own_set/label", "digits/label"}),
        (("--task", "flowers"), 32, {"flowers/label"}),
    ],
)
def test_only_the_tasks_that_matter_count(words, advised, tasks, tmp_path, capsys):
    found = advice(capsys, written(tmp_path, planted(MIXED)), *words)
    assert (widths(found), set(found["tasks"])) == ([advised], tasks)
    assert any("plain" in note for note in found["notes"]) == (len(tasks) > 1)


def test_each_objective_and_label_of_a_further_axis_is_advised_on_alone(tmp_path, capsys):
    rising, falling = {"own_set": (50.0, 60.0, 70.0)}, {"own_set": (70.0, 60.0, 50.0)}
    table = pd.concat([
        planted(rising, sampling="uniform"), planted(falling, sampling="long tail"),
        planted(falling, objective="supervised", sampling="uniform"),
    ])  # fmt: skip
    folder = written(tmp_path, table)
    found = advice(capsys, folder)
    told = [(block["objective"], block["axes"]["sampling"], block["advised"]) for block in found["blocks"]]
    assert told == [("supervised", "uniform", 8), ("simclr", "uniform", 32), ("simclr", "long tail", 8)]
    assert widths(advice(capsys, folder, "--objective", "simclr", "--where", "sampling=uniform")) == [32]
    assert advice(capsys, folder, "--where", "sampling=uniform")["blocks"][0]["axes"] == {}


def test_a_label_that_is_empty_is_called_none(tmp_path, capsys):
    table = pd.concat([planted({"own_set": (1.0, 2.0, 3.0)}, projector=text) for text in ("", "32")])
    folder = written(tmp_path, table)
    assert [block["axes"] for block in advice(capsys, folder)["blocks"]] == [{"projector": "none"}, {"projector": "32"}]
    assert widths(advice(capsys, folder, "--where", "projector=none")) == [32]


def test_the_measure_and_series_that_decide_can_be_chosen(tmp_path, capsys):
    table = pd.concat([
        planted({"own_set": (1.0, 2.0, 3.0)}, measure="few", series="1 %"), planted({"own_set": (50.0, 60.0, 70.0)}),
        planted({"own_set": (3.0, 2.0, 1.0)}, measure="few", series="10 %"),
        planted({"own_set": (9.0, 2.0, 1.0)}, measure="knn"), planted({"own_set": (10.0, 90.0, 30.0)}, metric="r2"),
    ])  # fmt: skip
    folder = written(tmp_path, table)
    assert advice(capsys, folder)["measure"] == "linear_fast" and widths(advice(capsys, folder)) == [32]
    assert widths(advice(capsys, folder, "--measure", "knn")) == [8]
    assert widths(advice(capsys, folder, "--measure", "few", "--series", "10 %")) == [8]
    assert widths(advice(capsys, folder, "--metric", "r2")) == [16]
    assert command("advise", folder, "--measure", "few") == 2
    assert "choose one by --series. Known: 1 %, 10 %" in said(capsys)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--task", "flower"), "Did you mean 'flowers'? Known: own, transfer, own_set, flowers, digits, own_set/label"),
        (("--objective", "simcrl"), "Did you mean 'simclr'?"),
        (("--measure", "linear"), "Did you mean 'linear_fast'?"),
        (("--series", "1 %"), "has no series '1 %'"),
        (("--metric", "acuracy"), "Did you mean 'accuracy'?"),
        (("--where", "sampling=uniform"), "no axis 'sampling'. It varies objective, width and seed only."),
        (("--where", "sampling"), "write AXIS=LABEL"),
        (("--scale", "small"), "leave it out"),
    ],
)
def test_a_wrong_name_is_answered_by_what_there_is(words, named, tmp_path, capsys):
    assert command("advise", written(tmp_path, planted(MIXED)), *words) == 2
    assert named in said(capsys)


def test_studies_go_by_name_and_a_missing_one_by_the_command_that_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("advise", "tab4") == 2
    assert "studies/tab4-small/results.parquet does not exist: wingspan study tab4 --scale small makes it" in said(capsys)
    assert command("advise", "tab4", "--scale", "smal") == 2
    assert "Did you mean 'small'?" in said(capsys)
    assert command("advise", "tab44") == 2
    assert "'tab44' is neither a folder nor a study. Did you mean 'tab4'?" in said(capsys)
    written(tmp_path / "studies/tab4-smoke", planted(MIXED))
    assert widths(advice(capsys, "tab4", "--scale", "smoke")) == [32]
    (tmp_path / "studies/tab4-smoke/results.parquet").unlink()
    for study in (("tab4", "--scale", "smoke"), ("studies/tab4-smoke",)):
        assert command("advise", *study) == 2
        assert COMMAND in said(capsys)
    (tmp_path / "empty").mkdir()
    for wrong, named in (("empty", "holds no results.parquet"), ("studies/tab4-smoke/study.json", "is a file")):
        assert command("advise", wrong) == 2
        assert named in said(capsys)


def test_a_study_that_is_not_done_says_what_the_advice_rests_on(tmp_path, capsys):
    table = planted({"own_set": (50.0, 60.0, 70.0)})
    gone = table[table["run"] != "simclr-32-1"]  # seed 1 lacks the width 32
    statuses = {
        "simclr-32-1": "cut short",
        "simclr-64-0": "not run",
        "simclr-64-1": "not run",
        "simclr-16-1": "failed: no room",
    }
    found = advice(capsys, written(tmp_path, gone, statuses))
    assert found["notes"][0] == (
        "4 of 8 runs are not done (1 failed, 1 cut short, 2 not run): the advice rests on the rest; go on with: " + COMMAND
    )
    assert (found["blocks"][0]["seeds"], widths(found)) == (1, [32])
    stale = advice(capsys, written(tmp_path, table, {"simclr-64-0": "done"}))
    assert stale["notes"][0].startswith("1 of 7 runs is not done (1 done but not in the table)")
    assert "not done" not in " ".join(advice(capsys, written(tmp_path, table))["notes"])


def test_one_width_alone_is_no_choice(tmp_path, capsys):
    assert command("advise", written(tmp_path, planted(MIXED)[::6])) == 2  # the first width's first seed of each set
    assert "no second width beside D=8" in said(capsys)


def test_a_table_of_other_settings_is_refused(tmp_path, capsys):
    folder = written(tmp_path, planted(MIXED))
    other = planted(MIXED).assign(fingerprint="another")
    other.to_parquet(folder / "results.parquet", index=False)
    assert command("advise", folder) == 2
    told = said(capsys)
    assert "are of different settings" in told and f"Draw the table again: {COMMAND}" in told


def test_a_damaged_or_foreign_table_is_refused(tmp_path, capsys):
    folder = written(tmp_path, planted(MIXED))
    whole = (folder / "results.parquet").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:3], b""):
        (folder / "results.parquet").write_bytes(damaged)
        assert command("advise", folder) == 2
        assert "results.parquet cannot be read as a table" in said(capsys)
    pd.DataFrame({"price": [1.0]}).to_parquet(folder / "results.parquet")
    assert command("advise", folder) == 2
    assert "has no column run, fingerprint, objective" in said(capsys)
    planted(MIXED).assign(width="wide").to_parquet(folder / "results.parquet")
    assert command("advise", folder) == 2
    assert "is no table of wingspan study or measure" in said(capsys)
    (folder / "results.parquet").write_bytes(whole)
    for damaged in ("[]", '{"runs": [1]}', "{"):
        (folder / "study.json").write_text(damaged)
        assert command("advise", folder) == 2
        assert "study.json is damaged" in said(capsys)


def test_an_older_table_without_standard_errors_gets_those_of_accuracies(tmp_path, capsys):
    """n = 100 and 50 %: 5 points; and without study.json costs are what follows from D."""
    table = planted({"own_set": (46.0, 48.0, 50.0)})
    table = table[table["seed"] == 0].drop(columns=["error", "series"])
    folder = written(tmp_path, table)
    (folder / "study.json").unlink()
    found = advice(capsys, folder)
    assert widths(found) == [8] and found["blocks"][0]["widths"][2]["error"] == pytest.approx(5.0)
    assert "no study.json" in found["notes"][0] and "3 of 3 runs are in neither" in found["notes"][1]
    assert any(note.startswith("One seed") for note in found["notes"])


def test_without_labels_the_spectrum_advises_and_is_held_against_the_labels(tmp_path, capsys):
    table = pd.concat([planted(MIXED), spectra((4.0, 9.0, 5.0))])
    folder = written(tmp_path, table)
    (block,) = advice(capsys, folder, "--task", "own")["blocks"]
    proxies = {each["rule"]: each for each in block["proxies"]}
    assert block["advised"] == 8 and proxies["RankMe"]["advised"] == 16
    tracking = proxies["RankMe"]["tracking"]
    assert tracking["regret"] == pytest.approx(10.0) and not tracking["same"] and tracking["runs"] == 6
    assert (proxies["D itself"]["advised"], proxies["D itself"]["tracking"]["regret"]) == (32, pytest.approx(20.0))
    assert proxies["alpha"]["advised"] is None and "alpha" in proxies["alpha"]["missing"]
    assert command("advise", folder, "--task", "own") == 0
    told = said(capsys)
    assert "RankMe, higher is better" in told and "8: 4.05, 16: 9.05" in told and "cannot fall below 0.17" in told
    assert "the measure sparsity, which this table lacks" in told


def test_where_there_are_no_labels_nothing_is_said_of_tracking(tmp_path, capsys):
    """No accuracy at all, and none on the one set that matters."""
    folder = written(tmp_path, spectra((4.0, 9.0, 5.0)))
    found = advice(capsys, folder)
    (block,) = found["blocks"]
    assert (block["advised"], found["tasks"], found["measure"]) == (None, [], "")
    assert block["proxies"][0]["advised"] == 16 and block["proxies"][0]["tracking"] is None
    assert any("nothing here tells how well this advice tracks" in note for note in found["notes"])
    assert command("advise", folder) == 0 and "simclr: no labels" in said(capsys)
    bare = spectra((4.0, 9.0, 5.0)).assign(data="bare", role="transfer")
    folder = written(tmp_path, pd.concat([planted({"own_set": (1.0, 2.0, 3.0)}), spectra((4.0, 9.0, 5.0)), bare]))
    assert widths(advice(capsys, folder, "--task", "bare")) == [None]
    assert command("advise", folder, "--task", "bare", "own") == 2
    assert "--task bare: no labels were measured there" in said(capsys)


def test_what_adds_the_measures_without_labels_is_told(tmp_path, capsys):
    folder = written(tmp_path, planted(MIXED))
    notes = advice(capsys, folder)["notes"]
    assert notes[-1].endswith(f"which this table lacks: {COMMAND} --measures linear_fast,spectrum,sparsity")
    text = (folder / "study.json").read_text()
    (folder / "study.json").write_text(text.replace(COMMAND, "wingspan study made --measures few knn --seeds 0"))
    told = advice(capsys, folder)["notes"][-1]
    assert told.endswith(": wingspan study made --seeds 0 --measures few,knn,spectrum,sparsity")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A real study of two runs."""
    out = tmp_path_factory.mktemp("advise") / "study"
    words = ("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16")
    words += ("--epochs", "1", "--batch", "32", "--precision", "fp32", "--seeds", "0", "--jobs", "1", "--objectives", "simclr")
    assert command(*words, "--widths", "16", "32", "--measures", "linear_fast,spectrum,sparsity", "--out", out) == 0
    return out


def test_a_real_study_is_advised_on_with_what_its_runs_cost(study, tmp_path, capsys):
    found = advice(capsys, study, "--task", "scenes/shape")
    (block,) = found["blocks"]
    assert found["tasks"] == ["scenes/shape"] and block["advised"] in (16, 32)
    for each in block["widths"]:
        (run,) = [RunFolder(path) for path in (study / "runs").iterdir() if f"-D{each['width']}-" in path.name]
        facts = json.loads(run.finished.read_text())
        assert each["parameters"] == facts["backbone_parameters"] and each["training_bytes"] > 4 * each["parameters"]
        assert each["step_seconds"] == pytest.approx(facts["seconds"] / facts["steps"])
    assert {proxy["rule"] for proxy in block["proxies"]} == {"RankMe", "alpha", "zeros per image", "D itself"}
    advised = {proxy["rule"]: proxy["advised"] for proxy in block["proxies"]}
    assert {advised["RankMe"], advised["zeros per image"]} <= {16, 32} and advised["D itself"] == 32
    assert not any("not done" in note for note in found["notes"])
    moved = Path(shutil.copytree(study, tmp_path / "moved"))
    (moved / "study.json").unlink()
    alone = advice(capsys, moved, "--task", "scenes/shape")
    assert alone["blocks"] == found["blocks"]  # the runs below it are found by name and fingerprint
    shutil.move(moved / "runs", tmp_path / "runs")  # as of studies that share their runs
    assert advice(capsys, moved, "--task", "scenes/shape")["blocks"] == found["blocks"]
    assert command("advise", study) == 0
    assert "advised" in said(capsys)
