"""The pages of measures: parsed as a browser would, and what is drawn read back from the axes."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_pages import Reader, axes_of, curve_rows, page, panels, rows
from PIL import Image

from wingspan import canvas, layout, spec
from wingspan.findings import headlines, leading, missing, result
from wingspan.measures.base import Measure
from wingspan.measures.linear import Linear
from wingspan.report import write
from wingspan.tables import tidy

MIXED = pd.concat(
    [rows("mlp", series=("linear", "mlp")), rows("linear"), rows("spectrum", "effective_rank", tasks=("",), value=20.0)],
    ignore_index=True,
)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The front page of four measures, one of them drawn and not numbered."""
    kind = type("Other", (Linear,), {"title": "what it is", "source": "Figure 8", "reading": "Lower is worse."})
    kind.__module__ = Linear.__module__
    given = {"measures": {"mlp": kind(epochs=7), "gone": Linear()}, "measured_notes": {"mlp": ["seen once", "seen once"]}}
    return write(page(MIXED, curve_rows(), **given), tmp_path_factory.mktemp("study"))


def test_every_link_between_the_pages_resolves_and_every_picture_is_one(front: Path) -> None:
    pages = sorted((front.parent / "pages").glob("*.html"))
    assert [each.stem for each in pages] == ["linear", "mlp", "sparsity", "spectrum"]
    for each in (front, *pages):
        seen = Reader(each)
        assert seen.links() and seen.count("h1") == 1
        for link in seen.links():
            target = each.parent / link
            assert target.is_file(), link
            if target.suffix == ".png":
                with Image.open(target) as picture:
                    assert picture.size[0] > 300
        assert not re.search(r"https?:|@import|url\((?!#)", each.read_text(encoding="utf-8")), "whole in one file"
    assert Reader(front).links() == [f"pages/{name}.html" for name in ("mlp", "linear", "spectrum", "sparsity")]
    around = set(Reader(front.parent / "pages" / "linear.html").links())
    assert around >= {"../report.html", "mlp.html", "spectrum.html"} and "sparsity.html" not in around
    text = " ".join(Reader(front).text["li"])
    assert "gone: no number" in text, "a measure that found nothing is named"


def test_the_front_page_says_the_linear_probe_first_and_one_line_for_each_measure(front: Path) -> None:
    assert leading(MIXED) == "linear"
    assert leading(MIXED[MIXED["measure"] != "linear"]) == "mlp"
    assert leading(MIXED[MIXED["measure"] == "spectrum"]) == ""
    assert [str(each) for each in headlines(MIXED)] == [
        "simclr: shape 30.0 -> 30.1 % from D=32 to D=128 (+0.1 points, one seed: no interval; "
        "standard error 2.8 points, of the two measurements only): undecided"
    ]
    seen = Reader(front)
    assert sum("standard error" in text for text in seen.text["li"]) == 1
    lines = [text for text in seen.text["p"] if "from D=32 to D=128" in text]
    assert lines == [
        "accuracy on shape from D=32 to D=128: linear 30.0 → 30.2 %, mlp 30.1 → 30.3 %",
        "accuracy on shape from D=32 to D=128: 30.0 → 30.1 %",
        "effective rank on scenes from D=32 to D=128: 20.0 → 20.0",
    ]
    assert result(rows(widths=(64,))) == "accuracy on shape at D=64: 30.0 %"
    assert result(rows(objectives=tuple("abcdef"))).endswith(", and 2 more")
    assert result(rows().assign(value=math.nan)) == ""


def test_title_source_reading_settings_and_notes_stand_on_the_page(front: Path, tmp_path: Path) -> None:
    text = (front.parent / "pages" / "mlp.html").read_text(encoding="utf-8")
    for wanted in (">what it is<", "mlp · Figure 8", "Lower is worse.", "&#34;epochs&#34;: 7"):
        assert wanted in text
    assert text.count("<li>seen once</li>") == 1
    one = page(rows(widths=(64,)), measures={"linear": Linear(epochs=7)}, measured_notes={"linear": ["seen once"]})
    alone = write(one, tmp_path).read_text(encoding="utf-8")
    for wanted in (Linear.title, "<li>seen once</li>", "&#34;epochs&#34;: 7"):
        assert wanted in alone


