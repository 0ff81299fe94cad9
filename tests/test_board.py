"""Several studies' claims on one page."""

from __future__ import annotations

import json
from pathlib import Path

from made_pages import Reader
from tiny_runs import command, said


def study(folder: Path, name: str, words: tuple[str, ...], paper: str = "") -> Path:
    folder.mkdir(parents=True)
    claims = [
        {"claim": f"{name} <claim> {at}", "source": f"Table {name[-1]}", "word": word, "evidence": "Slope +1.5", "paper": paper}
        for at, word in enumerate(words)
    ]
    runs = [
        {"run": "a", "fingerprint": "1", "path": "runs/a", "status": "done"},
        {"run": "b", "fingerprint": "2", "path": "runs/b", "status": "failed: out of memory"},
    ]
    note = {"name": name, "question": "Does it?", "source": f"Table {name[-1]}", "command": f"wingspan study {name} --x"}
    (folder / "study.json").write_text(json.dumps({**note, "base": {}, "runs": runs, "claims": claims}))
    (folder / "report.html").write_text("<html></html>")
    return folder


def test_the_board_has_every_claim_and_leads_to_the_reports(tmp_path: Path, capsys) -> None:
    one = study(tmp_path / "studies" / "tab1", "tab1", ("holds", "undecided"), "Slope +0.8")
    two = study(tmp_path / "elsewhere" / "tab2", "tab2", ("fails",))
    three = study(tmp_path / "studies" / "scenes", "scenes", ())
    (tmp_path / "studies" / "runs").mkdir()
    out = tmp_path / "studies"
    assert command("report", one, two, three, tmp_path / "studies" / "runs", "--out", out) == 0
    told = said(capsys)
    assert f"Wrote {out / 'board.html'}" in told and "left out:" in told and "holds no study.json" in told
    text, page = (out / "board.html").read_text(), Reader(out / "board.html")
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["tab1/report.html", "../elsewhere/tab2/report.html", "scenes/report.html"]
    assert all((out / str(link)).is_file() for link in links)
    assert "<b>1</b> holds, <b>1</b> fails, <b>1</b> undecided, of 3 claims in 3 studies." in text
    assert text.count("It claims nothing") == 1 and text.count('<ul class="board">') == 2
    assert "tab1 &lt;claim&gt; 1" in text and text.count("Slope +0.8 (one run a number)") == 2
    assert "1 done, 1 failed" in text and "out of memory" not in text
    assert "wingspan study tab2 --x" in text and "<b>1</b> not measured" not in text
    assert "http" not in text.replace("http-equiv", ""), "nothing is loaded from elsewhere"


def test_what_is_no_finished_study_is_named(tmp_path: Path, capsys) -> None:
    assert command("report") == 2 and "which studies?" in said(capsys)
    assert command("report", tmp_path) == 2
    assert f"'{tmp_path}' is not a study's folder (study.json is missing)" in said(capsys)
    assert command("report", tmp_path, tmp_path / "x") == 2 and "study.json is in none of them" in said(capsys)
    begun = study(tmp_path / "tab1", "tab1", ())
    (begun / "report.html").unlink()
    assert command("report", begun, "--out", tmp_path) == 2
    assert "nothing was measured yet" in said(capsys) and not (tmp_path / "board.html").exists()


def test_help(capsys) -> None:
    assert command("report", "--help") == 0 and "board.html" in said(capsys)
