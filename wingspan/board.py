"""Several studies on one page: every claim with its verdict, ours beside the paper's, and the way to each study's report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wingspan import notes
from wingspan.errors import UserError
from wingspan.provenance import provenance
from wingspan.report import Ruling, render, tally
from wingspan.runs import explained, read_json


@dataclass(frozen=True)
class Shown:
    """One study on the board. link: from the board to its report. runs: how many are in which state."""

    name: str
    source: str
    question: str
    command: str
    link: str
    runs: Mapping[str, int]
    rulings: Sequence[Ruling]


def read(folder: Path, board: Path) -> Shown:
    """A study's part of the board that will lie in the folder `board`.

    Raises UserError where the folder holds no finished report of a study.
    """
    note, page = folder / notes.NAME, folder / "report.html"
    for file, what in ((note, "a study's folder"), (page, "finished: nothing was measured yet")):
        if not file.exists():
            raise UserError(f"'{folder}' is not {what} ({file.name} is missing). wingspan study NAME --out {folder} writes it.")
    found = read_json(note)
    return Shown(
        name=found["name"],
        source=found.get("source", ""),
        question=found["question"],
        command=found["command"],
        link=os.path.relpath(page, board),
        runs=Counter(str(run["status"]).partition(":")[0] for run in found["runs"]),
        rulings=[Ruling(**each) for each in found.get("claims", ())],
    )


def write(studies: Sequence[Shown], out: Path, command: str) -> Path:
    """Write `board.html` into `out` and give its path."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        path = out / "board.html"
        counts = tally(ruling for study in studies for ruling in study.rulings)
        render("board.html.j2", path, title="Claims", studies=studies, tally=counts, command=command, provenance=provenance())
    return path