@pytest.mark.parametrize(
    ("objectives", "series", "tasks", "titles", "traces"),
    [
        (("simclr", "byol"), ("",), ("a", "b"), ["a", "b"], ["simclr", "byol"]),
        (("simclr",), ("linear", "mlp"), ("a", "b"), ["a", "b"], ["linear", "mlp"]),
        (("simclr", "byol"), ("linear", "mlp"), ("a",), ["simclr", "byol"], ["linear", "mlp"]),
        (
            ("simclr", "byol"),
            ("x", "y"),
            ("a", "b", "c"),
            [f"{task} · {objective}" for task in "abc" for objective in ("simclr", "byol")],
            ["x", "y"],
        ),
    ],
)
def test_what_shares_a_panel_and_what_a_line(
    objectives: tuple[str, ...], series: tuple[str, ...], tasks: tuple[str, ...], titles: list[str], traces: list[str]
) -> None:
    table = tidy(rows(objectives=objectives, series=series, tasks=tasks))
    shown = layout.picture(table, "accuracy", 100.0)
    assert [panel.title for panel in shown.panels] == titles
    assert shown.columns == (2 if len(series) > 1 and len(objectives) > 1 else 0), "a row of panels a task"
    assert list(shown.legend) == traces
    assert len({(style.colour, style.marker) for style in shown.legend.values()}) == len(traces)
    assert shown.panels[0].own and not (len(tasks) > 1 and shown.panels[-1].own)
    for panel in shown.panels:
        assert sum(line.get_linewidth() == 1.6 for line in axes_of(panel).lines) == len(traces)


def test_lines_and_bars_are_where_the_numbers_are() -> None:
    table = tidy(rows(seeds=1, series=("h", "z")))
    axes = axes_of(layout.picture(table, "accuracy", 100.0).panels[0])
    drawn = [line for line in axes.lines if line.get_linewidth() == 1.6]
    for line, series in zip(drawn, ("h", "z"), strict=True):
        mine = table[table["series"] == series].sort_values("width")
        np.testing.assert_allclose(line.get_ydata(), mine["value"] * 100)
        np.testing.assert_allclose(line.get_xdata(), [5, 7], atol=0.1)
    ends = [segment[:, 1] for bars in axes.collections for segment in bars.get_segments()]
    np.testing.assert_allclose([high - low for low, high in ends], 4.0)  # ± 2 %, one standard error to each side
    several = tidy(rows(seeds=2))
    bars = axes_of(layout.picture(several, "accuracy", 100.0).panels[0]).collections[0].get_segments()
    spread = 12.7062 * 100 * 0.001 * math.sqrt(0.5) / math.sqrt(2)  # t of one degree; the seeds' values differ by 0.001
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 2 * spread, rtol=1e-4)


