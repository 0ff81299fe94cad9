"""Put the claims of several studies on one page, ours beside the paper's, with the way to each study's own report.

wingspan report studies/tab4-small studies/tab2-small
wingspan report studies/* --out studies
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from wingspan import board, notes
from wingspan.errors import UserError
from wingspan.progress import console
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    out: Path = Path("studies")
    """Folder that board.html is written into. Keep it near the studies' folders: the page links to their reports."""


def main(words: list[str]) -> int:
    command, words = " ".join(["wingspan", "report", *words]), list(words)
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    options = arguments.parse(_Options, _Options(), words[len(folders) :], "report STUDY [STUDY ...]", __doc__ or "")
    if not folders:
        raise UserError("which studies? wingspan report FOLDER [FOLDER ...], each being what wingspan study wrote.")
    given = list(dict.fromkeys(map(Path, folders)))
    several = len(given) > 1  # a pattern such as studies/* names other folders too
    wanted = [folder for folder in given if not several or (folder / notes.NAME).exists()]
    if not wanted:
        raise UserError(f"none of {', '.join(folders)} is a study's folder: {notes.NAME} is in none of them.")
    for folder in given:
        if folder not in wanted:
            console.print(f"left out: {folder} holds no {notes.NAME}", highlight=False, soft_wrap=True)
    page = board.write([board.read(folder, options.out) for folder in wanted], options.out, command)
    console.print(f"Wrote {page}\nNext: open it in a browser", highlight=False, soft_wrap=True)
    return 0
