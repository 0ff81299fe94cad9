"""Every study of the paper runs at smoke, is judged, and is planned at its other scales."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from wingspan import spec, workbench
from wingspan.data.scenes import Scenes
from wingspan.measures.base import Measure
from wingspan.pretrain import Sitting
from wingspan.study import Study, plan
from wingspan.verbs.study import names

STUDIES = [name for name in names() if hasattr(importlib.import_module(f"wingspan.experiments.{name}"), "_sizes")]


def made(name: str, scale: str) -> Study:
    return importlib.import_module(f"wingspan.experiments.{name}").study(scale)


def test_the_studies_are_those_that_are_there() -> None:
    assert {
        "fig2",
        "fig3",
        "tab1",
        "tab2",
        "tab3",
        "tab4",
        "tab5",
        "tab6",
        "fig7",
        "fig8",
        "fig9",
        "fig11",
        "fig13",
        "appc",
    } <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_at_smoke_and_every_claim_gets_a_verdict(name: str, tmp_path: Path) -> None:
    study = made(name, "smoke")
    if name == "fig9":  # its claim on transfers needs a second data set
        study = replace(study, transfers=(Others(train=64, test=32, size=16, seed=1, target="colour"),))
    outcome = workbench.work(study, tmp_path, Sitting(device="cpu"), 1, f"wingspan study {name} --scale smoke")
    assert not outcome.failed and outcome.table["value"].notna().any()
    assert study.claims and study.source
    for ruling in workbench.rulings(study, outcome.table):
        assert ruling.word == "undecided", f"one seed never decides, and nothing is missing: {ruling}"
        assert "one seed" in ruling.evidence
    page = outcome.page.read_text()
    assert "Claims</h2>" in page and study.source in page
    runs = pd.read_parquet(tmp_path / "results.parquet")["run"]
    assert runs.nunique() == len(plan(study, tmp_path))


class Others(Scenes):
    """Scenes under another name."""

    @property
    def label_name(self) -> str:
        return "others"


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_planned_at_its_other_scales(name: str, scale: str, tmp_path: Path) -> None:
    study = made(name, scale)
    cells = plan(study, tmp_path)
    assert len({cell.run for cell in cells}) == len(cells) >= 2
    embedded = name == "tab5" and scale == "small"
    assert all(isinstance(cell.run.data, Scenes) == embedded for cell in cells)
    assert {cell.run.backbone.shortcut for cell in cells} == {"projection"}  # type: ignore[attr-defined]
    assert len({cell.run.seed for cell in cells}) >= (2 if scale == "small" else 1)
    if scale == "paper":
        assert all(cell.run.backbone.label_name.startswith("resnet50") for cell in cells)
        assert all(
            replace(measure, layers=False) == type(measure)() if name == "tab6" else type(measure)() == measure
            for measure in study.measures
        ), "the paper's recipes"
    assert all(spec.kind_of(measure) in spec.files(Measure) for measure in study.measures)
