"""What representations kept, as pictures: the grid of the paper's Figure 5, and strips of what edits of h change.

A picture stands at the left of its row; beside it, for every encoder, samples of its h. No tile's contrast is stretched, as the
published code does to each by itself: colours can be compared.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from torch import Tensor

from wingspan.canvas import INK, short, styles
from wingspan.collage import MARGIN, NARROWEST, Pixels, Sheet, letters, rgb
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.kept import Drawing
from wingspan.taus import in_order

# what stays readable: pictures, samples of each, and encoders before seeds are left out of a grid; tiles in a strip
PICTURES, SAMPLES, ENCODERS, TILES = 20, 8, 8, 32
WARNING = "under-trained: do not read"
READING = "Constant across samples of one h = kept; varying = not kept."
_TILE, _SMALLEST = 128, 48  # pixels that an image is enlarged to: at most about so many, and at least
_WIDEST = 3200
_GAP, _APART, _LINE = 2, 22, 26  # pixels between tiles, between blocks, and of a line of text
_ROOM, _LABELLED, _CAPTIONED = (
    166,
    110,
    96,
)  # the least width of a block, a picture and a strip's tile, for what is written there
_WARN, _FAINT = "#a33a00", "#6d747d"
_HEAT = "magma"


def draw(drawing: Drawing, file: Path, spread: bool = True) -> None:
    """Write a PNG of at most `PICTURES` pictures, those of the data set first, and `SAMPLES` samples of each an encoder.

    Groups stand beside each other, encoders from narrow to wide, the references last; where they are too wide for one sheet
    they go on below. Of more than `ENCODERS` only the lowest seed of each group and D is shown. What is left out is told.
    spread: with every block a map of the samples' standard deviation in each pixel (root of the mean variance of the three
    channels), on one scale for the whole figure. Raises UserError when the file cannot be written.
    """
    tiles, sheet = drawing.tiles, Sheet()
    order = sorted(range(len(tiles.names)), key=lambda row: not tiles.own[row])[:PICTURES]
    encoders = _shown(drawing.encoders)
    count = next(iter(tiles.samples.values())).shape[1]
    top = _top(tiles.samples.values(), order) if spread and count > 1 else 0.0
    kept = min(count, SAMPLES)
    side, columns = int(tiles.pictures.shape[-1]), kept + bool(top)
    zoom = _zoom(side, len(encoders) * columns + 1, len(encoders) * _APART)
    size, blocks = side * zoom, []
    for encoder, heading in _headed(encoders):
        mine = tiles.samples[encoder.name][order]
        blocks.append(_Block(encoder, heading, mine[:, :kept], _deviation(mine) if top else None, top))
    bands = list(_bands(blocks, size))
    width = max(sum(block.width(size) + _APART for block in band) for band in bands) + max(size, _LABELLED)
    limits = (
        (len(order), len(tiles.names), "pictures"),
        (kept, count, "samples"),
        (len(encoders), len(drawing.encoders), "encoders, by their lowest seeds"),
    )
    left_out = [f"{shown} of {of} {things}" for shown, of, things in limits if shown < of]
    y = _head(sheet, drawing, max(width, NARROWEST), kept, left_out, top)
    for band in bands:
        y = _band(sheet, drawing, band, order, zoom, y) + 2 * _APART
    sheet.save(file)


@dataclass(frozen=True)
class Strip:
    """One row: a picture, what was made of it or on the way from it, and the picture where that leads."""

    label: str
    left: Tensor | None  # (3, S, S) uint8
    tiles: Tensor  # (T, 3, S, S) uint8
    captions: Sequence[str] = ()  # one a tile, or none
    right: Tensor | None = None  # (3, S, S) uint8


def strip(rows: Sequence[Strip], title: str, file: Path) -> None:
    """Write a PNG of rows of tiles, each below its label. Of more than `TILES` tiles as many are taken at equal distances.

    Raises UserError when the file cannot be written.
    """
    sheet = Sheet()
    longest, side = max(len(row.tiles) for row in rows), int(rows[0].tiles.shape[-1])
    zoom = _zoom(side, min(longest, TILES) + 2, 2 * _APART, _CAPTIONED)
    size = side * zoom
    first = MARGIN + (size + _APART if any(row.left is not None for row in rows) else 0)
    room = max(NARROWEST, first + (min(longest, TILES) + 1) * (size + _GAP) + _APART) - MARGIN
    y = sheet.lines(MARGIN, 18, title, 12, room, weight="bold") + 6
    if longest > TILES:
        y = sheet.lines(MARGIN, y, f"{TILES} of {longest} tiles, at equal distances.", 8, room)
    for row in rows:
        y, deepest = sheet.lines(MARGIN, y + 8, row.label, 8, room) + 2, 0
        chosen = np.linspace(0, len(row.tiles) - 1, min(len(row.tiles), TILES)).round().astype(int).tolist()
        for place, at in enumerate(chosen):
            left = first + place * (size + _GAP)
            sheet.image(left, y, row.tiles[at], zoom)
            lines = textwrap.wrap(row.captions[at], letters(size, 6)) if row.captions else []
            for line, text in enumerate(lines):
                sheet.write(left, y + size + 4 + 17 * line, text, 6, _FAINT)
            deepest = max(deepest, len(lines))
        for left, picture in ((MARGIN, row.left), (first + len(chosen) * (size + _GAP) + _APART, row.right)):
            if picture is not None:
                sheet.image(left, y, picture, zoom)
        y += size + 9 + 17 * deepest
    sheet.save(file)


# ------------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Block:
    """What stands below one encoder's heading."""

    encoder: Encoder
    heading: str
    tiles: Tensor  # (P, s, 3, S, S) uint8
    deviation: Tensor | None  # (P, S, S), where it is shown
    top: float

    @property
    def group(self) -> str:
        return "references" if self.encoder.reference else self.encoder.group

    def width(self, size: int) -> int:
        maps = size + 4 * _GAP if self.top else 0
        return max(_ROOM, self.tiles.shape[1] * (size + _GAP) - _GAP + maps)


