"""Numbers against closed forms; the page parsed as a browser would."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wingspan import canvas, tables
from wingspan.errors import UserError
from wingspan.findings import compare, findings, missing
from wingspan.report import Page, Ruling, write
from wingspan.tables import averages, changes, number, summary

TASKS = {"shape": "in-distribution", "colour": "transfer", "size": "transfer"}


def results(values: dict[tuple[str, int, int, str], float], **more: object) -> pd.DataFrame:
    """A table from (objective, width, seed, task) -> value; 400 test images, four classes, chance 0.25."""
    same = {"measure": "linear", "metric": "accuracy", "data": "scenes", "classes": 4, "n": 400, "chance": 0.25}
    rows = []
    for (objective, width, seed, task), value in values.items():
        row = {"run": f"{objective}-{width}-{seed}", "objective": objective, "width": width, "seed": seed, "task": task}
        rows.append({**row, "role": TASKS.get(task, "transfer"), "value": value, **same, **more})
    return pd.DataFrame(rows)


def grid(objectives: tuple[str, ...] = ("simclr", "supervised"), seeds: int = 2) -> pd.DataFrame:
    cells = itertools.product(objectives, (32, 128), range(seeds), TASKS)
    return results({key: 0.4 + 0.1 * (key[1] == 128) + 0.01 * key[2] * (key[1] == 128) for key in cells})


def planned(table: pd.DataFrame, **status: str) -> pd.DataFrame:
    runs = table.drop_duplicates("run")[["run", "objective", "width", "seed"]]
    return runs.assign(steps=100, final_loss=1.5, status="done", fingerprint="abc").reset_index(drop=True).assign(**status)


def page(table: pd.DataFrame, runs: pd.DataFrame | None = None, **more: object) -> Page:
    given = {
        "title": "Widths",
        "question": "How wide?",
        "notes": ("a note",),
        "table": table,
        "runs": planned(table) if runs is None else runs,
        "settings": {"data": {"name": "scenes"}},
        "command": "wingspan study scenes",
        "provenance": {"wingspan": "0.1.0"},
        "pictures": {},
    }
    return Page(**{**given, **more})  # type: ignore[arg-type]


class Reader(HTMLParser):
    """Which elements and attributes the page really has, and its text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text.append(data)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (100, 1.98397)]
)
def test_t_quantile_is_the_published_one(degrees: int, quantile: float) -> None:
    assert tables.t95(degrees) == pytest.approx(quantile, rel=2e-6)


def test_summary_is_mean_and_std_over_seeds_in_the_fixed_order() -> None:
    values = {("simclr", 32, seed, "colour"): value for seed, value in enumerate((0.2, 0.3, 0.7))}
    cells = summary(results({**values, ("zeta", 32, 0, "colour"): 0.5, ("supervised", 32, 0, "colour"): 0.6}))
    assert cells["objective"].tolist() == ["supervised", "simclr", "zeta"]
    one = cells[cells["objective"] == "simclr"].iloc[0]
    assert (one["mean"], one["std"], one["seeds"]) == (pytest.approx(0.4), pytest.approx(math.sqrt(0.07)), 3)
    assert one["half"] == pytest.approx(4.30265 * math.sqrt(0.07 / 3), rel=1e-5)
    assert math.isnan(cells.iloc[0]["std"])
    assert math.isnan(cells.iloc[0]["half"])


def test_paired_interval_decides_the_word() -> None:
    seeds = {0: (0.40, 0.50), 1: (0.60, 0.72)}  # far apart, but both gain: paired +10 and +12, mean 11, half 12.7062
    table = results({("simclr", (32, 1024)[i], s, "colour"): pair[i] for s, pair in seeds.items() for i in (0, 1)})
    assert findings(table) == [
        "simclr: colour 50.0 -> 61.0 % from D=32 to D=1024 (+11.0 points, 2 seeds, 95 % interval -1.7..+23.7): undecided"
    ]
    closer = table.assign(value=[0.40, 0.50, 0.60, 0.71])  # +10 and +11: mean 10.5, half 12.7062 / 2
    assert findings(closer)[0].endswith("(+10.5 points, 2 seeds, 95 % interval +4.1..+16.9): rises")
    assert findings(closer.assign(value=-closer["value"]))[0].endswith("95 % interval -16.9..-4.1): falls")


def test_one_seed_is_undecided_and_its_error_is_called_the_test_sets() -> None:
    table = results({("simclr", 32, 0, "colour"): 0.2, ("simclr", 64, 0, "colour"): 0.5})
    error = 100 * math.sqrt((0.2 * 0.8 + 0.5 * 0.5) / 400)
    assert findings(table) == [
        "simclr: colour 20.0 -> 50.0 % from D=32 to D=64 (+30.0 points, one seed: no interval; "
        f"standard error {error:.1f} points, test-set error only): undecided"
    ]


