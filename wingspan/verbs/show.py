"""Draw a contact sheet: images of a data set and the views training would see.

wingspan show --data scenes --out scenes.png
wingspan show --data.path photos/ --recipe small
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wingspan.pretrain import Pretrain
from wingspan.progress import console
from wingspan.recipes import recipe
from wingspan.sheet import contact_sheet
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    run: Annotated[Pretrain, tyro.conf.arg(name="")]
    out: Path = Path("views.png")
    """The PNG to write."""
    rows: int = 6
    """Rows of images."""
    columns: int = 3
    """Images a row, each followed by its views."""
    views: int = 2
    """Views of each image; 0 shows the images alone."""
    zoom: int = 3
    """How many times every pixel is enlarged."""


def main(words: list[str]) -> int:
    name = arguments.take(words := list(words), "--recipe")
    run, words = arguments.choose(words, recipe(name or "paper"))
    about = f"Draw images and their views.\n\n{arguments.selection_help()}"
    options = arguments.parse(_Options, _Options(run), words, "show", about)
    contact_sheet(options.run, options.out, options.rows, options.columns, options.zoom, options.views)
    followed = f": each image is followed by {options.views} views of it" if options.views else ""
    console.print(f"Wrote {options.out}{followed}", highlight=False)
    return 0