def _shown(encoders: Sequence[Encoder]) -> list[Encoder]:
    """All, or where they are too many those that no lower seed stands beside."""
    least = {(encoder.group, encoder.D): encoder.seed for encoder in sorted(encoders, key=lambda each: -each.seed)}
    few = len([each for each in encoders if not each.reference]) <= ENCODERS
    return [each for each in encoders if few or each.reference or each.seed == least[each.group, each.D]]


def _headed(encoders: Sequence[Encoder]) -> Iterator[tuple[Encoder, str]]:
    """In order, with what their headings say."""
    for encoder in in_order(encoders):
        alike = [each for each in encoders if (each.group, each.D) == (encoder.group, encoder.D)]
        told = encoder.name if encoder.reference else f"D = {encoder.D:,}"
        if len(alike) > 1:  # by seed, or where that is the same by what else its name says
            told = f"{told}, seed {encoder.seed}" if len({each.seed for each in alike}) == len(alike) else encoder.name
        yield encoder, told


def _bands(blocks: Sequence[_Block], size: int) -> Iterator[list[_Block]]:
    """Blocks that stand beside each other: whole groups where they fit."""
    room, used = _WIDEST - max(size, _LABELLED) - 2 * MARGIN, 0
    held: list[_Block] = []
    for at, block in enumerate(blocks):
        begins = at == 0 or blocks[at - 1].group != block.group
        needed = sum(b.width(size) + _APART for b in blocks if b.group == block.group) if begins else block.width(size) + _APART
        if held and used + needed > room:
            yield held
            held, used = [], 0
        held, used = [*held, block], used + block.width(size) + _APART
    yield held


