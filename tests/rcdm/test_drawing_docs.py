"""docs/drawing.md's Python is run as it stands, on two small runs and at preset smoke."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import tiny

import wingspan
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting

PAGE = Path(wingspan.__file__).parents[1] / "docs" / "drawing.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the docs are not installed with the package")
def test_the_pages_python_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, D in (("narrow", 8), ("wide", 16)):
        pretrain(tiny(backbone__width=D, epochs=1), tmp_path / "runs" / name, Sitting(online=False))
    text = PAGE.read_text().partition("## From Python\n")[2].partition("\n## ")[0]
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") or not line)
    code = code.replace('"cpu32"', '"smoke"').replace("D=2048", "D=16")
    found: dict[str, object] = {}
    exec(code.replace("drawn.number(", "value = drawn.number("), found)
    assert -1 < found["value"] < 1  # type: ignore[operator]
    assert (tmp_path / "drawn" / "company.json").exists()
