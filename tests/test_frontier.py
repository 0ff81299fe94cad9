"""Accuracy against parameters, where a study compares architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from made_pages import page, rows
from matplotlib.figure import Figure

from wingspan import frontier
from wingspan.report import write
from wingspan.tables import tidy

NETWORKS = {"small D=512": (1.0e6, 512), "small D=2048": (2.0e6, 2048), "deep": (1.9e6, 512)}


def table(objectives: tuple[str, ...] = ("supervised", "vicreg"), tasks: tuple[str, ...] = ("shape", "colour")) -> pd.DataFrame:
    parts = []
    for name, (_, width) in NETWORKS.items():
        part = rows(objectives=objectives, widths=(width,), seeds=2, tasks=tasks, architecture=name)
        parts.append(part.assign(run=part["run"] + name))
    return pd.concat(parts, ignore_index=True)


def runs_of(found: pd.DataFrame) -> pd.DataFrame:
    runs = found.drop_duplicates("run")
    return runs.assign(backbone_parameters=[NETWORKS[name][0] for name in runs["architecture"]], status="done")


def axes_of(panel, size=(4, 3)):
    axes = Figure(figsize=size).add_subplot()
    panel.draw(axes)
    return axes


def test_every_network_stands_at_its_parameters_and_only_widths_are_joined() -> None:
    found = tidy(table())
    parameters = frontier.parameters_of(found, runs_of(found))
    assert parameters is not None
    picture = frontier.picture(found, parameters, "accuracy, %", 100.0)
    assert [panel.title for panel in picture.panels] == [
        "shape · supervised", "shape · vicreg", "colour · supervised", "colour · vicreg"
    ]  # fmt: skip
    assert [panel.own for panel in picture.panels] == [True, True, False, False]
    assert list(picture.legend) == ["small", "deep"] and picture.columns == 2
    axes = axes_of(picture.panels[0])
    joined = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [list(np.round(line.get_xdata(), 2)) for line in joined] == [[1.0, 2.0], [1.9]]
    mine = found[(found["objective"] == "supervised") & (found["task"] == "shape")]
    for line, names in zip(joined, (["small D=512", "small D=2048"], ["deep"]), strict=True):
        means = [mine.loc[mine["architecture"] == name, "value"].mean() * 100 for name in names]
        np.testing.assert_allclose(line.get_ydata(), means)
    assert [text.get_text() for text in axes.texts] == ["512", "2048"], "D stands beside what differs in it alone"
    assert axes.get_xscale() == "log" and [label.get_text() for label in axes.get_xticklabels()][:2] == ["1", "1.9"]


def test_one_objective_or_one_task_is_not_said_twice() -> None:
    alone = tidy(table(objectives=("vicreg",), tasks=("shape", "colour")))
    picture = frontier.picture(alone, frontier.parameters_of(alone, runs_of(alone)), "accuracy", 100.0)
    assert [(panel.title, panel.caption) for panel in picture.panels] == [("shape", ""), ("colour", "")]
    single = tidy(table(tasks=("shape",)))
    picture = frontier.picture(single, frontier.parameters_of(single, runs_of(single)), "accuracy", 100.0)
    assert [(panel.title, panel.caption) for panel in picture.panels] == [("supervised", "shape"), ("vicreg", "shape")]


def test_it_is_left_to_other_figures_where_parameters_are_unknown_or_architecture_does_not_vary() -> None:
    found = tidy(table())
    known = runs_of(found)
    assert frontier.parameters_of(found, known.drop(columns="backbone_parameters")) is None
    assert frontier.parameters_of(found, known.iloc[1:]) is None
    assert frontier.parameters_of(found[found["architecture"] == "deep"], known) is None
    assert frontier.parameters_of(tidy(rows()), known) is None


def test_the_page_draws_it_and_compares_no_widths_where_no_line_has_two(tmp_path: Path) -> None:
    found = table()
    text = write(page(found, runs=runs_of(found)), tmp_path).read_text()
    assert "accuracy against parameters</h2>" in text and "backbone parameters, millions" in text
    assert "What the numbers say" not in text and "Change from the narrowest" not in text