def _zoom(side: int, tiles: int, apart: int, smallest: int = _SMALLEST) -> int:
    """The whole number that images are enlarged by: as large as one sheet allows."""
    least, most = max(1, -(-smallest // side)), max(1, _TILE // side)
    fits = (zoom for zoom in range(most, least, -1) if tiles * (side * zoom + _GAP) + apart <= _WIDEST - 2 * MARGIN - _ROOM)
    return next(fits, least)


def _deviation(samples: Tensor) -> Tensor:
    """Samples (P, s, 3, S, S) uint8 -> their standard deviation in each pixel (P, S, S), of values 0..1."""
    return (samples.float() / 255).var(1).mean(1).sqrt()


def _top(samples: Iterable[Tensor], order: Sequence[int]) -> float:
    """The common scale's end: the largest deviation of all, to the next twentieth."""
    return max(0.05, math.ceil(max(float(_deviation(each[order]).max()) for each in samples) * 20) / 20)


def _head(sheet: Sheet, drawing: Drawing, width: int, samples: int, left_out: Sequence[str], top: float) -> int:
    """Title, how to read it, legend and what was left out; returns where the first band begins."""
    title = f"What was kept: {drawing.data} · rung {drawing.rung} · preset {drawing.preset}"
    y = sheet.lines(MARGIN, 18, title, 12, width, weight="bold") + 6
    told = READING
    if drawing.rung != "samples":
        told = (
            f"One picture of each h, by the {drawing.rung}: what it shows is kept; what it lacks, this rung found no trace of."
        )
    elif samples > 1:
        told += " The same noise went into column k of every block. τ: 1 = h fixes the picture, 0 = it says nothing of it."
    y = sheet.lines(MARGIN, y, told, 8, width)
    if top:
        y = sheet.lines(MARGIN + 340, y, "std: standard deviation across samples, one scale for all", 8, width)
        sheet.write(MARGIN, y - _LINE, "0", 8)
        sheet.paste(MARGIN + 24, y - _LINE + 3, np.tile(_heat(np.linspace(0, 1, 220)), (15, 1, 1)))
        sheet.write(MARGIN + 252, y - _LINE, f"{top:.2f}", 8)
    if left_out:
        y = sheet.lines(MARGIN, y, f"Shown are {', '.join(left_out)}.", 8, width)
    return y + 14


def _band(sheet: Sheet, drawing: Drawing, band: Sequence[_Block], order: Sequence[int], zoom: int, y: int) -> int:
    """Headings, then a row a picture; returns where it ends."""
    tiles, size = drawing.tiles, int(drawing.tiles.pictures.shape[-1]) * zoom
    lefts, x = [], MARGIN + max(size, _LABELLED) + _APART
    for block in band:
        lefts.append(x)
        x += block.width(size) + _APART
    below = _headings(sheet, drawing, band, lefts, size, y)
    parts = [(own, [row for row in order if tiles.own[row] == own]) for own in (True, False)]
    pitch = size + _LINE
    for part, (own, rows) in enumerate((own, rows) for own, rows in parts if rows):
        if not own:
            sheet.write(MARGIN, below + 12 * part, "from outside the data set", 7, weight="bold")
            below += _LINE + 12 * part
        for block, left in zip(band, lefts, strict=True):
            if _warned(drawing, block.encoder):
                sheet.frame(left - 6, below - 6, block.width(size) + 12, len(rows) * pitch - _LINE + _GAP + 12, _WARN)
        for row in rows:
            sheet.image(MARGIN, below, tiles.pictures[row], zoom)
            sheet.write(MARGIN, below + size + 4, short(tiles.names[row], letters(max(size, _LABELLED), 6)), 6, _FAINT)
            for block, left in zip(band, lefts, strict=True):
                _row(sheet, block, order.index(row), left, below, zoom)
            below += pitch
    return below


def _row(sheet: Sheet, block: _Block, row: int, left: int, y: int, zoom: int) -> None:
    """One picture's samples by one encoder, and their map."""
    size = int(block.tiles.shape[-1]) * zoom
    for tile in block.tiles[row]:
        sheet.image(left, y, tile, zoom)
        left += size + _GAP
    if block.deviation is not None:
        heat = _heat((block.deviation[row] / block.top).numpy())
        sheet.paste(left + 3 * _GAP, y, heat.repeat(zoom, 0).repeat(zoom, 1))


def _headings(sheet: Sheet, drawing: Drawing, band: Sequence[_Block], lefts: Sequence[int], size: int, y: int) -> int:
    """Above each group its name, above each block its width, number and warning; returns where tiles begin."""
    hues = styles({block.group: block.group for block in band if not block.encoder.reference})
    for group in dict.fromkeys(block.group for block in band):
        mine = [(left, left + block.width(size)) for block, left in zip(band, lefts, strict=True) if block.group == group]
        across = mine[-1][1] - mine[0][0]
        colour = hues[group].colour if group in hues else INK
        sheet.write(mine[0][0], y, short(group, letters(across, 10)), 9, colour, weight="bold")
        sheet.paste(mine[0][0], y + 27, np.broadcast_to(rgb(colour), (2, across, 3)))
    y, deepest = y + 36, 0
    for block, left in zip(band, lefts, strict=True):
        room = block.width(size)
        sheet.write(left, y, short(block.heading, letters(room, 8)), 7.5, weight="bold")
        sheet.write(left, y + 23, _number(drawing, block.encoder, letters(room, 7)), 7)
        lines = textwrap.wrap(WARNING, letters(room, 6.5)) if _warned(drawing, block.encoder) else []
        for at, line in enumerate(lines):
            sheet.write(left, y + 45 + 19 * at, line, 6.5, _WARN, weight="bold")
        if block.top:
            place = left + block.tiles.shape[1] * (size + _GAP) + 3 * _GAP
            sheet.write(place + size, y + 23, "std", 6, _FAINT, ha="right")
        deepest = max(deepest, len(lines))
    return y + 50 + 19 * deepest + (8 if deepest else 0)


def _number(drawing: Drawing, encoder: Encoder, room: int) -> str:
    kept = drawing.number(encoder.name, "pixels", "tau" if drawing.rung == "samples" else "r2", drawing.rung)
    if kept is None or not math.isfinite(kept.value):
        return "–"
    said = f"{'τ' if kept.metric == 'tau' else 'R²'} {kept.value:.2f}"
    longer = f"{said} ({kept.low:.2f} to {kept.high:.2f})"
    return longer if len(longer) + 6 <= room and math.isfinite(kept.low + kept.high) else said


def _warned(drawing: Drawing, encoder: Encoder) -> bool:
    return "pixels" in drawing.untrusted.get(encoder.name, {})


def _heat(values: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> Pixels:
    found: Pixels = matplotlib.colormaps[_HEAT](values, bytes=True)[..., :3]
    return found
