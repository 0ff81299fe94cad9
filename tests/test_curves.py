"""Curves, read back from the axes they were drawn in."""

from __future__ import annotations

import math

import pandas as pd
from made_pages import axes_of, curve_rows

from wingspan import canvas, curves


def test_curves_have_a_panel_a_data_set_and_a_colour_a_width() -> None:
    table = curve_rows(widths=(32, 128, 512), sets=("scenes", "clevr"))
    ((name, shown),) = curves.pictures(table)
    assert name == "sorted"
    assert sorted(panel.title for panel in shown.panels) == ["clevr", "scenes"]
    assert list(shown.legend) == ["D = 32", "D = 128", "D = 512"]
    drawn = axes_of(shown.panels[0]).lines
    assert [line.get_color() for line in drawn] == [style.colour for style in shown.legend.values()]
    assert [line.get_ydata()[1] for line in drawn] == [32, 128, 512]


def test_what_theory_gives_is_dashed_and_grey_in_every_panel() -> None:
    theory = curve_rows(series="power law", expected=True)
    for measured in (curve_rows(series="a"), pd.concat([curve_rows(series="a"), curve_rows(series="b")])):
        ((_, shown),) = curves.pictures(pd.concat([measured, theory], ignore_index=True))
        assert len(shown.panels) == measured["series"].nunique()
        assert list(shown.legend) == ["D = 32", "D = 128", curves.EXPECTED]
        for panel in shown.panels:
            drawn = [(line.get_color(), line.get_linestyle()) for line in axes_of(panel).lines]
            assert drawn.count((canvas.GREY, "--")) == 2 and len(drawn) == 4
    ((_, alone),) = curves.pictures(theory)
    assert len(axes_of(alone.panels[0]).lines) == 2, "theory alone is still drawn"


def test_log_axes_write_plain_digits_and_leave_out_what_has_no_logarithm() -> None:
    table = curve_rows(x_scale="log", y_scale="log")
    table["x"], table["y"] = [[0, 1, 10, 1e4]] * 2, [[5.0, 1.0, math.nan, 1e-3]] * 2
    axes = axes_of(curves.pictures(table)[0][1].panels[0])
    axes.figure.draw_without_rendering()
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 1e4]] * 2
    labels = [label.get_text() for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()]
    assert {"100", "0.01"} <= set(labels) and not any("$" in label for label in labels)


def test_the_ramp_runs_from_narrow_to_wide_without_repeating_a_colour() -> None:
    def light(colour: str) -> float:
        return sum(w * int(colour[at : at + 2], 16) for at, w in ((1, 0.2126), (3, 0.7152), (5, 0.0722)))

    assert canvas.ramp(1)[0].colour == canvas.RAMP_LIGHT[-1]
    for count in (2, 5, 12):
        assert len({style.colour for style in canvas.ramp(count)}) == count
    paper, dark = ([light(colour) for colour in ramp] for ramp in (canvas.RAMP_LIGHT, canvas.RAMP_DARK))
    assert paper == sorted(paper, reverse=True), "the wider the darker, on paper"
    assert dark == sorted(dark), "the wider the brighter, on a dark page"
