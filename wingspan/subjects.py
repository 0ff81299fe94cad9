"""The images of a drawing: a data set at the side that is drawn, and the pictures whose representations are shown.

Encoders are shown the whole square of an image, resized (`augment.plain`), also where images are stored larger than training
sees them; so what is drawn is the whole square too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan.chance import generator
from wingspan.data._decode import BrokenImageError, Fit, decode
from wingspan.data._source import PICTURES
from wingspan.data.base import Data, Images, ImageSet, InMemory
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.progress import bar, tell
from wingspan.rcdm.encoders import Subject
from wingspan.rcdm.pictures import Pictures
from wingspan.rcdm.settings import PRESETS
from wingspan.rcdm.shrunk import Shrunk, masks_of, shrunk

_HELD = 2 * 2**30  # bytes of a shrunk split up to which it lies in memory
_AT_ONCE = 512
_SMALLEST = 16  # pixels a side that decoders draw


@dataclass(frozen=True)
class _Some:
    """Some rows of images."""

    images: Images
    rows: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        return self.images.side

    def batch(self, indices: Tensor) -> Tensor:
        return self.images.batch(self.rows[indices])


def limited(images: ImageSet, rows: Tensor) -> ImageSet:
    """The subset at `rows` (n,), fetched when it is asked for."""
    return dataclasses.replace(
        images,
        images=_Some(images.images, rows),
        labels={task: values[rows] for task, values in images.labels.items()},
        quantities={name: values[rows] for name, values in images.quantities.items()},
        rows=rows if images.rows is None else images.rows[rows],
        names=None,
    )


def check_side(data: Data, side: int) -> None:
    """Raise UserError saying which preset or side fits, where images are smaller than what is to be drawn."""
    if data.side >= side:
        return
    told = f"'{data.label_name}' has images of {data.side} pixels a side, and {side} are to be drawn"
    if data.side < _SMALLEST:
        raise UserError(f"{told}: pictures are drawn at {_SMALLEST} pixels or more, so these images cannot be.")
    fitting = [name for name, settings in PRESETS.items() if settings.side <= data.side]
    raise UserError(f"{told}: give --side {data.side // 8 * 8}, or a preset that fits (--preset {' or '.join(fitting)}).")


def subject(name: str, data: Data, splits: Mapping[str, ImageSet], side: int) -> Subject:
    """The images of a data set, "train" and "test", at the side that is drawn. Raises UserError where they are smaller."""
    check_side(data, side)
    train, test = (_at(splits[split].images, side, f"{name} {split} at {side} pixels") for split in ("train", "test"))
    return Subject(name, side, train, test, splits, masks_of(data, side), data.side)


def _at(images: Images, side: int, label: str) -> Images:
    """Images at a side, in memory where they are few enough."""
    if images.side == side:
        return images
    small = Shrunk(images, side)
    if len(images) * 3 * side**2 > _HELD:
        return small
    held = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
    parts = torch.arange(len(images)).split(_AT_ONCE)
    with bar(label, len(parts), per_unit=_AT_ONCE, things="images") as shown:
        for rows in parts:
            held[rows] = small.batch(rows)
            shown.advance()
    return InMemory(held)


# ----------------------------------------------------------------------------------------------------------------- pictures


def pictures(
    subject: Subject,
    data: Data,
    *,
    own: int | str = 4,
    outside: Sequence[str | Path | Data] = (),
    most: int = 4,
    seed: int = 0,
) -> Pictures:
    """The pictures that a figure shows: some of the data set's test images, then some from outside.

    own: how many test images, drawn by chance and spread over the target's classes; or which, as "test:3,9" or "test:0-7".
    outside: picture files; folders, of which at most `most` pictures are drawn by chance, subfolders included; other image
    sets, of which as many test images are. They are read as the data set's own images are.

    Raises UserError quoting a row that is not there, naming every picture that cannot be decoded, and for a folder without
    pictures.
    """
    if most < 1:
        raise UserError(f"{most} pictures of a folder: give at least 1.")
    test = subject.splits["test"]
    rows = _own(test, own, seed)
    side = test.images.side
    found = [test.images.batch(rows)]
    names = [_named(test, row) for row in rows.tolist()]
    files, sets = _sources(outside, data, most, seed)
    for each in sets:
        pixels, called = _of(each, side, most, seed)
        found.append(pixels)
        names += called
    found.append(_decoded(files, data, side))
    names += [file.name for file in files]
    pixels = torch.cat(found)
    if not len(pixels):
        raise UserError("no picture to draw: ask for test images of the data set (--own 4), or name pictures (--images).")
    places = torch.cat([rows, torch.full((len(pixels) - len(rows),), -1)])
    return Pictures(pixels, tuple(names), places, shrunk(pixels, subject.side))


def check_pictures(
    data: Data, *, own: int | str = 4, outside: Sequence[str | Path | Data] = (), most: int = 4, seed: int = 0
) -> None:
    """Raise what `pictures` would raise about words and files, before any image is loaded."""
    _asked(own)
    files, _ = _sources(outside, data, most, seed)
    _decoded(files, data, _SMALLEST)


def _sources(outside: Sequence[str | Path | Data], data: Data, most: int, seed: int) -> tuple[list[Path], list[Data]]:
    """The picture files and the image sets that are meant."""
    sources = [each if isinstance(each, Data) else _held_in(Path(each), data.side, most, seed) for each in outside]
    files = [file for source in sources if isinstance(source, list) for file in source]
    return files, [source for source in sources if isinstance(source, Data)]


def _asked(own: int | str) -> int | list[int]:
    """How many test images, or which."""
    text = str(own)
    if re.fullmatch(r"-?\d+", text):
        if int(text) < 0:
            raise UserError(f"--own {text}: give a number of test images, 0 or more, or rows as test:3,9.")
        return int(text)
    split, _, listed = text.partition(":")
    pieces = [re.fullmatch(r"(\d+)(?:-(\d+))?", piece) for piece in listed.split(",")]
    rows = [row for piece in pieces if piece for row in range(int(piece[1]), int(piece[2] or piece[1]) + 1)]
    if split != "test" or not all(pieces) or not rows:
        raise UserError(f"--own '{text}' is neither a number of test images nor rows of them, written test:3,9 or test:0-7.")
    return rows


def _own(test: ImageSet, own: int | str, seed: int) -> Tensor:
    """Rows of the test split (n,)."""
    asked = _asked(own)
    if isinstance(asked, int):
        return _spread(test, asked, seed)
    if max(asked) >= len(test):
        raise UserError(f"--own '{own}': the test split holds rows 0 to {len(test) - 1}.")
    return torch.tensor(asked)


def _spread(images: ImageSet, count: int, seed: int) -> Tensor:
    """Rows by chance: of every class of the target one, then of every class a second, until there are enough."""
    order = torch.randperm(len(images), generator=generator(seed, "pictures drawn"))
    if images.target is not None:
        labels = images.labels[images.target][order]
        turn = torch.empty_like(labels)
        for label in labels.unique():
            turn[labels == label] = torch.arange(int((labels == label).sum()))
        order = order[turn.argsort(stable=True)]
    return order[:count].sort().values


def _named(test: ImageSet, row: int) -> str:
    if test.target is None:
        return f"test:{row}"
    return f"test:{row} ({test.classes[test.target][int(test.labels[test.target][row])]})"


def _held_in(path: Path, side: int, most: int, seed: int) -> list[Path] | Data:
    """A file, some pictures of a folder, or, where a folder holds none, the image set that lies in it."""
    if path.is_file():
        return [path] if path.suffix not in (".parquet", ".tar") else Hub(path=str(path), size=side)
    if not path.exists():
        raise UserError(f"--images '{path}' does not exist.")
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    if not files:
        raise UserError(f"--images '{path}' is an empty folder.")
    shown = [file for file in files if file.suffix.lower() in PICTURES]
    if not shown:
        return Hub(path=str(path), size=side)
    chosen = torch.randperm(len(shown), generator=generator(seed, "pictures of a folder"))[:most].sort().values
    return [shown[at] for at in chosen.tolist()]


def _of(data: Data, side: int, most: int, seed: int) -> tuple[Tensor, Iterator[str]]:
    """Some test images of another image set, and what the figure calls them."""
    images = data.load("test")
    tell(images.notes)
    rows = _spread(images, most, seed)
    pixels = images.images.batch(rows)
    if pixels.shape[-1] != side:
        resized = F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True)
        pixels = resized.round_().clamp_(0, 255).to(torch.uint8)
    return pixels, (f"{data.label_name} {_named(images, row)}" for row in rows.tolist())


def _decoded(files: Sequence[Path], data: Data, side: int) -> Tensor:
    """Picture files as the data set's images are read: (n, 3, side, side) uint8."""
    made, broken = [], []
    for file in files:
        try:
            made.append(torch.from_numpy(decode(file.read_bytes(), side, cast(Fit, getattr(data, "fit", "crop")))))
        except (BrokenImageError, OSError) as error:
            broken.append(f"{file} ({getattr(error, 'strerror', None) or error})")
    if broken:
        more = f"; and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise UserError(f"{len(broken)} of {len(files)} pictures cannot be read: {'; '.join(broken[:20])}{more}.")
    return torch.stack(made) if made else torch.empty(0, 3, side, side, dtype=torch.uint8)
