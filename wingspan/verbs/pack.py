"""Decode a set once, for speed over disk: a memory-mapped folder that --data.path reads.

wingspan pack photos/ --out packed                  images of 256 pixels, for training at 224; resumes after a kill
wingspan pack imagenet=ILSVRC/ --out packed         a published set with its publisher's folder
wingspan pack flowers/,fit=squash --out packed --size 128
wingspan pack packed                                what it holds; --check compares every checksum
wingspan pretrain --data.path packed --data.size 224

Each image takes 3 x size x size bytes: 197 kB at 256, 252 GB for ImageNet's 1.28 million.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from wingspan.data._packing import OnBad, pack
from wingspan.data._pages import Manifest, damaged, is_packed, read_manifest
from wingspan.data.base import Split
from wingspan.data.packed import Packed
from wingspan.errors import UserError
from wingspan.progress import clock, console, tell
from wingspan.verbs import _arguments as arguments
from wingspan.verbs._sets import data_set


@dataclass(frozen=True)
class _Options:
    out: Path | None = None
    """The folder to write."""
    size: int = 256
    """Side in pixels that images are kept at: about 8/7 of what training sees, or just that where it is 64 or less."""
    split: Literal["both", "train", "test"] = "both"
    """Which images: both, train or test."""
    on_bad: OnBad = "error"
    """What to do about images that cannot be decoded: error stops there, skip leaves them out with their labels."""


@dataclass(frozen=True)
class _LookOptions:
    check: bool = False
    """Read every byte and compare it with its checksum."""


def main(words: list[str]) -> int:
    words = list(words)
    if not words or words[0].startswith("-"):
        if {"-h", "--help"} & set(words):
            arguments.parse(_Options, _Options(), ["--help"], "pack DATA", __doc__ or "")
        raise UserError("which images? wingspan pack DATA --out DIR, DATA being a folder, a Parquet file, a hub id.")
    text, rest = words[0], words[1:]
    if not any(word.split("=")[0] == "--out" for word in rest) and not {"-h", "--help"} & set(rest):
        if is_packed(Path(text)):
            return _look(Path(text), rest)
        raise UserError(f"where to? wingspan pack {text} --out DIR")
    return _pack(text, arguments.parse(_Options, _Options(), rest, "pack DATA", __doc__ or ""))


def _pack(text: str, options: _Options) -> int:
    if options.out is None:
        raise UserError(f"where to? wingspan pack {text} --out DIR")
    splits: tuple[Split, ...] = ("train", "test") if options.split == "both" else (options.split,)
    began = time.monotonic()
    made = pack(data_set(text, options.size), options.out, options.size, splits, options.on_bad)
    _show(made)
    took, side = clock(time.monotonic() - began), Packed(folder=str(options.out)).side
    console.print(f"Wrote {options.out} in {took}", highlight=False, soft_wrap=True)
    console.print(f"Next: wingspan pretrain --data.path {options.out} --data.size {side}", highlight=False, soft_wrap=True)
    return 0


def _look(path: Path, words: list[str]) -> int:
    options = arguments.parse(_LookOptions, _LookOptions(), words, "pack DIR", __doc__ or "")
    _show(read_manifest(path))
    if options.check:
        if found := list(damaged(path)):
            raise UserError(f"{path} is not as it was written: {'; '.join(found[:5])}. Remove it and pack again.")
        console.print("Every byte is as it was written.", highlight=False)
    return 0


def _show(made: Manifest) -> None:
    about = made.packing
    fitted = "" if about.fit == "crop" else f", {about.fit}"
    table = Table(title=f"{about.name}, {about.side} x {about.side} pixels{fitted}")
    for column in ("split", "images", "GB", "target"):
        table.add_column(column, justify="right" if column in ("images", "GB") else "left")
    for split, part in made.parts.items():
        size = part.images * 3 * about.side**2
        table.add_row(split, f"{part.images:,}", f"{size / 1e9:,.2f}", part.target or "none")
    console.print(table)
    tell(f"'{split}': {note}" for split, part in made.parts.items() for note in part.notes)
