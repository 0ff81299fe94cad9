"""Nearest neighbours of pictures, or of a store's own rows, among the features that a store holds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wingspan import spec
from wingspan.chance import generator
from wingspan.data.base import Data
from wingspan.errors import UserError, nearest
from wingspan.neighbours import Neighbours, cosine, hamming
from wingspan.network import Network
from wingspan.pictures import features_of, network_of
from wingspan.store.rows import take
from wingspan.store.store import Store

Distance = Literal["hamming", "cosine"]
_AT_ONCE = 2**29  # bytes of queries' features in memory


@dataclass(frozen=True)
class Query:
    """What is searched for: a picture file, or, where `split` is given, a row of a split of the store."""

    name: str  # the file, or "test:17"
    split: str = ""
    row: int = -1


@dataclass(frozen=True)
class Agreement:
    """How often neighbours have their query's class."""

    same: int
    of: int  # neighbours of queries whose class is known
    chance: float  # what rows drawn from the searched split would give, 0..1


@dataclass(frozen=True)
class Found:
    """The k nearest rows of one split for each of M queries, nearest first; at equal distance the row that comes first.

    `neighbours.indices` (M, k) int64 are rows of the split; `neighbours.distances` (M, k) are bits that differ (int32,
    0..D), or for cosine 1 - cosine (fp32, 0..2). `task` names the labels that are shown and compared, None where there are
    none.
    """

    store: Store
    split: str
    by: Distance
    queries: tuple[Query, ...]
    neighbours: Neighbours
    task: str | None
    notes: tuple[str, ...] = ()

    def label(self, split: str, row: int) -> str | None:
        """The class of a row of a split; None where it is not known, as for a picture (split "")."""
        if not split or self.task is None:
            return None
        part = self.store.part(split)
        return part.classes[self.task][int(part.labels[self.task][row])] if self.task in part.classes else None

    def same(self, query: int, rank: int) -> bool | None:
        """Whether a neighbour (`rank` from 0) has its query's class; None where either is not known."""
        asked = self.queries[query]
        labels = self.label(asked.split, asked.row), self.label(self.split, int(self.neighbours.indices[query, rank]))
        return None if None in labels else labels[0] == labels[1]

    def distance(self, query: int, rank: int) -> str:
        """A neighbour's distance in words: per cent of the bits that differ, or the cosine similarity."""
        value = self.neighbours.distances[query, rank].item()
        return f"{value / self.store.manifest.width:.1%}" if self.by == "hamming" else f"{1 - value:.3f}"

    def agreement(self) -> Agreement | None:
        """How many neighbours have their query's class; None where no query's class is known (pictures, no labels)."""
        part = self.store.part(self.split)
        if self.task is None or self.task not in part.classes:
            return None
        labels, names = part.labels[self.task], part.classes[self.task]
        numbers = {name: at for at, name in enumerate(names)}  # the query's split may number its classes otherwise
        counts = labels.bincount(minlength=len(names)).tolist()
        same, known, chance = 0, 0, 0.0
        for query, rows in zip(self.queries, self.neighbours.indices, strict=True):
            name = self.label(query.split, query.row)
            if name is not None:
                known += 1
                if name in numbers:
                    own = int(query.split == self.split)
                    same += int((labels[rows] == numbers[name]).sum())
                    chance += (counts[numbers[name]] - own) / (len(part) - own)
        return Agreement(same, known * self.neighbours.indices.shape[1], chance / known) if known else None

    def to_json(self) -> dict[str, Any]:
        """All of it as what JSON holds; `rank` begins at 1."""
        about, agreement = self.store.manifest, self.agreement()
        return {
            "store": str(self.store.path), "model": spec.to_json(about.model), "data": about.data.label_name,
            "layer": about.layer, "width": about.width, "format": about.format, "split": self.split, "by": self.by,
            "task": self.task, "agreement": dataclasses.asdict(agreement) if agreement else None, "notes": list(self.notes),
            "queries": [
                {
                    **(self._image(query.split, query.row) if query.split else {"path": query.name}),
                    "query": query.name,
                    "neighbours": [
                        {"rank": rank + 1, **self._distance(distance), **self._image(self.split, row)}
                        for rank, (distance, row) in enumerate(zip(distances, rows, strict=True))
                    ],
                }
                for query, distances, rows in zip(
                    self.queries, self.neighbours.distances.tolist(), self.neighbours.indices.tolist(), strict=True
                )
            ],
        }  # fmt: skip

    def _distance(self, value: float) -> dict[str, float]:
        """Bits that differ and their share of D, or the cosine."""
        return {"bits": value, "share": value / self.store.manifest.width} if self.by == "hamming" else {"cosine": 1 - value}

    def _image(self, split: str, row: int) -> dict[str, object]:
        part = self.store.part(split)
        labels = {task: names[int(part.labels[task][row])] for task, names in part.classes.items()}
        path = part.paths[row] if part.paths is not None else None
        return {"split": split, "row": row, "id": int(part.ids[row]), "path": path, "labels": labels}


