"""The grid and the strips: every tile where it belongs, enlarged pixel by pixel, unchanged; and what is written above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from made_drawings import company, drawing, encoder
from PIL import Image
from torch import Tensor

from wingspan import mosaic
from wingspan.collage import Sheet
from wingspan.errors import UserError
from wingspan.mosaic import Strip
from wingspan.rcdm.kept import Drawing

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All text put on sheets."""
    found: list[str] = []
    write = Sheet.write

    def spy(self: Sheet, x: float, y: float, text: str, *rest: object, **more: object) -> None:
        found.append(text)
        write(self, x, y, text, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Sheet, "write", spy)
    return found


def sheet(of: Drawing, file: Path, **how: bool) -> Pixels:
    mosaic.draw(of, file, **how)
    return np.asarray(Image.open(file).convert("RGB"))


def places(image: Tensor, zoom: int, on: Pixels) -> list[tuple[int, int]]:
    """(left, top) of wherever the image, enlarged, stands on the sheet exactly."""
    wanted = image.permute(1, 2, 0).numpy().repeat(zoom, 0).repeat(zoom, 1)
    side = len(wanted)
    tops, lefts = np.nonzero(on[..., 0] == wanted[0, 0, 0])
    same = (on[tops, lefts] == wanted[0, 0]).all(-1)
    return [
        (int(left), int(top))
        for top, left in zip(tops[same], lefts[same], strict=True)
        if np.array_equal(on[top : top + side, left : left + side], wanted)
    ]


def place(image: Tensor, zoom: int, on: Pixels) -> tuple[int, int]:
    (found,) = places(image, zoom, on)
    return found


def zoom_of(image: Tensor, on: Pixels) -> int:
    (zoom,) = (each for each in (1, 2, 3, 4, 5, 6, 7, 8) if places(image, each, on))
    return zoom


def test_every_sample_stands_once_in_the_row_of_its_picture_groups_beside_each_other_and_from_narrow_to_wide(
    tmp_path: Path,
) -> None:
    of = drawing(company(), samples=2, own=2, outside=1)
    seen = sheet(of, tmp_path / "grid.png")
    zoom = zoom_of(of.tiles.pictures[0], seen)
    order = [f"{group} D={D}" for group in ("supervised", "simclr") for D in (64, 512, 2048)]
    rows = []
    for picture in (1, 2, 0):  # the data set's own first
        left, top = place(of.tiles.pictures[picture], zoom, seen)
        tiles = [of.tiles.samples[name][picture, k] for name in (*order, "untrained", "no information") for k in range(2)]
        found = [place(tile, zoom, seen) for tile in tiles]
        assert {at for _, at in found} == {top}
        across = [left, *(at for at, _ in found)]
        assert across == sorted(across) and len(set(across)) == len(across)
        rows.append((across, top))
    assert all(across == rows[0][0] for across, _ in rows), "columns stand below each other"
    tops = [top for _, top in rows]
    assert tops[2] - tops[1] > tops[1] - tops[0] > 0, "a gap before what comes from outside"


def test_tiles_are_not_stretched_in_contrast(tmp_path: Path) -> None:
    of = drawing([encoder("simclr", 64)], rung="ridge", own=1, outside=0)
    of.tiles.samples["simclr D=64"].clamp_(100, 104)
    assert len(places(of.tiles.samples["simclr D=64"][0, 0], 8, sheet(of, tmp_path / "grid.png"))) == 1


def test_a_map_shows_where_samples_differ_on_one_scale_and_can_be_left_out(tmp_path: Path) -> None:
    of = drawing([encoder("simclr", 64), encoder("simclr", 128)], own=1, outside=0, samples=3, side=16)
    still, varying = of.tiles.samples["simclr D=64"], of.tiles.samples["simclr D=128"]
    still[:] = still[:, :1].clone()
    varying[:] = 0
    varying[0, 0, :, 3, 7] = 255  # one of three samples: deviation sqrt(1/3)
    seen = sheet(of, tmp_path / "grid.png")
    zoom = 8
    left, top = max(places(still[0, 0], zoom, seen))
    at = left + 16 * zoom + 4 * 2
    black = tuple(int(v) for v in seen[top, at])
    assert (seen[top : top + 128, at : at + 128] == black).all(), "constant samples: the scale's lower end everywhere"
    rest = seen[top : top + 128, at + 128 :]
    bright = np.argwhere((rest != black).any(-1) & (rest != 255).any(-1) & (rest != 0).any(-1))
    assert len(bright) == zoom**2, "one pixel, enlarged"
    assert (bright.max(0) - bright.min(0)).tolist() == [zoom - 1, zoom - 1] and bright.min(0)[0] == 3 * zoom
    without = sheet(of, tmp_path / "plain.png", spread=False)
    assert not (without == black).all(-1).any()


def test_the_common_scale_ends_at_the_largest_deviation() -> None:
    samples = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    samples[0, 0, 0, 0, 0] = 255  # one channel of three, one of two samples: sqrt(1/2/3) = .408
    assert float(mosaic._deviation(samples).max()) == pytest.approx((0.5 / 3) ** 0.5)
    assert mosaic._top([samples, samples * 0], [0]) == pytest.approx(0.45)