def test_one_seed_takes_the_error_that_the_measure_gives_over_the_binomial_one() -> None:
    table = results({("simclr", 32, 0, "colour"): 0.2, ("simclr", 64, 0, "colour"): 0.5}, error=0.03)
    error = 100 * math.sqrt(2) * 0.03
    assert f"; standard error {error:.1f} points, of the two measurements only): undecided" in findings(table)[0]
    ranks = table.assign(metric="rank", value=[10.0, 25.0], error=[3.0, 4.0], task="")
    assert "scenes 10.0 -> 25.0 from D=32 to D=64 (+15.0, one seed: no interval; standard error 5.00," in findings(ranks)[0]
    assert "standard error" not in findings(ranks.assign(error=[3.0, math.nan]))[0]


def test_a_difference_of_accuracies_is_told_in_points_and_has_no_mean_over_tasks() -> None:
    table = grid(("simclr",)).assign(metric="accuracy gap")
    said = findings(table)
    assert said[0].startswith("simclr: shape 40.0 -> 50.5 points from")
    assert len(said) == len(TASKS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.0505, "-0.0505"), (12.34, "12.3"), (345.6, "346"), (12345.0, "12,345"), (2e-7, "2.00e-07")],
)
def test_plain_numbers_show_three_digits(value: float, text: str) -> None:
    assert number(value) == text
    assert number(0.12345, 100, "+") == "+12.3"
    assert (number(0.0), number(math.nan)) == ("0.00", "–")


def test_only_seeds_at_both_widths_count() -> None:
    table = results({("simclr", 32, 0, "colour"): 0.2, ("simclr", 64, 1, "colour"): 0.5})
    assert findings(table) == ["simclr: colour: no seed was measured at both D=32 and D=64: undecided"]
    assert findings(table[:1]) == ["simclr: only D=32 measured, no widths to compare: undecided"]
    assert findings(table[:0]) == []


def test_means_over_tasks_and_the_gap_come_first() -> None:
    values = {"shape": (0.8, 0.81), "colour": (0.3, 0.4), "size": (0.5, 0.52)}
    made = {("byol", w, s, t): v[i] for s in (0, 1) for t, v in values.items() for i, w in enumerate((32, 64))}
    said = compare(results(made))
    assert [each.text.split(" from")[0] for each in said] == [
        "shape 80.0 -> 81.0 %",
        "mean of 2 transfer tasks 40.0 -> 46.0 %",
        "transfer minus in-distribution -40.0 -> -35.0 points",
        "colour 30.0 -> 40.0 %",
        "size 50.0 -> 52.0 %",
    ]
    assert [each.headline for each in said] == [True, True, True, False, False]
    moved = changes(results(made)).set_index(["role", "width", "seed"])["value"]
    assert moved["transfer", 64, 0] == pytest.approx(0.06)
    assert moved["in-distribution", 64, 1] == pytest.approx(0.01)
    assert (moved.xs(32, level="width") == 0).all()


def test_a_run_without_one_task_gives_no_mean_over_tasks() -> None:
    table = grid(("simclr",))
    table.loc[(table["run"] == "simclr-128-1") & (table["task"] == "size"), "value"] = np.nan
    means = averages(table)
    assert means[means["role"] == "transfer"][["width", "seed"]].to_numpy().tolist() == [[32, 0], [32, 1], [128, 0]]


def test_a_varying_axis_splits_the_lines_instead_of_posing_as_seeds() -> None:
    both = pd.concat([grid(("simclr",)).assign(projector="32", note="x"), grid(("simclr",)).assign(projector="", note="x")])
    cells = summary(both)
    assert set(cells["line"]) == {"simclr, projector 32", "simclr, projector none"}
    assert set(cells["seeds"]) == {2}


def test_an_objective_keeps_its_style_whatever_else_is_there() -> None:
    alone = canvas.styles({"byol": "byol"})["byol"]
    among = canvas.styles({"a": "supervised", "b": "byol", "c": "byol"})
    assert among["b"] == alone
    assert (among["c"].colour, among["c"].marker) == (alone.colour, alone.marker)
    assert among["c"].dash != alone.dash


def test_page_is_self_contained_and_its_pngs_are_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "sample.png")
    before = dict(matplotlib.rcParams)
    path = write(page(grid(), pictures={"a sample": tmp_path / "sample.png"}), tmp_path / "out")
    assert dict(matplotlib.rcParams) == before
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    seen = Reader(text)
    sources = [value for _, attrs in seen.tags for name, value in attrs.items() if name == "src"]
    assert all(value is not None and value.startswith("data:") for value in sources)
    links = {attrs["href"] for tag, attrs in seen.tags if tag == "a"}
    assert links == {"linear-accuracy.png", "linear-accuracy-change.png"}
    assert not (path.parent / "pages").exists(), "one measure needs no further page"
    assert sum(tag == "svg" for tag, _ in seen.tags) == 3 + 2 + 2 * 2  # tasks, changes, two legends of two lines
    for file in ("linear-accuracy.png", "linear-accuracy-change.png"):
        with Image.open(path.parent / file) as picture:
            assert picture.format == "PNG"
            assert picture.getpixel((0, 0))[:3] == (255, 255, 255)
    for said in compare(grid()):
        assert said.text in text.replace("&gt;", ">")