# ------------------------------------------------------------------------------------------------------- what is searched for


def queries(store: Store, words: Sequence[str]) -> tuple[Query, ...]:
    """What words ask for: files that exist, else rows of a split, as `test:17`, `test:0-7` (both ends) or `train:3,9,12`.

    Raises UserError quoting what is neither, or a row that the split does not have.
    """
    return tuple(query for word in words for query in _asked(store, word))


def drawn(store: Store, seed: int = 0, count: int = 8) -> tuple[Query, ...]:
    """Rows of the test split by chance, or of the only split there is; fewer where it holds fewer."""
    split = "test" if "test" in store.splits else store.splits[-1]
    order = torch.randperm(len(store.part(split)), generator=generator(seed, "search"))
    return tuple(Query(f"{split}:{row}", split, row) for row in sorted(order[:count].tolist()))


def _asked(store: Store, word: str) -> Iterator[Query]:
    if os.path.isfile(word):  # noqa: PTH113 - Path's own fails on a word too long for a name
        yield Query(word)
        return
    split, colon, rows = word.partition(":")
    if os.path.isdir(word):  # noqa: PTH112
        raise UserError(f"'{word}' is a folder: name the pictures in it ({Path(word) / '*'}).")
    if not colon or "/" in split:
        raise UserError(f"'{word}' is no file, and no rows of a split either, which are written {store.splits[-1]}:17.")
    if split not in store.splits:
        raise UserError(f"'{word}' is no file, and {store.path} holds no split '{split}'.{nearest(split, store.splits)}")
    part = store.part(split)
    for piece in rows.split(","):
        first, dash, last = piece.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise UserError(f"'{word}': '{piece}' is no row; write {split}:17, {split}:0-7 or {split}:3,9,12.")
        start, stop = int(first), int(numbers[-1])
        if stop < start:
            raise UserError(f"'{word}': '{piece}' runs backwards; write {stop}-{start}.")
        if stop >= len(part):
            raise UserError(f"'{word}': split '{split}' of {store.path} holds rows 0 to {len(part) - 1}.")
        yield from (Query(f"{split}:{row}", split, row) for row in range(start, stop + 1))


# --------------------------------------------------------------------------------------------------------------- the search


