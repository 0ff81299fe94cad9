"""The picture of a search: every image at its place, pixel by pixel, and frames where classes agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from wingspan import augment, gallery
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.extraction import Wanted, extract_to
from wingspan.gallery import place
from wingspan.network import Network
from wingspan.retrieval import Found, search
from wingspan.runtime import Runtime
from wingspan.store.manifest import Model
from wingspan.store.store import Store

BLUE = tuple(bytes.fromhex(gallery.SAME[1:]))
Pixels = npt.NDArray[np.uint8]


def stored(folder: Path, size: int) -> Store:
    """Scenes' own normalised pixels as features."""
    network = Network(nn.Flatten(), augment.PRESETS["small"], Runtime("cpu", "fp32"))
    return extract_to(folder, network, Model("pixels"), Scenes(train=30, test=24, size=size), Wanted("packed"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("gallery") / "codes", 16)


def drawn(found: Found, file: Path) -> Pixels:
    gallery.draw(found, file)
    return np.asarray(Image.open(file).convert("RGB"))


def tile(sheet: Pixels, column: int, row: int, side: int, border: int = 0) -> Pixels:
    left, top = place(column, row, side)
    return sheet[top - border : top + side + border, left - border : left + side + border]


def source(store: Store, split: str, row: int) -> Pixels:
    return store.images(split).images.batch(torch.tensor([row]))[0].permute(1, 2, 0).numpy()


def test_every_image_lies_at_its_place_enlarged_pixel_by_pixel(store: Store, tmp_path: Path) -> None:
    found = search(store, ["test:4", "train:7"], top=3)
    sheet = drawn(found, tmp_path / "n.png")
    for row, query in enumerate(found.queries):
        assert np.array_equal(tile(sheet, 0, row, 128), source(store, query.split, query.row).repeat(8, 0).repeat(8, 1))
        for rank, neighbour in enumerate(found.neighbours.indices[row].tolist()):
            pixels = source(store, "train", neighbour)
            assert np.array_equal(tile(sheet, rank + 1, row, 128), pixels.repeat(8, 0).repeat(8, 1))


def test_frames_stand_where_the_class_is_the_querys_and_nowhere_else(store: Store, tmp_path: Path) -> None:
    found = search(store, ["test:0-3"], top=8)
    sheet = drawn(found, tmp_path / "n.png")
    agree = [[found.same(row, rank) for rank in range(8)] for row in range(4)]
    assert {True, False} == {each for row in agree for each in row}
    for row in range(4):
        for rank in range(8):
            frame = tile(sheet, rank + 1, row, 128, border=3)
            assert bool((frame[0, :] == BLUE).all() and (frame[:, -1] == BLUE).all()) == agree[row][rank]
        assert not (tile(sheet, 0, row, 128, border=3)[0] == BLUE).all()


def test_a_tick_stands_below_a_neighbour_of_the_querys_class_so_that_colour_is_not_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = gallery._Page.write

    def watched(page: gallery._Page, x: float, y: float, text: str, *rest: object, **named: object) -> None:
        written.append(text)
        write(page, x, y, text, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery._Page, "write", watched)
    found = search(store, ["test:0-3"], top=8)
    drawn(found, tmp_path / "n.png")
    agreement = found.agreement()
    assert agreement is not None
    assert sum(text.startswith("✓ ") for text in written[3:]) == agreement.same
    assert "D = 768 · packed · %: bits that differ" in written[1] and written[0].startswith("codes: nearest of 30 train")
    assert f"{agreement.same} of 32 neighbours" in written[2]
    assert found.distance(2, 5) in written and f"#{int(found.neighbours.indices[2, 5])}" in written


def test_more_than_stays_readable_is_left_out(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "ROWS", 2)
    monkeypatch.setattr(gallery, "COLUMNS", 9)
    sheet = drawn(search(store, ["test:0-4"], top=12), tmp_path / "n.png")
    first = drawn(search(store, ["test:0-1"], top=9), tmp_path / "m.png")
    assert sheet.shape == first.shape
    below = place(0, 0, 128)[1]  # the heading counts all
    assert np.array_equal(sheet[below:], first[below:]) and not np.array_equal(sheet[:below], first[:below])


def test_a_large_image_is_shrunk(tmp_path: Path) -> None:
    store = stored(tmp_path / "large", 200)
    sheet = drawn(search(store, ["test:0"], top=2), tmp_path / "n.png")
    wanted = Image.fromarray(source(store, "test", 0)).resize((160, 160), Image.Resampling.LANCZOS)
    assert np.array_equal(tile(sheet, 0, 0, 160), np.asarray(wanted))


def test_a_picture_that_cannot_be_written_is_a_message(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        gallery.draw(search(store, ["test:0"], top=2), tmp_path / "file" / "n.png")
