"""What a search found, as a picture: a row a query, its neighbours beside it by rank."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wingspan.canvas import INK, LIGHT, context, short
from wingspan.pictures import pixels_of
from wingspan.retrieval import Found
from wingspan.runs import write_atomic

ROWS, COLUMNS = 20, 20  # queries and neighbours that stay readable
SAME = LIGHT[1]  # the colour of a neighbour of its query's class
_DPI = 160
_TILE, _LARGEST = 128, 160  # pixels that an image is enlarged to, about; and shrunk to, where it is larger than that
_MARGIN, _GAP, _APART, _BAND, _FRAME = 24, 16, 40, 10, 4
_HEAD, _TEXT = 138, 62  # above the first row, and below an image
_LEAST = 1120  # of width, for the title
_FAINT, _SHADE, _EDGE = "#6d747d", 240, 215

Pixels = npt.NDArray[np.uint8]


def draw(found: Found, file: Path) -> None:
    """Write a PNG of the first `ROWS` queries and `COLUMNS` neighbours of each.

    The query stands at the left; below an image are its class, its distance and its row. A neighbour of the query's class has a
    frame and a tick. Images up to 160 pixels are enlarged by a whole number, pixel by pixel.

    Raises UserError when the images are gone, or when the file cannot be written.
    """
    rows, columns = min(len(found.queries), ROWS), min(found.neighbours.indices.shape[1], COLUMNS)
    tiles = _tiles(found, rows, columns)
    side = tiles.shape[2]
    right, bottom = place(columns + 1, rows, side)
    width, height = max(_LEAST, right - _GAP + _MARGIN), bottom - _GAP + _MARGIN
    sheet = np.full((height, width, 3), 255, np.uint8)
    with context():
        # a hundredth of a pixel more, so that rounding never takes one away
        figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI, facecolor="white")
        page = _Page(figure, width, height)
        _head(page, found, columns, side)
        for row in range(rows):
            for column in range(columns + 1):
                left, top = place(column, row, side)
                if not column:
                    sheet[top - _BAND : top + side + _TEXT, left - _BAND : left + side + _BAND] = _SHADE
                else:
                    same = found.same(row, column - 1)
                    wide = _FRAME if same else 1
                    frame = slice(top - wide, top + side + wide), slice(left - wide, left + side + wide)
                    sheet[frame] = tuple(bytes.fromhex(SAME[1:])) if same else _EDGE
                sheet[top : top + side, left : left + side] = tiles[row, column]
                _caption(page, found, row, column, side)
        figure.figimage(sheet, zorder=-1)
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomic(file, held.getvalue())


def place(column: int, row: int, side: int) -> tuple[int, int]:
    """Left and top of an image in pixels, `side` being its side there; column 0 is the query, 1 its nearest neighbour."""
    left = _MARGIN + _BAND + column * (side + _GAP) + (_APART if column else 0)
    return left, _HEAD + row * (side + _TEXT + _GAP)


class _Page:
    """Text on a figure, at pixels from its left and top."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height

    def write(
        self, x: float, y: float, text: str, size: float, colour: str = INK, ha: str = "left", weight: str = "normal"
    ) -> None:
        at = x / self.width, 1 - y / self.height
        self.figure.text(*at, text, fontsize=size, color=colour, ha=ha, va="top", fontweight=weight)


def _head(page: _Page, found: Found, columns: int, side: int) -> None:
    about, M = found.store.manifest, len(found.queries)
    title = f"{found.store.path.absolute().name}: nearest of {len(found.store.part(found.split)):,} {found.split} images"
    far = "%: bits that differ" if found.by == "hamming" else "cosine similarity"
    told = [
        f"{about.layer} of {about.model.name} at step {about.model.step}",
        f"D = {about.width:,}",
        about.format,
        far,
        f"#: row of {found.split}",
    ]
    page.write(_MARGIN, 18, short(title, page.width // 17), 12, weight="bold")
    page.write(_MARGIN, 53, short(" · ".join(told), page.width // 10), 8)
    below = []
    agreement = found.agreement()
    if agreement:
        share = f"{agreement.same:,} of {agreement.of:,} neighbours, chance {agreement.chance:.1%}"
        below.append(f"✓ the query's class ({found.task}): {share}")
    if M > ROWS:
        below.append(f"the first {ROWS} of {M:,} queries")
    if found.neighbours.indices.shape[1] > columns:
        below.append(f"the first {columns} of {found.neighbours.indices.shape[1]:,} neighbours")
    page.write(_MARGIN, 78, short(" · ".join(below), page.width // 10), 8, SAME if agreement else INK)
    for column in range(columns + 1):
        left, top = place(column, 0, side)
        page.write(left + side / 2, top - 29, str(column) if column else "query", 7, _FAINT, ha="center")


def _caption(page: _Page, found: Found, row: int, column: int, side: int) -> None:
    left, top = place(column, row, side)
    first, second = top + side + 9, top + side + 32
    room = side // 10 + 1  # letters
    if not column:
        query = found.queries[row]
        label = found.label(query.split, query.row)
        name = query.name if query.split else Path(query.name).name
        if label is not None:
            page.write(left, first, short(label, room), 7)
            page.write(left, second, short(name, room), 6.5, _FAINT)
        else:
            page.write(left, first, short(name, room), 7)
        return
    at = int(found.neighbours.indices[row, column - 1])
    label, same = found.label(found.split, at), found.same(row, column - 1)
    if label is not None:
        page.write(left, first, short(f"✓ {label}" if same else label, room), 7, SAME if same else INK)
    line = first if label is None else second
    page.write(left, line, found.distance(row, column - 1), 6.5)
    page.write(left + side, line, f"#{at}", 6.5, _FAINT, ha="right")


def _tiles(found: Found, rows: int, columns: int) -> Pixels:
    """(rows, 1 + columns, side, side, 3): every query and its neighbours at the side they are drawn at."""
    nearest = found.neighbours.indices[:rows, :columns]
    searched = found.store.images(found.split).images
    neighbours = searched.batch(nearest.flatten()).unflatten(0, nearest.shape)
    loaded = {found.split: searched}
    asked: list[Tensor] = []
    for query in found.queries[:rows]:
        if query.split and query.split not in loaded:
            loaded[query.split] = found.store.images(query.split).images
        asked.append(
            loaded[query.split].batch(torch.tensor([query.row]))[0] if query.split else pixels_of(found.store, query.name)
        )
    pixels = torch.cat([torch.stack(asked).unsqueeze(1), neighbours], 1).movedim(2, -1).numpy()
    side = pixels.shape[2]
    if side > _LARGEST:
        small = [Image.fromarray(each).resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS) for each in _flat(pixels)]
        return np.stack([np.asarray(each) for each in small]).reshape(rows, 1 + columns, _LARGEST, _LARGEST, 3)
    zoom = max(1, round(_TILE / side))
    return pixels.repeat(zoom, 2).repeat(zoom, 3)


def _flat(pixels: Pixels) -> Pixels:
    return pixels.reshape(-1, *pixels.shape[2:])
