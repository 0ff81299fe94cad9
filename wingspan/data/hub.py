"""Anything the `datasets` library reads: hub ids, folders of class folders, Parquet files, WebDataset archives.

Images stay encoded until decoded here (`_decode.py`: RGB, EXIF orientation applied, antialiased resizing). A set that
is small when decoded is decoded once into a memory-mapped file (`_cache.py`), a larger one as its batches are asked for
(`_encoded.py`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from wingspan.caches import cache_folder
from wingspan.chance import generator
from wingspan.data._cache import Decoded, decode_once, scan, size_decoded
from wingspan.data._decode import Fit
from wingspan.data._encoded import SKIP, Encoded
from wingspan.data._labels import MISSING, Task, guess_target, image_column, read_columns
from wingspan.data._pages import is_packed, packed_splits, read_manifest
from wingspan.data._source import Splits, Table, hub_splits, local_splits, namer
from wingspan.data.base import Data, ImageSet, Split
from wingspan.errors import UserError, nearest
from wingspan.processes import place

TESTS = ("test", "validation", "valid", "val")
HELD_OUT = 0.1
Rows = npt.NDArray[np.int64]
Column = npt.NDArray[Any]  # (N,): labels in int64, or numbers in fp32
Notes = tuple[str, ...]


@dataclass(frozen=True)
class Hub(Data):
    """A hub id or local files. Exactly one of `name` and `path` is given."""

    title: ClassVar[str] = "your own images: a hub id, a folder of class folders, Parquet or WebDataset files"

    name: str = ""  # id on the Hugging Face hub, e.g. uoft-cs/cifar10
    # local: folder of class folders, Parquet file or folder of them, WebDataset .tar files, what wingspan pack wrote
    path: str = ""
    config: str = ""  # the hub id's configuration, where it has several
    image: str = ""  # column of images; guessed when empty
    label: str = ""  # column of the target's labels; guessed when empty
    split_train: str = "train"  # split to train on
    split_test: str = ""  # split to test on: test, validation, valid or val when empty, else a tenth of train is held out
    size: int = 32  # side in pixels that training sees
    store: int = 0  # side in pixels images are kept at; 0: size up to 64, else size * 8/7
    limit_train: int = 0  # use only so many training images, stratified; 0: all
    limit_test: int = 0  # use only so many test images, stratified; 0: all
    on_bad: Literal["error", "skip"] = "error"  # what to do about images that cannot be decoded
    cache_gb: float = 8.0  # a set up to this size when decoded is decoded once, into a file; a larger one batch by batch
    cache: str = ""  # folder for such files; $WINGSPAN_CACHE or ~/.cache/wingspan when empty
    workers: int = 0  # decoding threads; 0: one a core of this process's share, or one in all where files are tiny
    # pictures that are not square: their centre (crop), all of it out of proportion (squash, as VTAB does: for scenes whose
    # objects reach the edge), or all of it between grey borders (pad)
    fit: Fit = "crop"

    @property
    def side(self) -> int:
        return self.size

    @property
    def label_name(self) -> str:
        if self.name:
            return self.name.rstrip("/").split("/")[-1]
        path = Path(self.path).expanduser().absolute()
        if path.suffix in (".parquet", ".tar"):
            return path.parent.name if path.stem in ("train", *TESTS) else path.stem
        return path.name if self.path else "hub"

    @property
    def stored(self) -> int:
        """The side in pixels of the images that `load` gives."""
        if self.path and is_packed(path := Path(self.path).expanduser()):
            return read_manifest(path).packing.side
        return self.store or (self.size if self.size <= 64 else round(self.size * 8 / 7))

    def load(self, split: Split) -> ImageSet:
        """Read one split: images (3, stored, stored), a task for every column of classes, a quantity for every one of floats.

        Without a test split a tenth of the training images, stratified by the target, is held out for testing, the same
        on every machine. Broken images raise UserError; with `on_bad="skip"` they and their labels are left out before
        this returns (a set too large for the cache is decoded once to find them): an index never changes its image. Raises
        UserError for whatever the user can mend.
        """
        self._check()
        splits, notes = self._splits()
        source, held_out = self._source(splits, split)
        tables = {name: splits[name]() for name in self._relevant(splits)}
        table = tables[source]
        image, more = image_column(table.rows, self.image, f"split '{source}' of '{self.name or self.path}'")
        tasks, floats, left_out = read_columns({name: each.rows for name, each in tables.items()}, image, self.label)
        target, guessed = guess_target(tasks, self.label or table.target)
        notes += more + left_out + guessed
        labels, missing = _present({name: task.values for name, task in tasks.items()}, source, self.label)
        quantities, lacking = _present(floats, source)
        rows = np.arange(len(table.rows))
        by = labels.get(target or "")
        if held_out:
            rows = self._hold_out(rows, by, split)
            notes += (f"no test split: {HELD_OUT:.0%} of the {len(table.rows)} images of '{source}' held out for testing",)
        rows = self._limited(rows, by, split)
        if not len(rows):
            raise UserError(f"split '{source}' of '{self.name or self.path}' holds no images for {split}ing.")
        made = self._decoded(table, image, rows)
        kept = np.delete(np.arange(len(rows)), [position for position, _ in made.bad])
        return ImageSet(
            made.images,
            {task: torch.from_numpy(values[rows[kept]]) for task, values in labels.items()},
            {task: tasks[task].classes for task in labels},
            target if target in labels else None,
            notes + missing + lacking + _unseen(tasks, self.split_train, source) + made.notes,
            {name: torch.from_numpy(values[rows[kept]]) for name, values in quantities.items()},
            torch.from_numpy(rows[kept]),
            namer(table.rows, image, rows[kept]),
        )

    def _check(self) -> None:
        if bool(self.name) == bool(self.path):
            wrote = f"both --data.name '{self.name}' and --data.path '{self.path}'" if self.name else "neither"
            raise UserError(f"give a hub id with --data.name or local files with --data.path, one of them; {wrote} given.")
        if self.path and self.config:
            raise UserError(f"--data.config '{self.config}' is for hub ids; --data.path '{self.path}' has none.")
        if self.size < 1 or (self.store and self.store < self.size):
            raise UserError(f"--data.size {self.size} must be at least 1, and --data.store {self.store} 0 or not below it.")
        for field in ("limit_train", "limit_test", "workers", "cache_gb"):
            if getattr(self, field) < 0:
                raise UserError(f"--data.{field.replace('_', '-')} {getattr(self, field)} must not be negative.")

    def _splits(self) -> tuple[Splits, tuple[str, ...]]:
        if self.name:
            return hub_splits(self.name, self.config), ()
        path = Path(self.path).expanduser()
        if is_packed(path):
            self._check_packed(path)
            return packed_splits(path)
        return local_splits(path, (self.split_train, self.split_test), cache_folder(self.cache))

    def _check_packed(self, path: Path) -> None:
        """Raise UserError for what would have to be decoded anew."""
        about = read_manifest(path).packing
        if self.size > about.side or self.store not in (0, about.side):
            raise UserError(
                f"'{path}' was packed at {about.side} pixels: it cannot give --data.size {self.size} with --data.store "
                f"{self.store}. Give a size up to {about.side} and no store, or pack again with wingspan pack --size."
            )
        if self.fit != about.fit:
            raise UserError(f"'{path}' was packed with fit={about.fit}, not {self.fit}: give --data.fit {about.fit}.")

    def _test_name(self, splits: Splits) -> str | None:
        """The split to test on; None when images of the training split are held out for it."""
        if self.split_test:
            return self._known(self.split_test, splits, "split-test")
        return next((name for name in TESTS if name in splits and name != self.split_train), None)

    def _source(self, splits: Splits, split: Split) -> tuple[str, bool]:
        """The split to read, and whether it is divided into training and testing images."""
        test = self._test_name(splits)
        if test == self.split_train:
            raise UserError(f"--data.split-train and --data.split-test are both '{test}': testing would see training images.")
        if split == "test" and test is not None:
            return test, False
        packed = self.path and is_packed(Path(self.path).expanduser())
        if packed and split == "test":
            raise UserError(f"'{self.path}' was packed without test images: pack them too, with wingspan pack --split both.")
        return self._known(self.split_train, splits, "split-train"), test is None and not packed

    def _known(self, wanted: str, splits: Splits, option: str) -> str:
        if wanted not in splits:
            held = ", ".join(splits)
            close = nearest(wanted, splits) if len(splits) > 1 else ""
            raise UserError(
                f"no split '{wanted}' in '{self.name or self.path}': found {held}.{close} Name one with --data.{option}."
            )
        return wanted

    def _relevant(self, splits: Splits) -> list[str]:
        """The splits whose classes count, training first."""
        return [name for name in (self.split_train, self._test_name(splits)) if name and name in splits]

    def _hold_out(self, rows: Rows, by: Rows | None, split: Split) -> Rows:
        if len(rows) < 2:
            raise UserError(f"'{self.name or self.path}' has no test split and too few images ({len(rows)}) to hold some out.")
        test = stratified(by, len(rows), max(1, round(HELD_OUT * len(rows))), "hub held out")
        return test if split == "test" else np.setdiff1d(rows, test)

    def _limited(self, rows: Rows, by: Rows | None, split: Split) -> Rows:
        limit = self.limit_train if split == "train" else self.limit_test
        if not 0 < limit < len(rows):
            return rows
        return rows[stratified(None if by is None else by[rows], len(rows), limit, f"hub limit {split}")]

    def _decoded(self, table: Table, image: str, rows: Rows) -> Decoded:
        if table.pixels is not None:
            return Decoded(table.pixels.take(rows), ())
        arrow = table.rows.select_columns([image]).with_format("arrow")
        encoded = Encoded(arrow, rows, self.stored, table.where, workers=1, fit=self.fit)
        encoded = dataclasses.replace(encoded, workers=self.workers or _threads(encoded))
        folder = cache_folder(self.cache)
        if size_decoded(encoded) <= self.cache_gb * 1e9:
            made = decode_once(encoded, folder)
        elif self.on_bad == "skip":
            bad = scan(encoded, folder, table.stamp)
            kept = np.delete(rows, [position for position, _ in bad])
            made = Decoded(dataclasses.replace(encoded, rows=kept), bad)
        else:
            return Decoded(encoded, ())
        if not made.bad:
            return made
        count = f"{len(made.bad)} of {len(rows)} images cannot be decoded"
        first = "; ".join(encoded.name(bad) for bad in made.bad[:3]) + ("; ..." if len(made.bad) > 3 else "")
        if self.on_bad == "error":
            raise UserError(f"{count}: {first}. {SKIP}")
        if len(made.bad) == len(rows):
            raise UserError(f"none of the {len(rows)} images can be decoded: {first}.")
        return dataclasses.replace(made, notes=(*made.notes, f"{count} and are left out: {first}"))


def stratified(labels: Rows | None, total: int, count: int, purpose: str) -> Rows:
    """`count` of 0..total-1, sorted: of every label its share, largest remainders first. labels (total,) or None."""
    labels = np.zeros(total, np.int64) if labels is None else labels
    found, sizes = np.unique(labels, return_counts=True)
    share = sizes * count / total
    quota = np.floor(share).astype(np.int64)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    chosen = []
    for label, take in zip(found.tolist(), quota.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=generator(0, purpose, label)).numpy()
        chosen.append(members[order[:take]])
    return np.sort(np.concatenate(chosen))


def _threads(encoded: Encoded) -> int:
    """Below some 4 kB a file, Pillow spends its time in Python, where threads only take turns: on CIFAR-10 one was fastest."""
    sizes = [len(data) for data in encoded.read(np.arange(min(len(encoded), 64)))]
    return 1 if np.mean(sizes) < 4096 else max(1, _cores() // place().local)


def _cores() -> int:
    """The cores that this process may use: a job's share of a machine, where the system tells it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _present(columns: Mapping[str, Mapping[str, Column]], source: str, wanted: str = "") -> tuple[dict[str, Column], Notes]:
    """The columns of one split that are complete, and notes on the others."""
    complete, notes = {}, []
    for name, splits in columns.items():
        values = splits.get(source)
        if values is None and name == wanted:
            raise UserError(f"split '{source}' has no column '{name}': name another with --data.label.")
        if values is None:
            notes.append(f"split '{source}' has no column '{name}'")
            continue
        gaps = values == MISSING if values.dtype == np.int64 else np.isnan(values)
        if gaps.any():
            count = f"{gaps.sum()} of {len(values)} rows (first: {gaps.argmax()})"
            lacks = f"column '{name}' of split '{source}' has no value in {count}"
            if name == wanted:
                raise UserError(f"{lacks}. Fill or remove these rows, or name another column with --data.label.")
            notes.append(f"{lacks}; it is not used there")
        else:
            complete[name] = values
    return complete, tuple(notes)


def _unseen(tasks: Mapping[str, Task], train: str, source: str) -> tuple[str, ...]:
    """Notes on classes that a split has and the training split lacks."""
    notes = []
    for name, task in tasks.items():
        if source in task.values and train in task.values:
            extra = np.setdiff1d(task.values[source], [*task.values[train], MISSING])
            if len(extra):
                some = ", ".join(f"'{task.classes[label]}'" for label in extra[:3])
                notes.append(f"{len(extra)} classes of '{name}' in split '{source}' are not in '{train}': {some}")
    return tuple(notes)