def test_one_width_gives_dots_in_rows_and_an_upright_table(tmp_path: Path) -> None:
    table = rows(widths=(64,), tasks=("a", "b"), sets=("scenes", "clevr"), series=("linear", "mlp"))
    shown = layout.picture(tidy(table), "accuracy", 100.0)
    assert [panel.title for panel in shown.panels] == ["scenes", "clevr"]
    axes = axes_of(shown.panels[0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    dots = [line for line in axes.lines if line.get_markersize() == 5.2]
    np.testing.assert_allclose(dots[1].get_xdata(), [30.1, 30.3])
    assert all(high < low for low, high in itertools.pairwise(-np.asarray(dots[1].get_ydata())))  # b stands below a
    bars = [segment for part in axes.collections for segment in part.get_segments() if segment[0, 1] == segment[1, 1]]
    np.testing.assert_allclose([bar[1, 0] - bar[0, 0] for bar in bars], 4.0)
    path = write(page(table), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "against width" not in text and "no widths to compare" not in text
    head, first = re.findall(r"<tr>(.*?)</tr>", text)[:2]
    assert re.sub("<[^>]*>", "|", head).replace("|", "") == "simclr, D=64chance"
    assert re.findall(">([^<>]+)<", first) == ["a: linear", "30.0 ", "± 2.0", "25.0"]
    assert panels(path) == 2


def test_series_of_one_task_are_the_rows_of_dots_and_the_columns_of_the_table(tmp_path: Path) -> None:
    variants = ("original", "mixed-same", "mixed-rand", "mixed-next")
    one = layout.picture(tidy(rows(widths=(64,), series=variants, objectives=("byol", "simclr"))), "accuracy", 100.0)
    assert [label.get_text() for label in axes_of(one.panels[0]).get_yticklabels()] == list(variants)
    assert list(one.legend) == ["simclr", "byol"]
    seen = Reader(write(page(rows(series=variants)), tmp_path))
    assert "".join(seen.text["th"]).startswith("objectiveDseeds" + "".join(variants))


def test_one_seed_shows_its_error_in_grey_and_several_their_deviation(tmp_path: Path) -> None:
    def of(seeds: int, error: float) -> Reader:
        table = rows("geometry", "share", seeds=seeds, tasks=("",), error=error)
        return Reader(write(page(table), tmp_path / f"{seeds}-{error}"))

    one = of(1, 0.02)
    assert one.text["td"].count("± 0.020") == 2
    assert "In grey: ± standard error of one seed" in "".join(one.text["p"])
    assert "± one standard error of the single seed" in "".join(one.text["figcaption"])
    two = of(2, 0.02)
    assert [text for text in two.text["td"] if "±" in text] == ["0.300 ± 0.001", "0.302 ± 0.001"]
    assert "standard error" not in "".join(two.text["p"] + two.text["figcaption"])
    assert "95 % t-interval" in "".join(two.text["figcaption"])
    none = of(1, math.nan)
    assert "no intervals" in "".join(none.text["figcaption"]) and not any("±" in text for text in none.text["td"])


def test_many_tasks_of_many_sets_are_shown_set_by_set(tmp_path: Path) -> None:
    table = rows("ridge", "r2", tasks=("a", "b", "c", "d"), sets=("scenes", "clevr"), chance=0.0, classes=0)
    path = write(page(table), tmp_path)
    seen = Reader(path)
    assert seen.text["h3"].count("scenes") == seen.text["h3"].count("clevr") == 1
    assert seen.text["h4"] == ["scenes", "clevr"]
    assert {each.name for each in tmp_path.glob("*.png")} == {"ridge-r2-scenes.png", "ridge-r2-clevr.png"}
    assert panels(path) == 8
    assert "a (scenes)" not in seen.text["th"] and seen.text["th"].count("a") == 2


def test_curves_alone_make_a_page(tmp_path: Path) -> None:
    path = write(
        page(pd.DataFrame(), curve_rows(), runs=curve_rows()[["run", "objective", "width", "seed"]].assign(status="done")),
        tmp_path,
    )
    assert panels(path) == 1
    assert (tmp_path / "sparsity-sorted.png").is_file()
    assert "\nD = 128</li>" in path.read_text(encoding="utf-8")


def test_a_run_that_lacks_a_measure_is_told_once_and_not_for_each_number() -> None:
    short = MIXED[~((MIXED["run"] == "simclr-128-0") & (MIXED["measure"] == "mlp"))].copy()
    short.loc[(short["run"] == "simclr-32-0") & (short["series"] == "mlp"), "value"] = math.nan
    assert missing(short, page(short).runs) == [
        "simclr-32-0 (done): no number for mlp accuracy shape mlp",
        "simclr-128-0 (done): no number for mlp",
    ]


def test_strange_names_are_escaped_and_measures_of_one_stem_get_files_of_their_own(tmp_path: Path) -> None:
    evil = "<b id=x>&/$\\frac{../"
    table = pd.concat(
        [
            rows("linear/fast", tasks=(evil,), series=(evil, "s"), sets=(evil,)),
            rows("linear fast", f"accuracy {evil}", objectives=(evil,), widths=(64,)),
            rows("LINEAR-FAST", widths=(64,)),
        ],
        ignore_index=True,
    )
    drawn = curve_rows(name=evil, task=evil, series=evil, x_label=evil, measure="linear fast")
    write(page(table, drawn, measured_notes={"linear fast": [evil]}, title=evil), tmp_path)
    pages = list((tmp_path / "pages").glob("*.html"))
    assert len(pages) == 3 and len({each.name.lower() for each in pages}) == 3
    for each in (tmp_path / "report.html", *pages):
        seen = Reader(each)
        assert not any(attrs.get("id") == "x" for _, attrs in seen.tags)
        assert all((each.parent / link).is_file() for link in seen.links())
    assert {each.parent.name for each in tmp_path.rglob("*.png")} == {"pages"}


def test_published_numbers_stand_below_the_measure_of_the_same_kind(tmp_path: Path) -> None:
    ours = pd.concat([rows("linear_fast"), rows("knn", tasks=("shape",))])
    theirs = rows("linear", objectives=("simclr", "byol"), widths=(512, 32768), sets=("imagenet1k",), tasks=("",))
    theirs = theirs.drop(columns=["classes", "n", "chance", "error"])
    measures = {"linear_fast": spec.named(Measure, "linear_fast"), "knn": spec.named(Measure, "knn")}
    write(page(ours, measures=measures, published=theirs, published_from="The paper's Table 0"), tmp_path)
    linear, knn = ((tmp_path / "pages" / f"{name}.html").read_text() for name in ("linear_fast", "knn"))
    assert "The paper&#39;s Table 0: accuracy</h2>" in linear and "Table 0" not in knn
    assert linear.index("Table 0") > linear.index("accuracy against width</h2>")
    assert "32768" in linear and "imagenet1k" in linear and "One run a number." in linear
    assert (tmp_path / "pages" / "paper-linear-accuracy.png").stat().st_size > 10_000


def test_at_one_width_the_variants_of_an_objective_have_a_row_each() -> None:
    made = [rows(widths=(32,), projector=name, run=f"run {name}", value=value) for name, value in (("", 0.2), ("8-4", 0.6))]
    drawn = layout.picture(tidy(pd.concat(made)), "accuracy, %", 100.0)
    assert list(drawn.legend) == ["simclr"] and [panel.caption for panel in drawn.panels] == ["D = 32"]
    axes = axes_of(drawn.panels[0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["projector none", "projector 8-4"]
    marks = next(line for line in axes.lines if line.get_marker() == "s")
    assert dict(zip(marks.get_ydata(), marks.get_xdata(), strict=True)) == pytest.approx({0.0: 20.0, 1.0: 60.0})
    both = [rows(objectives=("simclr", "vicreg"), widths=(32,), projector=name) for name in ("a", "b")]
    both = [part.assign(run=part["run"] + name) for part, name in zip(both, "ab", strict=True)]
    drawn = layout.picture(tidy(pd.concat(both)), "accuracy, %", 100.0)
    assert list(drawn.legend) == ["simclr", "vicreg"]
    labels = [label.get_text() for label in axes_of(drawn.panels[0]).get_yticklabels()]
    assert labels == [f"{name}, projector {one}" for name in ("simclr", "vicreg") for one in "ab"]


def test_a_long_legend_has_room_on_the_picture(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 30):
        styles = canvas.series_styles([f"a line with a rather long name, number {each}" for each in range(count)])
        shown = canvas.Picture([canvas.Panel("one", "", False, lambda axes: None)], styles)
        canvas.png(shown, tmp_path / "x.png", title="t", note="n")
        sizes.append(Image.open(tmp_path / "x.png").size)
    assert sizes[1][1] > sizes[0][1] + 400 and sizes[1][0] == sizes[0][0]
