"""Numbers of drawings: the files, the figure read back from its axes, and the page parsed as a browser would."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_drawings import PARTS, SENTENCE, company, drawing, encoder, references
from made_pages import Reader, axes_of, panels
from matplotlib.colors import to_hex
from PIL import Image
from rich.console import Console

from wingspan import mosaic, retained, taus
from wingspan.errors import UserError
from wingspan.rcdm.kept import Drawing, Kept

ODD = drawing(company(seeds=2), untrusted=("simclr D=64 seed=1",), missing=[("simclr D=512 seed=0", "detail")])


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two data sets, one of them drawn by the ridge only, with a grid."""
    folder = tmp_path_factory.mktemp("drawn")
    mosaic.draw(drawing([encoder("simclr", 64)], own=1, outside=0), folder / "grid.png")
    ridge = drawing(company(("simclr",)), rung="ridge", data="cifar10 & <more>")
    return retained.write([ODD, ridge], folder, "wingspan draw a b", pictures={"the grid": folder / "grid.png"})


def text_of(of: Drawing, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(retained.printed(of))
    return console.export_text()


def test_the_table_has_a_row_a_number_and_says_which_break_the_trust_rule() -> None:
    table = retained.table(ODD)
    assert list(table) == retained.COLUMNS and len(table) == len(ODD.numbers)
    broken = table[table["trusted"].eq(False)]
    assert set(broken["metric"]) == {"tau", "rho", "kappa"} and set(broken["encoder"]) == {"simclr D=64 seed=1"}
    assert set(broken["factor"]) == {"pixels"}
    silent = table["trusted"].isna()
    assert set(table.loc[silent, "metric"]) == {"r2", "mrr", "median rank"}
    row = table[(table["encoder"] == "simclr D=512 seed=1") & (table["metric"] == "tau") & (table["factor"] == "layout")].iloc[
        0
    ]
    kept = ODD.number("simclr D=512 seed=1", "layout", "tau", "samples")
    assert kept is not None and (row["value"], row["low"], row["high"], row["n"]) == (kept.value, kept.low, kept.high, 256)
    assert (row["data"], row["group"], row["D"], row["seed"], row["run"]) == ("scenes", "simclr", 512, 1, "simclr-512-1")


def test_the_csv_holds_the_tables_of_all_drawings(front: Path) -> None:
    read = pd.read_csv(front.parent / "retention.csv", keep_default_na=False, na_values=[""])
    assert list(read) == retained.COLUMNS
    assert set(read["data"]) == {"scenes", "cifar10 & <more>"}
    mine = read[read["data"] == "scenes"]
    assert len(mine) == len(ODD.numbers)
    assert np.allclose(mine["value"], retained.table(ODD)["value"].to_numpy(), equal_nan=True) and mine["value"].isna().any()


def test_the_json_nests_the_same_with_the_sentences_and_is_strict(front: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads((front.parent / "retention.json").read_text(), parse_constant=refuse)
    assert read["command"] == "wingspan draw a b" and read["drawings"][0]["notes"] == list(ODD.notes)
    by = {each["name"]: each for each in read["drawings"][0]["encoders"]}
    assert by["simclr D=64 seed=1"]["untrusted"] == {"pixels": SENTENCE} and by["untrained"]["reference"] is True
    kept = ODD.number("simclr D=64 seed=0", "colour", "kappa", "samples")
    assert kept and by["simclr D=64 seed=0"]["numbers"]["samples"]["colour"]["kappa"]["value"] == kept.value
    assert by["simclr D=64 seed=0"]["numbers"]["samples"]["ranks"]["mrr"]["chance"] == 0.00098
    assert by["simclr D=512 seed=0"]["numbers"]["samples"]["detail"]["tau"]["value"] is None


def test_factors_come_in_one_order_and_true_ones_after_those_of_pictures() -> None:
    of = drawing([encoder("simclr", 64)], factors=("shape", "background", "histogram", "pixels"))
    assert retained.factors(of) == ["pixels", "histogram", "background", "shape"]


def drawn(of: Drawing, factor: str = "pixels") -> tuple[dict[str, list[tuple[list[float], list[float], str]]], object]:
    """Lines of a panel by dash: (x, y, colour), and its axes."""
    names = [each.name for each in of.encoders if each.reference]
    picture = taus.picture(retained.table(of), retained.factors(of), names, of.rung)
    assert picture is not None
    axes = axes_of(next(panel for panel in picture.panels if panel.title == factor))
    lines: dict[str, list[tuple[list[float], list[float], str]]] = {}
    for line in axes.get_lines():
        at = [float(v) for v in line.get_xdata()], [float(v) for v in line.get_ydata()]
        lines.setdefault(line.get_linestyle(), []).append((*at, to_hex(line.get_color())))
    return lines, axes


def test_the_figure_draws_means_over_seeds_against_the_logarithm_of_width_with_the_lower_rungs_beside() -> None:
    lines, _ = drawn(ODD, "layout")
    blue = taus.styles({"simclr": "simclr"})["simclr"].colour
    mean = [
        np.mean([ODD.number(f"simclr D={D} seed={seed}", "layout", "tau", "samples").value for seed in (0, 1)])  # type: ignore[union-attr]
        for D in (64, 512, 2048)
    ]
    assert any(
        np.allclose(y, mean) and np.allclose(x, [6, 9, 11], atol=0.1) for x, y, c in lines["-"] if c == blue and len(y) == 3
    )
    for dash, rung in (("--", "ridge"), (":", "decoder")):
        lower = [
            np.mean([ODD.number(f"simclr D={D} seed={s}", "layout", "r2", rung).value for s in (0, 1)]) for D in (64, 512, 2048)
        ]  # type: ignore[arg-type, union-attr]
        assert any(np.allclose(y, lower) and x == [6, 9, 11] for x, y, c in lines[dash] if c == blue)
    level = ODD.number("untrained", "layout", "tau", "samples")
    assert level and lines["-."] == [([0.0, 1.0], [level.value] * 2, taus.GREY)], "untrained: one horizontal line"


def test_an_under_trained_mean_is_hollow_and_its_line_broken() -> None:
    def marks(factor: str) -> list[tuple[float, bool]]:
        _, axes = drawn(ODD, factor)
        single = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[attr-defined]
        return [(float(line.get_xdata()[0]), line.get_markerfacecolor() == "none") for line in single]

    hollow = [round(x) for x, empty in marks("pixels") if empty]
    assert hollow == [6] and not any(empty for _, empty in marks("colour"))
    lines, _ = drawn(ODD)
    assert sum(any(math.isnan(v) for v in y) for _, y, _ in lines["-"]) == 1
    assert "Hollow" in taus.note(retained.table(ODD), "samples")
    assert "Hollow" not in taus.note(retained.table(drawing()), "samples")


def test_bars_are_the_bootstrap_intervals_and_what_was_not_found_is_left_out() -> None:
    _, axes = drawn(ODD, "detail")
    spans = [segment[:, 1] for bars in axes.collections for segment in bars.get_segments()]  # type: ignore[attr-defined]
    rows = [
        k for k in ODD.numbers if (k.factor, k.metric) == ("detail", "tau") and "D=" in k.encoder and not math.isnan(k.value)
    ]
    assert len(spans) == len(rows) == 11
    assert np.allclose(sorted(map(tuple, spans)), sorted((k.low, k.high) for k in rows))


def test_what_falls_far_below_nothing_is_cut_and_told() -> None:
    of = drawing([encoder("simclr", 64), encoder("simclr", 128)])
    worse = dataclasses.replace(
        of, numbers=tuple(dataclasses.replace(k, value=-9.0) if k.metric == "tau" else k for k in of.numbers)
    )
    _, axes = drawn(worse)
    assert axes.get_ylim()[0] == pytest.approx(-0.29) and "cut off" in taus.note(retained.table(worse), "samples")  # type: ignore[attr-defined]
    assert "cut off" not in taus.note(retained.table(of), "samples")


def test_the_page_is_whole_in_one_file_and_its_links_lead_to_what_was_written(front: Path) -> None:
    seen, text = Reader(front), front.read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert set(seen.links()) == {"curve-scenes.png", "curve-cifar10-more.png", "retention.csv", "retention.json"}
    for link in seen.links():
        assert (front.parent / link).is_file(), link
    with Image.open(front.parent / "curve-scenes.png") as picture:
        assert picture.size[0] > 1000
    assert panels(front) == 2 * len((*PARTS, "shape")) and seen.count("img") == 1
    assert "prefers-color-scheme: dark" in text and "wingspan draw a b" in "".join(seen.text["code"])
    assert "cifar10 &amp; &lt;more&gt;" in text and "more retained is not better" in "".join(seen.text["p"])
    assert "revision" in seen.text["td"]


def test_the_pages_tables_strike_out_what_must_not_be_read_and_show_intervals_and_chance(front: Path) -> None:
    seen = Reader(front)
    struck = [attrs for tag, attrs in seen.tags if tag == "td" and attrs.get("title")]
    assert [attrs["title"] for attrs in struck] == [SENTENCE] * 3, "tau, kappa and rho of one factor"
    assert seen.text["s"] == ["0.55", "1.61", "0.57"] and any(SENTENCE in line for line in seen.text["li"])
    cells = seen.text["td"]
    assert "0.52 to 0.57" in cells and "0.000980" in cells and "5,000" in " ".join(cells).replace("5,001", "5,000")
    heads = seen.text["h3"]
    assert heads[:5] == ["τ of the samples", "κ, calibration", "ranks", "R² of the decoder", "R² of the ridge"]
    assert "nan" not in " ".join(cells)


def test_a_lower_rung_alone_is_not_told_of_samples(tmp_path: Path) -> None:
    seen = Reader(retained.write([drawing(rung="decoder")], tmp_path, "wingspan draw a", pictures={}))
    assert "calibration" not in " ".join(seen.text["li"] + seen.text["h3"]) and (tmp_path / "curve.png").is_file()
    assert seen.text["h3"][:2] == ["R² of the decoder", "R² of the ridge"]


def test_one_encoder_and_references_alone_are_drawn_too(tmp_path: Path) -> None:
    assert panels(retained.write([drawing([encoder("simclr", 64)])], tmp_path / "a", "x", pictures={})) == 7
    assert panels(retained.write([drawing(references())], tmp_path / "b", "x", pictures={})) == 0, (
        "nothing to draw against width"
    )


def test_an_infinite_kappa_is_shown_as_such_and_is_null_in_json(tmp_path: Path) -> None:
    of = drawing([encoder("simclr", 64)])
    endless = Kept("simclr D=64", "pixels", "samples", "kappa", math.inf, math.inf, math.inf, 256)
    of = dataclasses.replace(of, numbers=(*(k for k in of.numbers if (k.factor, k.metric) != ("pixels", "kappa")), endless))
    assert "∞" in Reader(retained.write([of], tmp_path, "x", pictures={})).text["td"]
    read = json.loads((tmp_path / "retention.json").read_text())
    assert read["drawings"][0]["encoders"][0]["numbers"]["samples"]["pixels"]["kappa"]["value"] is None
    assert "∞" in text_of(of)


def test_a_missing_picture_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no picture at '.*gone.png'"):
        retained.write([drawing()], tmp_path / "out", "x", pictures={"grid": tmp_path / "gone.png"})
    assert not (tmp_path / "out").exists()


def test_the_terminals_table_shows_narrow_to_wide_and_marks_what_must_not_be_read() -> None:
    text = text_of(drawing(untrusted=("simclr D=512",), factors=(*PARTS, "foreground", "background", "shape", "size")))
    lines = [line for line in text.splitlines() if re.search(r" D=|untrained|no information", line)]
    assert [" ".join(line.split()[:2]) for line in lines[:6]] == [
        f"{group} D={D}" for group in ("supervised", "simclr") for D in (64, 512, 2048)
    ]
    assert "untrained" in lines[6] and "0.79 †" in lines[4] and text.count("†") == 2
    assert "0.0540" in lines[4] and "1.61" in lines[4] and "foreground" in text and "2 more factors" in text
    assert "†" not in text_of(drawing()) and "κ" not in text_of(drawing(rung="ridge"))
    assert "R² by ridge" in text_of(drawing(rung="ridge"))
