"""Runs that are drawn together: once, by company, with nothing compared between companies."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from made_drawings import drawing as made_up
from tiny_runs import command, said, tiny

from wingspan import spec, study, together, workbench
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.experiments import fig5
from wingspan.measures.retention import Retention
from wingspan.measures.sparsity import Sparsity
from wingspan.pretrain import Sitting
from wingspan.rcdm import denoiser
from wingspan.runs import RunFolder, read_json
from wingspan.stopping import Interrupted
from wingspan.study import Study, widths
from wingspan.verbs.study import _adapted, _Options

WORDS = [
    *("study", "fig5", "--scale", "smoke", "--data.train", "48", "--data.test", "24", "--epochs", "1", "--precision", "fp32"),
    *("--objectives", "simclr", "--jobs", "1", "--device", "cpu"),
]
SMOKE = Retention("samples", "smoke")


class Drawn(list):
    """Stands for the diffusion model: notes who was drawn together, and makes numbers up, another at every turn."""

    def __call__(self, subject, encoders, pictures, rung, settings, folder, seed, runtime, preset, **more):
        self.append(sorted(encoder.name for encoder in encoders if not encoder.reference))
        self.shown = pictures.names
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "turn").write_text(str(len(self)))
        return made_up(encoders, rung, samples=2, data=subject.name)


@pytest.fixture
def drawn(monkeypatch) -> Drawn:
    found = Drawn()
    monkeypatch.setattr(together.drawing, "draw", found)
    return found


def results(out: Path) -> dict[str, dict]:
    return {file.parts[-3]: read_json(file) for file in sorted(out.rglob("results/retention-*.json"))}


def at(out: Path, *D: int, words: tuple[str, ...] = ()) -> int:
    return command(*WORDS, "--widths", *D, "--out", out, *words)


def test_a_study_draws_its_runs_together_and_not_twice(drawn, tmp_path, capsys):
    assert at(tmp_path, 8, 16) == 0
    assert drawn == [["simclr D=16", "simclr D=8"]]
    found = results(tmp_path)
    assert len(found) == 2 and len({result["company"]["key"] for result in found.values()}) == 1
    with_whom = ["simclr D=8", "simclr D=16", "untrained", "no information"]
    assert all(sorted(result["company"]["with"]) == sorted(with_whom) for result in found.values())
    table = pd.read_parquet(tmp_path / "results.parquet")
    tau = table[(table.metric == "tau") & (table.series == "pixels")]
    assert list(tau.width) == [8, 16] and set(tau.role) == {"in-distribution"}, "references are no runs"
    page = (tmp_path / "report.html").read_text()
    (folder,) = (tmp_path / "drawn").iterdir()
    assert f'<a href="drawn/{folder.name}/report.html">' in page and "pictures made from h" in page
    assert {file.name for file in folder.iterdir()} >= {"grid.png", "curve.png", "report.html", "retention.csv"}
    assert set(read_json(tmp_path / "study.json")["runs"][0].items()) >= {("status", "done")}
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("results/*")}
    assert at(tmp_path, 8, 16) == 0
    assert len(drawn) == 1 and {file: file.stat().st_mtime_ns for file in before} == before
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)
    assert "pictures made from h" in (tmp_path / "report.html").read_text(), "the page shows what was drawn before"
    shutil.rmtree(folder)
    assert at(tmp_path, 8, 16) == 0 and len(drawn) == 2, "the pictures are gone, and are made again"


def test_another_company_is_drawn_anew_and_never_mixed(drawn, tmp_path, capsys):
    assert at(tmp_path, 8, 16) == 0
    (first,) = {result["company"]["key"] for result in results(tmp_path).values()}
    capsys.readouterr()
    assert at(tmp_path, 8, 16, 24, words=("--dry-run",)) == 0
    told = said(capsys)
    assert told.count("not measured") == 0 and told.count("not run") == 1, "the company changes once the third is trained"
    assert at(tmp_path, 8, 16, 24) == 0
    assert drawn[1:] == [["simclr D=16", "simclr D=24", "simclr D=8"]]
    (second,) = {result["company"]["key"] for result in results(tmp_path).values()}
    assert second != first and len(results(tmp_path)) == 3
    assert sorted(folder.name for folder in (tmp_path / "drawn").iterdir()) == sorted(
        f"scenes-{key}" for key in (first, second)
    )
    capsys.readouterr()
    assert at(tmp_path, 8, 16, words=("--dry-run",)) == 0
    assert said(capsys).count("not measured") == 2, "what they have now is of the larger company"
    assert at(tmp_path, 8, 16) == 0
    assert drawn[2:] == [["simclr D=16", "simclr D=8"]]
    assert (tmp_path / f"drawn/scenes-{first}/turn").read_text() == "3", "in the folder that it had before"


def test_a_result_of_another_company_is_not_in_the_table(drawn, tmp_path):
    """What is left of another company when the new one could not be drawn."""
    tiny_study = Study("few", "?", tiny(), {"width": widths(8, 16)}, (SMOKE, Sparsity()))
    workbench.work(tiny_study, tmp_path, Sitting(device="cpu"), 1, "made")
    wider = Study("few", "?", tiny(), {"width": widths(8, 16, 24)}, (SMOKE, Sparsity()))
    study.carry_out(wider, tmp_path, Sitting(device="cpu"), 1)
    table = study.results(wider, tmp_path).numbers
    assert set(table.measure) == {"sparsity"} and set(table.width) == {8, 16, 24}
    assert set(study.run_table(wider, tmp_path, {})["status"]) == {"not measured"}
    assert "retention_smoke" in set(study.results(tiny_study, tmp_path).numbers.measure)


def test_parts_leave_the_drawing_to_the_whole_command(drawn, tmp_path):
    for part in ("1/2", "2/2"):
        assert at(tmp_path, 8, 16, words=("--part", part)) == 0
        assert not drawn and not results(tmp_path)
    assert at(tmp_path, 8, 16) == 0 and len(drawn) == 1 and len(results(tmp_path)) == 2


def test_stopped_while_drawing_it_goes_on(drawn, tmp_path, monkeypatch, capsys):
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("Stopped, saved.", signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(together.drawing, "draw", stopped)
        assert at(tmp_path, 8, 16) == 128 + signal.SIGINT
    assert "Stopped, saved." in said(capsys) and not results(tmp_path)
    assert [run["status"] for run in read_json(tmp_path / "study.json")["runs"]] == ["not measured"] * 2
    trained = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("learner.safetensors")}
    assert at(tmp_path, 8, 16) == 0 and len(results(tmp_path)) == 2
    assert {file: file.stat().st_mtime_ns for file in trained} == trained


def test_a_run_that_failed_is_left_out_and_joins_later(drawn, tmp_path, monkeypatch, capsys):
    train = study.pretrain

    def picky(run, *rest, **more):
        if run.backbone.D == 16:
            raise UserError("no room for this one")
        return train(run, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(study, "pretrain", picky)
        assert at(tmp_path, 8, 16, 24) == 2
    assert drawn == [["simclr D=24", "simclr D=8"]] and "no room for this one" in said(capsys)
    assert at(tmp_path, 8, 16, 24) == 0
    assert drawn[1:] == [["simclr D=16", "simclr D=24", "simclr D=8"]]


@pytest.mark.parametrize(("error", "told"), [(UserError("too narrow"), "too narrow"), (MemoryError("full"), "error.txt")])
def test_a_company_that_fails_spoils_nothing_else(error, told, tmp_path, monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(together.drawing, "draw", fails)
    assert at(tmp_path, 8, words=("--measures", "retention_smoke", "sparsity")) == 2
    assert told in said(capsys)
    assert set(pd.read_parquet(tmp_path / "results.parquet").measure) == {"sparsity"}
    (run,) = read_json(tmp_path / "study.json")["runs"]
    assert run["status"].startswith("failed: retention_smoke on scenes")


def test_every_data_set_has_a_company_and_is_shown_the_others(drawn, tmp_path):
    images = {"own": {}, "others": {"data": Scenes(train=48, test=24, size=16, seed=1)}}
    two = Study("two", "?", tiny(), {"images": images, "width": widths(8, 16)}, (SMOKE,))
    workbench.work(two, tmp_path, Sitting(device="cpu"), 1, "made")
    assert drawn == [["simclr D=16", "simclr D=8"]] * 2
    assert len({folder.name for folder in (tmp_path / "drawn").iterdir()}) == 2
    names = drawn.shown  # of the second company
    assert len(names) == 6 and sum(name.startswith("scenes test:") for name in names) == 2
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert table[(table.metric == "tau") & (table.series == "pixels")].groupby("images")["width"].apply(list).to_dict() == {
        "own": [8, 16],
        "others": [8, 16],
    }


def test_measure_draws_the_runs_it_is_given(drawn, finished, tmp_path, capsys):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    workbench_runs = Study("few", "?", tiny(), {"width": widths(8, 16, 24)}, (Sparsity(),))
    assert not study.carry_out(workbench_runs, tmp_path / "s", Sitting(device="cpu"), 1)
    for path, cell in zip(paths, study.plan(workbench_runs, tmp_path / "s"), strict=True):
        shutil.copytree(cell.folder.path, path)
    words = ("--measures", "retention_smoke", "--device", "cpu", "--out", tmp_path / "out")
    assert command("measure", *paths[:2], *words) == 0
    assert drawn == [["simclr D=16", "simclr D=8"]]
    assert "tau, pixels" in said(capsys)
    assert command("measure", *paths[:2], *words) == 0 and len(drawn) == 1
    assert command("measure", *paths[:2], *words, "--again") == 0 and len(drawn) == 2
    assert command("measure", paths[2], *words) == 0 and drawn[2:] == [["simclr D=24"]]
    capsys.readouterr()
    assert command("measure", *paths, "--measures", "sparsity", "--out", tmp_path / "all", "--jobs", "1") == 0
    assert "another company of runs was drawn" in said(capsys)
    table = pd.read_parquet(tmp_path / "all/results.parquet")
    assert {name: set(rows.width) for name, rows in table.groupby("measure")} == {
        "retention_smoke": {8, 16},
        "sparsity": {8, 16, 24},
    }


def test_a_run_trained_anew_is_another_member(finished, tmp_path):
    run = RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))
    (party,) = together.parties([(run, [(tiny().data, SMOKE), (tiny().data, Retention())])])
    (other,) = together.parties([(run, [(tiny().data, Retention("decoder", "smoke"))])])
    assert party.key != other.key and (party.measure, other.measure.rung) == (SMOKE, "decoder"), "ridge asks for no company"
    weights = run.checkpoints()[-1] / "learner.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    stamp = run.checkpoints()[-1].stat().st_mtime_ns + 10**9
    os.utime(run.checkpoints()[-1], ns=(stamp, stamp))
    assert together.parties([(run, [(tiny().data, SMOKE)])])[0].key != party.key
    assert together.parties([(RunFolder(tmp_path / "nothing"), [(tiny().data, SMOKE)])]) == []
    run.spec.write_text("{")
    os.utime(run.checkpoints()[-1], ns=(stamp + 1, stamp + 1))
    assert together.parties([(run, [(tiny().data, SMOKE)])]) == [], "whoever measures it says what is wrong"


def test_what_cannot_be_drawn_is_refused_before_training(tmp_path, monkeypatch, capsys):
    def lacking() -> None:
        raise UserError("pip install 'wingspan[rcdm]'")

    assert at(tmp_path / "small", 8, words=("--data.size", "12")) == 2
    assert "12 pixels" in said(capsys) and not (tmp_path / "small").exists()
    monkeypatch.setattr(denoiser, "require", lacking)
    assert at(tmp_path / "study", 8) == 2
    assert "wingspan[rcdm]" in said(capsys) and not (tmp_path / "study").exists()
    assert command("measure", tmp_path, "--measures", "retention_samples") == 2


def test_a_users_images_take_the_place_of_the_studys_own_and_leave_the_scenes(tmp_path):
    small = fig5.study("small")
    given = spec.override(small.base, {"data.path": "pets", "data.name": ""})
    cells = study.plan(_adapted(small, _Options(given)), tmp_path)
    assert {(cell.place["images"], getattr(cell.run.data, "path", "")) for cell in cells} == {("own", "pets"), ("scenes", "")}
    every = Study("every", "?", small.base, {"images": {"scenes": {"data": "scenes"}}}, (SMOKE,))
    with pytest.raises(UserError, match="sets data itself on its axis 'images'"):
        _adapted(every, _Options(given))
    part = Study("part", "?", small.base, {"images": {"own": {}, "other": {"data.path": "x"}}}, (SMOKE,))
    with pytest.raises(UserError, match=r"sets data\.path itself"):
        _adapted(part, _Options(given))


def test_figure_5_asks_what_the_paper_reads_off_it():
    for scale in fig5.SCALES:
        claims = fig5.study(scale).claims
        assert {claim.where["metric"] for claim in claims} == {"tau"}
        assert {claim.where["series"] for claim in claims} == {"pixels", "flip asymmetry", "colour", "layout"}