def search(
    store: Store,
    wanted: Sequence[str | Path | Query],
    *,
    top: int = 10,
    split: str = "",
    by: Literal["auto", "hamming", "cosine"] = "auto",
    task: str = "",
    network: Network | None = None,
) -> Found:
    """The `top` rows of a split nearest to each of what is wanted, by exhaustive search.

    wanted: picture files, rows written as for `queries`, or `Query` values. split: where to search; train when left out, or the
    only split there is. by: "hamming" counts the bits h > threshold that differ, "cosine" compares values; auto takes hamming
    for a packed store. task: whose labels are compared; the target's when left out. A row never finds itself; where `top`
    exceeds the rows there are, all are given and a note says so. network: the one that the features came from, needed for
    pictures only (`network_of`); loaded when left out.

    Raises UserError for a split, task or row that the store lacks, cosine on packed bits, pictures that cannot be decoded (all
    of them named), and a network that is not the store's.
    """
    split = split or ("train" if "train" in store.splits else store.splits[0])
    part = store.part(split)
    task = task or part.target or ""
    if task and task not in part.classes:
        raise UserError(
            f"--task '{task}': {store.path} holds no such labels.{nearest(task, part.classes) if part.classes else ''}"
        )
    by = by if by != "auto" else "hamming" if part.format == "packed" else "cosine"
    if by == "cosine" and part.format == "packed":
        raise UserError(
            f"--by cosine needs values, and {store.path} holds packed bits: leave out --by to compare bits, or extract again "
            "with wingspan features ... --format fp16."
        )
    asked = [query for each in wanted for query in ((each,) if isinstance(each, Query) else queries(store, [str(each)]))]
    if not asked:
        raise UserError("nothing to search for: give a picture file, or rows such as test:0-7.")
    own = torch.tensor([query.row if query.split == split else -1 for query in asked])
    extra = int(bool((own >= 0).any()))  # a row finds itself, which is dropped afterwards
    if top < 1:
        raise UserError(f"--top {top} must be at least 1.")
    k = min(top, len(part) - extra)
    if k < 1:
        raise UserError(f"split '{split}' of {store.path} holds no row but the one that is searched for.")
    found: list[Neighbours] = []
    start = 0
    for some in _features(store, asked, by, network):
        near = hamming(part.bits, some, part.width, k + extra) if by == "hamming" else cosine(part.dense, some, k + extra)
        found.append(_without(near, own[start : start + len(some)], k))
        start += len(some)
    neighbours = Neighbours(torch.cat([each.distances for each in found]), torch.cat([each.indices for each in found]))
    few = f"--top {top}: split '{split}' holds {len(part):,} rows; all {k:,} that can be neighbours are given."
    return Found(store, split, by, tuple(asked), neighbours, task or None, (few,) if k < top else ())


def _without(found: Neighbours, own: Tensor, k: int) -> Neighbours:
    """k of the neighbours (m, k or k + 1), without the query's own row (m,), -1 for none."""
    keep = found.indices != own.unsqueeze(1)
    order = keep.int().argsort(dim=1, descending=True, stable=True)[:, :k]
    return Neighbours(found.distances.gather(1, order), found.indices.gather(1, order))


def _features(store: Store, asked: Sequence[Query], by: Distance, network: Network | None) -> Iterator[Tensor]:
    """Features of queries in order, some at a time: codes (n, ceil(D / 8)) for hamming, else h (n, D) fp16."""
    files = [query.name for query in asked if not query.split]
    pictures = features_of(store, files, network or network_of(store), by == "hamming") if files else None
    columns = -(-store.manifest.width // 8) if by == "hamming" else store.manifest.width
    dtype = torch.uint8 if by == "hamming" else torch.float16
    size = max(1, _AT_ONCE // (columns * dtype.itemsize))
    used = 0
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        made = torch.empty(len(some), columns, dtype=dtype)
        for split in {query.split for query in some}:
            places = torch.tensor([at for at, query in enumerate(some) if query.split == split])
            if split:
                part = store.part(split)
                held = part.bits if by == "hamming" else part.dense
                made[places] = take(held, torch.tensor([some[at].row for at in places.tolist()]))
            elif pictures is not None:
                made[places] = pictures[used : used + len(places)]
                used += len(places)
        yield made


def relocated(store: Store, place: str) -> Store:
    """The store, its images read from another folder or file than the one they were extracted from."""
    data: Data = store.manifest.data
    names = {field.name for field in dataclasses.fields(data)}
    if not names & {"path", "folder"}:
        raise UserError(f"--data '{place}': the images of {store.path} are {data.label_name}, which lie in no folder.")
    changes = {"path": place, "name": ""} if "path" in names else {"folder": place}
    return dataclasses.replace(store, manifest=dataclasses.replace(store.manifest, data=spec.override(data, changes)))