def test_headings_say_width_tau_and_what_must_not_be_read(tmp_path: Path, written: list[str]) -> None:
    of = drawing(company(("simclr",), (64, 2048)), untrusted=("simclr D=64",))
    seen = sheet(of, tmp_path / "grid.png")
    text = " ".join(written)
    assert text.count("do not read") == 1 and "rung samples · preset cpu32" in text and mosaic.READING[:30] in text
    assert {"D = 64", "D = 2,048", "untrained", "no information", "simclr", "references", "earth_0.jpg"} <= set(written)
    assert any(line.startswith("τ 0.95 (0.92 to 0.97)") for line in written)
    warn = (seen == tuple(bytes.fromhex(mosaic._WARN[1:]))).all(-1)
    left, _ = place(of.tiles.samples["simclr D=64"][1, 0], 8, seen)
    after, _ = place(of.tiles.samples["simclr D=2048"][1, 0], 8, seen)
    frame = np.nonzero(warn.sum(0) > 200)[0]
    assert left - 8 < frame.min() < left and frame.max() < after, "a frame around that encoder's tiles and no other's"
    written.clear()
    sheet(drawing(company(), untrusted=()), tmp_path / "grid.png")
    assert "do not read" not in " ".join(written)


def test_the_lower_rungs_show_r2_and_say_that_there_is_one_picture_of_each_h(tmp_path: Path, written: list[str]) -> None:
    sheet(drawing(company(), rung="ridge"), tmp_path / "grid.png")
    assert any("One picture of each h, by the ridge" in line for line in written)
    assert sum(line.startswith("R² ") for line in written) == 8 and "std" not in written


def test_a_number_that_was_not_found_is_a_dash(tmp_path: Path, written: list[str]) -> None:
    sheet(drawing([encoder("simclr", 64)], missing=[("simclr D=64", "pixels")]), tmp_path / "grid.png")
    assert "–" in written and not any("nan" in line for line in written)


def test_seeds_are_named_and_beyond_eight_encoders_the_lowest_stands_for_them(tmp_path: Path, written: list[str]) -> None:
    sheet(drawing(company(("simclr",), (64, 512), seeds=2)), tmp_path / "grid.png")
    assert {"D = 64, seed 0", "D = 64, seed 1"} <= set(written)
    written.clear()
    sheet(drawing(company(seeds=2), samples=9, own=1, outside=0, side=8), tmp_path / "grid.png")
    assert written.count("D = 64") == 2 and not any("seed 1" in line for line in written)
    assert "Shown are 8 of 9 samples, 8 of 14 encoders, by their lowest seeds." in " ".join(written)
    sheet(drawing([encoder("simclr", 64)], samples=1, own=21, side=8), tmp_path / "grid.png")
    assert "Shown are 20 of 22 pictures." in written
    of = drawing([encoder("simclr", 64)], samples=1, own=1, outside=20)
    zoom_of(of.tiles.pictures[20], sheet(of, tmp_path / "grid.png"))  # the data set's own is not what is left out


def test_two_of_one_width_and_seed_are_told_apart_by_their_names(tmp_path: Path, written: list[str]) -> None:
    sheet(drawing([encoder("simclr", 64, 0, "D=64 one"), encoder("simclr", 64, 0, "D=64 two")]), tmp_path / "grid.png")
    assert {"D=64 one", "D=64 two"} <= set(written)


@pytest.mark.parametrize(("widths", "samples", "side"), [((64,), 1, 128), (tuple(range(2, 10)), 8, 32), ((1, 2), 4, 256)])
def test_the_sheet_is_never_wider_than_it_may_be_and_holds_every_encoder(
    widths: tuple[int, ...], samples: int, side: int, tmp_path: Path
) -> None:
    of = drawing(company(("simclr",), widths), samples=samples, own=1, outside=0, side=side)
    seen = sheet(of, tmp_path / "grid.png")
    assert seen.shape[1] <= mosaic._WIDEST
    zoom = zoom_of(of.tiles.samples["untrained"][0, 0], seen)
    for tiles in of.tiles.samples.values():
        for tile in tiles[0]:
            place(tile, zoom, seen)


def random(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def test_a_strip_leads_from_one_picture_over_its_tiles_to_the_other(tmp_path: Path, written: list[str]) -> None:
    way, ends, other = random(5), random(2), random(3)
    rows = [
        Strip("simclr D=64: test:3 to test:9", ends[0], way, [f"r = {k / 4:.2f}" for k in range(5)], ends[1]),
        Strip("shared dimensions zeroed", None, other),
    ]
    mosaic.strip(rows, "Interpolation", tmp_path / "strip.png")
    seen = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))
    found = [place(tile, 8, seen) for tile in (ends[0], *way, ends[1])]
    assert [left for left, _ in found] == sorted({left for left, _ in found}) and len({top for _, top in found}) == 1
    below = [place(tile, 8, seen) for tile in other]
    assert [left for left, _ in below] == [left for left, _ in found[1:4]], "tiles stand below tiles, with a picture or without"
    assert below[0][1] > found[0][1] + 128
    assert {"Interpolation", "simclr D=64: test:3 to test:9", "shared dimensions zeroed", "r = 0.25"} <= set(written)


def test_of_a_long_strip_tiles_at_equal_distances_are_shown_ends_included(tmp_path: Path, written: list[str]) -> None:
    tiles = random(mosaic.TILES * 2)
    mosaic.strip([Strip("long", None, tiles)], "Many", tmp_path / "strip.png")
    seen = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))
    shown = [at for at in range(len(tiles)) if places(tiles[at], 6, seen)]
    assert len(shown) == mosaic.TILES and shown[0] == 0 and shown[-1] == len(tiles) - 1
    assert set(np.diff(shown).tolist()) <= {2, 3}
    assert any("32 of 64 tiles" in line for line in written)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        mosaic.draw(drawing([encoder("simclr", 64)]), tmp_path / "file" / "grid.png")
