"""A store's features in the forms that other tools read: a file of this folder is a tool, and its name the word for `--to`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wingspan.errors import UserError, nearest
from wingspan.handover import faiss, npy, parquet, pgvector
from wingspan.handover._content import Content
from wingspan.store.manifest import Manifest
from wingspan.store.store import Part

To = Literal["parquet", "npy", "faiss", "pgvector"]
_WAYS = {"parquet": parquet.write, "npy": npy.write, "faiss": faiss.write, "pgvector": pgvector.write}


def hand_over(
    part: Part,
    manifest: Manifest,
    to: To,
    out: Path,
    *,
    column: Literal["binary", "list"] = "binary",
    codes: bool = False,
) -> list[Path]:
    """Write one split for another tool; the files made. docs/handover.md shows how each tool reads them.

    A packed store gives its codes (N, ceil(D / 8)) uint8; fp16 and sparse give h (N, D) in fp16, or with `codes` the bits
    h > threshold. `out` is a file, for pgvector the folder for two. `column` is the form of Parquet's codes: fixed-size binary,
    or a list of uint8. Memory holds a block of rows, and every file appears when all are whole.

    Raises UserError when a file exists, the disk is full, faiss is not installed, D is beyond what pgvector takes, or
    `column="list"` is asked of what has no such column.
    """
    if to not in _WAYS:
        raise UserError(f"--to '{to}': no such tool.{nearest(to, _WAYS)}")
    content = Content(part, manifest, codes or part.format == "packed")
    if column == "list":
        if to != "parquet" or not content.packed:
            what = "of codes, and this store holds values" if to == "parquet" else f"of Parquet, not of {to}"
            raise UserError(f"--column list is a form {what}: leave it out.")
        return parquet.write(content, out, column="list")
    return _WAYS[to](content, out)
