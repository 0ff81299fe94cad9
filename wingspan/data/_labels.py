"""Columns of a table -> tasks and quantities: label values 0..C-1 with class names that mean the same in every split, and
numbers to regress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wingspan.errors import UserError, nearest

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
TARGETS = ("label", "labels", "class", "category", "fine_label", "target", "cls", "classes", "class_name", "label_name")
MISSING = -1
LONGEST, ALL = 1000, 4_000_000  # characters of a class name, bytes of all of a column: beyond these it is text, not classes
Floats = npt.NDArray[np.float32]  # (N,), NaN where there is no number


@dataclass(frozen=True)
class Task:
    """One label column over all splits."""

    classes: tuple[str, ...]
    values: Mapping[str, npt.NDArray[np.int64]]  # split -> (N,), MISSING where there is none


@dataclass(frozen=True)
class Column:
    """One column of one split: the class names found, in natural order, and the index of every row's own."""

    kind: str  # names | numbers | words
    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]  # (N,)
    crowded: bool  # more than half as many values as rows: an id or a path, not a class
    text: str = ""  # how much of it there is, where it is too long for class names; then there are no names


def described(rows: Any) -> str:
    """`image (Image), label (int64)`"""
    return ", ".join(f"{name} ({_type(feature)})" for name, feature in rows.features.items())


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return "struct"
    return "Image" if _is(feature, "Image") else str(getattr(feature, "dtype", None) or type(feature).__name__)


def _is(feature: Any, kind: str) -> bool:
    return type(feature).__name__ == kind


def image_column(rows: Any, wanted: str, place: str) -> tuple[str, tuple[str, ...]]:
    """The column that holds images, and notes. Raises UserError listing the columns found."""

    def holds_images(feature: Any) -> bool:
        coded = isinstance(feature, dict) and {"bytes", "path"} >= set(feature) and "bytes" in feature
        return _is(feature, "Image") or coded or getattr(feature, "dtype", "") in ("binary", "large_binary")

    images = [name for name, feature in rows.features.items() if holds_images(feature)]
    if wanted:
        if wanted not in rows.features:
            raise UserError(f"no column '{wanted}' in {place}.{nearest(wanted, rows.features)} Found: {described(rows)}.")
        if wanted not in images:
            raise UserError(
                f"column '{wanted}' in {place} holds {_type(rows.features[wanted])}, not images. Found: {described(rows)}."
            )
        return wanted, ()
    if not images:
        raise UserError(f"no image column in {place}. Found: {described(rows)}.")
    chosen = next((name for name in IMAGES if name in images), images[0])
    others = ", ".join(f"'{name}'" for name in images if name != chosen)
    notes = (f"images are read from column '{chosen}'; {others} hold images too (--data.image)",) if others else ()
    return chosen, notes


def read_columns(
    tables: Mapping[str, Any], image: str, wanted: str
) -> tuple[dict[str, Task], dict[str, dict[str, Floats]], tuple[str, ...]]:
    """Every column of classes in `tables` (split -> datasets.Dataset), every one of floats (name -> split -> numbers), and
    notes on the columns left out.

    Class lists are those of all splits together, so that a label means the same in each. Columns with more than half as
    many values as there are rows are taken for ids and left out, unless `wanted` names one. Raises UserError for a
    wrong `wanted`.
    """
    names = list(dict.fromkeys(name for rows in tables.values() for name in rows.features if name != image))
    if wanted and wanted not in names:
        held = "; ".join(f"{split}: {described(rows)}" for split, rows in tables.items())
        raise UserError(f"no label column '{wanted}'.{nearest(wanted, names) if names else ''} Found in {held}.")
    tasks: dict[str, Task] = {}
    quantities: dict[str, dict[str, Floats]] = {}
    left_out: list[str] = []
    for name in names:
        if name.startswith("__"):  # WebDataset's own
            continue
        found = {split: _column(rows, name) for split, rows in tables.items() if name in rows.features}
        columns = {split: column for split, column in found.items() if isinstance(column, Column)}
        numbers = {split: column for split, column in found.items() if isinstance(column, np.ndarray)}
        if len(columns) < len(found):
            kind = _type(next(rows.features[name] for rows in tables.values() if name in rows.features))
            if name == wanted:
                raise UserError(f"column '{name}' holds {kind}, not classes: whole numbers, text or true/false are needed.")
            if len(numbers) == len(found):
                quantities[name] = numbers
            else:
                left_out.append(f"{name} ({kind})")
        elif text := next((column.text for column in columns.values() if column.text), ""):
            if name == wanted:
                raise UserError(f"column '{name}' holds {text}: no class names. Name another column with --data.label.")
            left_out.append(f"{name} ({text})")
        elif name != wanted and any(column.crowded for column in columns.values()):
            left_out.append(f"{name} (nearly a value an image)")
        else:
            tasks[name] = _united(columns)
    return tasks, quantities, (f"columns not used as labels: {', '.join(left_out)}",) if left_out else ()