def test_names_cannot_inject(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> $\\frac{"
    table = grid(("simclr",)).replace({"colour": evil, "simclr-32-0": evil})
    table["objective"] = evil
    given = page(table, title=evil, question=evil, notes=(evil,), settings={evil: evil}, command=evil, provenance={evil: evil})
    tags = [tag for tag, _ in Reader(write(given, tmp_path).read_text(encoding="utf-8")).tags]
    assert tags.count("script") == 1
    assert "img" not in tags


def test_missing_numbers_are_dashes_and_listed(tmp_path: Path) -> None:
    table = grid()
    runs = planned(table)
    lost = runs["run"].str.startswith("simclr-128")
    runs.loc[lost, "status"], runs.loc[lost, "final_loss"] = "failed", np.nan
    table = table[~table["run"].isin(runs.loc[lost, "run"])].reset_index(drop=True)
    table.loc[(table["run"] == "supervised-32-1") & (table["task"] == "size"), "value"] = np.nan
    assert missing(table, runs) == [
        "simclr-128-0 (failed): no number for any task",
        "simclr-128-1 (failed): no number for any task",
        "supervised-32-1 (done): no number for size",
    ]
    text = write(page(table, runs), tmp_path).read_text(encoding="utf-8")
    row = re.search(r'<tr><td class="text" data-value="simclr">simclr</td><td data-value="128">.*', text)
    assert row is not None
    assert row[0].count(">–<") == len(TASKS)
    assert "40.0 (n = 1)" in text
    assert '<span class="warn">2 failed</span>' in text


def test_best_width_is_bold(tmp_path: Path) -> None:
    text = write(page(grid(("simclr",))), tmp_path).read_text(encoding="utf-8")
    assert re.findall(r"<td data-value=\"[\d.]+\"><b>(.*?)</b>", text) == ["50.5 ± 0.7"] * len(TASKS)


def test_measures_that_are_no_accuracy_are_not_per_cent(tmp_path: Path) -> None:
    sparse = grid(("simclr",)).assign(measure="sparsity", metric="share", chance=math.nan, classes=math.nan, n=math.nan)
    both = pd.concat([grid(("simclr",)), sparse])
    said = "\n".join(findings(both))
    assert "simclr, sparsity share: shape 0.400 -> 0.505 from D=32 to D=128 (+0.105, 2 seeds" in said
    assert "sparsity share: mean of" not in said, "no mean over tasks of what is no accuracy"
    write(page(both), tmp_path)
    names = {each.name for each in (tmp_path / "pages").glob("*.png")}
    assert names == {"linear-accuracy.png", "linear-accuracy-change.png", "sparsity-share.png"}


def test_one_width_and_one_seed_still_make_a_page(tmp_path: Path) -> None:
    table = grid(("simclr",), seeds=1)
    write(page(table[table["width"] == 32]), tmp_path)
    assert [each.name for each in tmp_path.glob("*.png")] == ["linear-accuracy.png"]


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    table = grid(("simclr",))
    for nothing in (table[:0], table.assign(value=np.nan)):
        with pytest.raises(UserError, match=r"No result was measured \(runs: 4 failed\)"):
            write(page(nothing, planned(table, status="failed")), tmp_path)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no picture"):
        write(page(grid(("simclr",)), pictures={"x": tmp_path / "nowhere.png"}), tmp_path)


def test_claims_head_the_page_with_their_verdicts(tmp_path: Path) -> None:
    rulings = (
        Ruling("accuracy <rises> with D", "Figure 2", "holds", "slope +1.5 points a doubling, 95 % interval 0.5..2.5, 3 seeds"),
        Ruling("the gap closes", "Figure 8", "undecided", "one seed", "By -2.5 points"),
        Ruling("codes collide", "Appendix C", "not measured", "no number"),
    )
    text = write(replace(page(grid()), rulings=rulings), tmp_path).read_text()
    assert "accuracy &lt;rises&gt; with D" in text and "0.5..2.5, 3 seeds" in text
    assert text.index("Claims</h2>") < text.index("What the numbers say")
    assert '<span class="word holds">holds</span>' in text and '<span class="word not-measured">not measured</span>' in text
    assert "<b>1</b> holds <b>1</b> undecided <b>1</b> not measured, of 3." in text
    assert text.count("<dt>paper</dt>") == 3 and text.count("no number in its text") == 2
    assert "By -2.5 points (one run a number)" in text
    alone = write(replace(page(grid()), rulings=rulings[:1]), tmp_path).read_text()
    assert "<dt>paper</dt>" not in alone, "a study whose figure prints no number says nothing of it"
    assert "Claims</h2>" not in write(page(grid()), tmp_path).read_text()
