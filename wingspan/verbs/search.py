"""Find the images of a store nearest to pictures, or to rows of its own, and draw them.

wingspan search codes photo.jpg other.png                    pictures go through the network that the store was made with
wingspan search codes test:17 test:0-7 train:3,9,12          rows of the store; nothing else is loaded but their pixels
wingspan search codes                                        eight rows of the test split by chance
wingspan search codes test:0-99 --in test --out '' --json    every neighbour as JSON, and no picture

STORE is a folder that wingspan features wrote; an existing file is taken before a row of that name. Packed bits are compared by
Hamming distance, values by cosine. Search is exhaustive: what it finds is what is nearest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape
from rich.table import Table

from wingspan import gallery
from wingspan.errors import UserError
from wingspan.pictures import network_of
from wingspan.progress import console
from wingspan.retrieval import Found, Query, drawn, queries, relocated, search
from wingspan.store.store import open_store
from wingspan.verbs import _arguments as arguments

_MANY = 200  # rows that a terminal still shows


@dataclass(frozen=True)
class _Options:
    store: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]] = ""
    """The store's folder."""
    queries: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="QUERY ...")]] = ()
    """Picture files, or rows as SPLIT:17, SPLIT:0-7, SPLIT:3,9,12."""
    top: int = 10
    """Neighbours of each query. The picture shows up to 20."""
    within: Annotated[str, tyro.conf.arg(name="in")] = ""
    """The split to search. Left out: train, or the only one there is."""
    by: Literal["auto", "hamming", "cosine"] = "auto"
    """hamming counts bits that differ, cosine compares values. auto: hamming for a packed store, cosine where it keeps values;
    give hamming there to see what packing would change."""
    task: str = ""
    """Labels that are shown and compared, where images have several. Left out: the target's."""
    seed: int = 0
    """Draws the rows that are searched for where none are given. Another seed, other rows."""
    out: str = "neighbours.png"
    """The PNG to write; '' for none. The images themselves must be there for it."""
    data: str = ""
    """Where the store's images are now. Needed when they were moved."""
    run: str = ""
    """The run's folder, for pictures. Needed when it was moved."""
    json: bool = False
    """Print one JSON object instead of a table."""
    device: str = "auto"
    """auto, cpu or cuda: where pictures go through the network."""


def main(words: list[str]) -> int:
    options = arguments.parse(_Options, _Options(), list(words), "search", __doc__ or "")
    if not options.store:
        raise UserError("which store? wingspan search STORE [QUERY ...], STORE being a folder that wingspan features wrote.")
    store = open_store(options.store)
    if options.data:
        store = relocated(store, options.data)
    asked = queries(store, options.queries)
    _check_out(options.out, asked)
    if not asked:
        asked = drawn(store, options.seed)
        rows = ",".join(str(query.row) for query in asked)
        _say(f"No query given: {len(asked)} rows drawn with --seed {options.seed}, {asked[0].split}:{rows}")
    pictures = any(not query.split for query in asked)
    network = network_of(store, options.run, options.device) if pictures else None
    found = search(store, asked, top=options.top, split=options.within, by=options.by, task=options.task, network=network)
    if options.json:
        print(json.dumps(found.to_json()))
    else:
        _show(found)
    for note in found.notes:
        _say(f"note: {note}")
    if options.out:
        _draw(found, Path(options.out))
    return 0


def _check_out(out: str, asked: Sequence[Query]) -> None:
    """Before anything is computed, since the picture comes last."""
    if not out:
        return
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--out '{out}': a PNG is written; let its name end in .png, or give --out '' for none.")
    if Path(out).resolve() in {Path(query.name).resolve() for query in asked if not query.split}:
        raise UserError(f"--out '{out}' is one of the pictures that are searched for: choose another name.")


def _draw(found: Found, out: Path) -> None:
    try:
        gallery.draw(found, out)
    except UserError as error:
        told = "Where the images are now is said with --data; --out '' makes no picture."
        raise UserError(f"the picture was not made: {error} {told}") from error
    of = [
        f"the first {most} of {count:,} {things}"
        for count, most, things in (
            (len(found.queries), gallery.ROWS, "queries"),
            (found.neighbours.indices.shape[1], gallery.COLUMNS, "neighbours"),
        )
        if count > most
    ]
    _say(f"Wrote {out}" + (f": {' and '.join(of)}" if of else ""))


def _show(found: Found) -> None:
    """The neighbours, a line each, and how many share their query's class."""
    about, part = found.store.manifest, found.store.part(found.split)
    table = Table(title=escape(f"{found.store.path}: nearest in {found.split}, D = {about.width:,}, {about.format}"))
    table.add_column("query", overflow="fold")
    table.add_column("rank", justify="right")
    for column in ("bits", "of D") if found.by == "hamming" else ("cosine",):
        table.add_column(column, justify="right")
    if found.task:
        table.add_column(escape(found.task))
    table.add_column("row")
    if part.paths is not None:
        table.add_column("image", overflow="fold")
    k = found.neighbours.indices.shape[1]
    lines = [(index, rank) for index in range(len(found.queries)) for rank in range(k)]
    for index, rank in lines[:_MANY]:
        query, row = found.queries[index], int(found.neighbours.indices[index, rank])
        label = found.label(query.split, query.row)
        cells = [(query.name + (f" ({label})" if label else "")) if not rank else "", str(rank + 1)]
        if found.by == "hamming":
            cells.append(f"{int(found.neighbours.distances[index, rank]):,}")
        cells.append(found.distance(index, rank))
        if found.task:
            cells.append(("✓ " if found.same(index, rank) else "  ") + (found.label(found.split, row) or ""))
        cells += [f"{found.split}:{row}", *([part.paths[row] or ""] if part.paths is not None else [])]
        table.add_row(*map(escape, cells), end_section=rank == k - 1)
    console.print(table)
    if len(lines) > _MANY:
        _say(f"Shown are {_MANY} of {len(lines):,} neighbours; --json gives all.")
    agreement = found.agreement()
    if agreement:
        share = f"{agreement.same / agreement.of:.1%}; rows drawn by chance would give {agreement.chance:.1%}"
        _say(f"{agreement.same:,} of {agreement.of:,} neighbours share their query's class ({found.task}): {share}")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
