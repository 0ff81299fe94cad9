"""The table of classes in ImageNet's development kit, `meta.mat`: MATLAB's level 5 files, as far as it takes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from wingspan.errors import UserError

HEADER, COMPRESSED, MATRIX = 128, 15, 14
STRUCT, CHAR = 2, 4  # classes of arrays
WIDTHS = {
    1: "b",
    2: "B",
    3: "h",
    4: "H",
    5: "i",
    6: "I",
    7: "f",
    9: "d",
    12: "q",
    13: "Q",
    16: "B",
}  # element types; 16 is UTF-8


def ilsvrc_ids(file: Path) -> dict[int, str]:
    """ILSVRC2012_ID (1 to 1000: the leaves, in an order of their own) -> WNID such as n02119789.

    Raises UserError when the file is no such table.
    """
    try:
        data = file.read_bytes()
        for kind, body in _elements(data[HEADER:]):
            inner, array = next(_elements(zlib.decompress(body))) if kind == COMPRESSED else (kind, body)
            if inner == MATRIX and (found := _ids(array)):
                return found
        raise ValueError("no array of structs with the fields ILSVRC2012_ID and WNID")
    except (OSError, ValueError, KeyError, IndexError, StopIteration, struct.error, zlib.error) as error:
        raise UserError(f"cannot read ImageNet's classes from '{file}': {error}. Unpack the development kit anew.") from error


def _ids(body: bytes) -> dict[int, str]:
    parts = list(_elements(body))
    if parts[0][1][0] != STRUCT:
        return {}
    length = struct.unpack("<i", parts[3][1][:4])[0]
    text = parts[4][1]
    names = [text[at : at + length].split(b"\0")[0].decode() for at in range(0, len(text), length)]
    if not {"ILSVRC2012_ID", "WNID"} <= set(names):
        return {}
    cells = [cell for _, cell in parts[5:]]  # field by field of the first struct, then of the second, ...
    number, wnid = names.index("ILSVRC2012_ID"), names.index("WNID")
    return {int(_value(cells[start + number])): str(_value(cells[start + wnid])) for start in range(0, len(cells), len(names))}


def _value(body: bytes) -> str | float:
    """A text, or the first of an array's numbers."""
    parts = list(_elements(body))
    kind, content = parts[3]
    code = WIDTHS[kind]
    values = struct.unpack(f"<{len(content) // struct.calcsize(code)}{code}", content)
    return "".join(map(chr, values)) if parts[0][1][0] == CHAR else values[0]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each element. Small ones keep their content in the tag; others are padded to 8 bytes."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        if at + 8 + size > len(data):
            raise ValueError("the file is cut short")
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + (0 if kind == COMPRESSED else -size % 8)