def guess_target(tasks: Mapping[str, Task], wanted: str) -> tuple[str | None, tuple[str, ...]]:
    """The task that supervised training learns, and notes."""
    lower = {name.lower(): name for name in reversed(list(tasks))}
    guessed = (
        wanted or next((lower[name] for name in TARGETS if name in lower), "") or (next(iter(tasks)) if len(tasks) == 1 else "")
    )
    if guessed:
        return guessed, ()
    if not tasks:
        return None, ("no label column: the images are read without labels",)
    return None, (f"several label columns and no telling which is the target: {', '.join(tasks)} (--data.label)",)


def _column(rows: Any, name: str) -> Column | Floats | None:
    """Classes; numbers with NaN where there is none, too large for fp32 included; None when the column holds neither."""
    import pyarrow as pa
    import pyarrow.compute as pc

    feature = rows.features[name]
    values = rows.select_columns([name]).with_format("arrow")[:].column(0)  # in chunks: a string array ends at 2 GB
    if _is(feature, "ClassLabel"):
        if text := _too_long(pa.array(feature.names, pa.large_string())):
            return Column("names", (), np.empty(0, np.int64), False, text)
        codes = pc.fill_null(values, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
        return Column("names", tuple(feature.names), codes, crowded=False)
    if pa.types.is_boolean(values.type):
        codes = pc.fill_null(pc.cast(values, pa.int64()), MISSING).to_numpy(zero_copy_only=False)
        return Column("names", ("False", "True"), codes, crowded=False)
    if pa.types.is_floating(values.type):
        with np.errstate(over="ignore"):
            numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
        return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))
    number = pa.types.is_integer(values.type)
    if not (number or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return None
    unique = pc.unique(values)
    if text := "" if number else _too_long(unique):
        return Column("words", (), np.empty(0, np.int64), False, text)
    classes = sorted(value for value in unique.to_pylist() if value is not None)
    codes = pc.fill_null(pc.index_in(values, pa.array(classes, values.type)), MISSING).to_numpy(zero_copy_only=False)
    crowded = len(classes) > max(1, len(values) // 2)
    return Column("numbers" if number else "words", tuple(map(str, classes)), codes.astype(np.int64), crowded)


def _too_long(names: Any) -> str:
    """How much text a pyarrow array of names holds, where that is more than class names could be; else nothing."""
    import pyarrow.compute as pc

    sizes = pc.binary_length(names)
    total, longest = pc.sum(sizes).as_py() or 0, pc.max(sizes).as_py() or 0
    if longest <= LONGEST and total <= ALL:
        return ""
    return f"{total / 1e6:.1f} MB of text, a value of up to {longest:,} bytes"


def _united(columns: Mapping[str, Column]) -> Task:
    kinds = {column.kind for column in columns.values()}
    every = list(dict.fromkeys(name for column in columns.values() for name in column.names))
    if kinds == {"numbers"}:
        every.sort(key=int)
    elif kinds == {"words"}:
        every.sort()
    index = {name: label for label, name in enumerate(every)}
    values = {}
    for split, column in columns.items():
        moved = np.array([*(index[name] for name in column.names), MISSING])  # [-1] is MISSING
        values[split] = moved[np.where(column.codes < 0, MISSING, column.codes)]
    return Task(tuple(every), values)
