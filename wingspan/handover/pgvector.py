"""A table for PostgreSQL, 14 or newer: codes need nothing else, and pgvector's operators and indices take them too."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from wingspan.errors import UserError
from wingspan.handover._content import Column, Content, whole

_DIMENSIONS = 16_000  # of pgvector's halfvec
_INDEXED_BITS, _INDEXED_HALVES = 64_000, 4_000  # of its HNSW indices
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def write(content: Content, out: Path) -> list[Path]:
    """OUT/NAME.sql, which makes the table and fills it from OUT/NAME.copy beside it; NAME is the folder's.

    `code` is bit(D), its leftmost bit h[0] > threshold. `h` is halfvec(D), pgvector's vector of fp16.
    Raises UserError for h beyond halfvec's 16,000 dimensions, and for an `out` that is meant as a file.
    """
    if out.suffix == ".sql":
        raise UserError(f"--out {out}: two files are written, {out.name} and what fills the table; give a folder, {out.stem}.")
    if not content.packed and content.width > _DIMENSIONS:
        raise UserError(
            f"pgvector holds at most {_DIMENSIONS:,} dimensions, and h has D = {content.width:,}. Hand over codes: extract the "
            "features with --format packed, which PostgreSQL takes at any width."
        )
    name = out.resolve().name
    script, data = out / f"{name}.sql", out / f"{name}.copy"
    with whole(script, data) as (first, second):
        first.write(_script(content, re.sub(r"\W", "_", name).lower(), data.name).encode())
        for at, features in content.blocks(f"writing {data}"):
            known = [_texts(each, at) for each in content.columns]
            vectors = _bits(features, content.width) if content.packed else _halves(features)
            for row in zip(*known, vectors, strict=True):
                second.write(("\t".join(row) + "\n").encode())
    return [script, data]


def _script(content: Content, table: str, data: str) -> str:
    D = content.width
    if content.packed:
        extension, vector = "", f'"code" bit({D})'
        index = f'"{table}" USING hnsw ("code" bit_hamming_ops)' if D <= _INDEXED_BITS else ""
    else:
        extension, vector = "CREATE EXTENSION IF NOT EXISTS vector;\n", f'"h" halfvec({D})'
        index = f'"{table}" USING hnsw ("h" halfvec_cosine_ops)' if D <= _INDEXED_HALVES else ""
    columns = [f"{_quoted(each.name)} {_type(each)}" for each in content.columns]
    listed = ",\n".join(f"    {column}" for column in [*columns, f"{vector} NOT NULL"])
    facts, data = (text.replace("'", "''") for text in (json.dumps(content.facts), data))
    return (
        "-- In this file's folder: psql -d DATABASE -f this file. All of it happens, or nothing.\n"
        f'\\set ON_ERROR_STOP on\n\\encoding UTF8\nBEGIN;\n{extension}CREATE TABLE "{table}" (\n{listed}\n);\n'
        f"COMMENT ON TABLE \"{table}\" IS '{facts}';\n"
        f'\\copy "{table}" FROM \'{data}\'\nCOMMIT;\nANALYZE "{table}";\n'
        + (f"-- With pgvector, for approximate search: CREATE INDEX ON {index};\n" if index else "")
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _type(column: Column) -> str:
    if column.classes is not None or not isinstance(column.values, Tensor):
        return "text"
    if column.values.is_floating_point():
        return "real"
    return "bigint NOT NULL" if column.name == "id" else "integer"


def _texts(column: Column, at: slice) -> list[str]:
    """Values as COPY's text format writes them."""
    values = column.values[at]
    if not isinstance(values, Tensor):
        return ["\\N" if text is None else text.translate(_ESCAPES) for text in values]
    if column.classes is not None:
        names = [name.translate(_ESCAPES) for name in column.classes]
        return [names[label] for label in values.tolist()]
    return [f"{number:.9g}" for number in values.tolist()] if values.is_floating_point() else list(map(str, values.tolist()))


def _bits(codes: Tensor, width: int) -> Iterable[str]:
    """bit_in takes hexadecimal digits of four bits each; a width that is no multiple of four is written in zeros and ones."""
    rows = codes.numpy()
    if width % 4 == 0:
        return ("x" + row.tobytes().hex()[: width // 4] for row in rows)
    return ((np.unpackbits(row)[:width] + ord("0")).tobytes().decode() for row in rows)


def _halves(h: Tensor) -> Iterable[str]:
    texts = _numbers()
    return (f"[{','.join([texts[number] for number in row.tolist()])}]" for row in h.numpy().view(np.uint16))


@functools.cache
def _numbers() -> Sequence[str]:
    """All 65,536 numbers of fp16, in the five digits that tell them apart."""
    return [f"{number:.5g}" for number in np.arange(2**16).astype(np.uint16).view(np.float16).tolist()]
