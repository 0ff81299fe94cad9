"""Pictures and tables made to take a machine down: refused by what they say of themselves, before the memory is taken."""

from __future__ import annotations

import functools
import io
import os
import struct
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile
from tiny_runs import command, contents, said

from wingspan.data._decode import PIXELS, BrokenImageError, decode
from wingspan.data.hub import Hub
from wingspan.errors import UserError

LARGE = 14_000  # pixels a side: 196 million, 0.6 GB in RGB


def png(seed: int = 0, side: int = 8) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(held, "PNG")
    return held.getvalue()


def flat_png(width: int, height: int) -> bytes:
    """One colour, without ever holding the picture: a few hundred kilobytes for any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # grey
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flat(kind: str, width: int, height: int) -> bytes:
    held = io.BytesIO()
    Image.new("L", (width, height)).save(held, kind)
    return held.getvalue()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    made = flat_png(LARGE, LARGE)
    assert len(made) < 300_000
    return made


@pytest.fixture
def no_pixels(monkeypatch):
    """Nothing may be decoded: what is refused, is refused by its header."""

    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("its pixels were asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


def test_a_bomb_is_refused_by_its_header(bomb, no_pixels):
    with pytest.raises(BrokenImageError, match=r"196000000 pixels\) exceeds limit"):
        decode(bomb, 32)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_the_limit_is_on_pixels_whatever_the_format(kind, no_pixels):
    data = (flat_png if kind == "PNG" else functools.partial(flat, kind))(8200, PIXELS // 8200 + 1)
    with pytest.raises(BrokenImageError, match=r"more than 67,108,864: make it smaller"):
        decode(data, 32)


def test_what_is_just_below_the_limit_and_large_jpegs_are_read():
    assert decode(flat_png(8192, 8192 // 8), 16).shape == (3, 16, 16)
    assert decode(flat("JPEG", 9000, 9000), 32).shape == (3, 32, 32)  # decoded at an eighth of its size


@pytest.mark.parametrize("program", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"])
def test_no_picture_is_given_to_another_program(program, monkeypatch):
    """Pillow hands EPS to Ghostscript, which runs it."""
    started = []
    for name in ("Popen", "check_call", "run", "call"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *given, **named: started.append(given))
    with pytest.raises(BrokenImageError, match="not an image of a known format"):
        decode(program, 8)
    assert not started


@pytest.mark.parametrize("what", ["folder", "parquet", "tar"])
@pytest.mark.parametrize("at_once", [True, False], ids=["decoded once", "batch by batch"])
def test_a_bomb_among_pictures_is_named_or_left_out(what, at_once, bomb, tmp_path):
    cells = [png(0), png(1), bomb, png(3), png(4)]
    place = {"folder": folder_of, "parquet": parquet_of, "tar": tar_of}[what](cells, tmp_path)
    hub = {"path": str(place), "size": 8, "cache_gb": 8.0 if at_once else 0.0}
    if at_once:
        with pytest.raises(UserError, match=r"1 of 5 images cannot be decoded: row 2.*pixels"):
            Hub(**hub).load("train")
    kept = Hub(**hub, on_bad="skip").load("train")
    assert len(kept) == 4 and any("1 of" in note and "left out" in note for note in kept.notes)


def folder_of(cells: list[bytes], tmp: Path) -> Path:
    for at, cell in enumerate(cells):
        (tmp / "train").mkdir(exist_ok=True)
        (tmp / "train" / f"{at}.png").write_bytes(cell)
    (tmp / "test").mkdir()
    (tmp / "test" / "0.png").write_bytes(png(9))
    return tmp


def parquet_of(cells: list[bytes], tmp: Path) -> Path:
    pq.write_table(pa.table({"image": cells}), tmp / "train.parquet")
    pq.write_table(pa.table({"image": [png(9)]}), tmp / "test.parquet")
    return tmp


def tar_of(cells: list[bytes], tmp: Path) -> Path:
    for name, held in (("train", cells), ("test", [png(9)])):
        with tarfile.open(tmp / f"{name}.tar", "w") as tar:
            for at, cell in enumerate(held):
                info = tarfile.TarInfo(f"{at}.png")
                info.size = len(cell)
                tar.addfile(info, io.BytesIO(cell))
    return tmp


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(kind, tmp_path):
    place = folder_of([png(0), png(1)], tmp_path)
    strange = place / "train" / "5.png"
    if kind == "pipe":
        os.mkfifo(strange)
    else:
        strange.symlink_to("/dev/zero")
    told: list[str] = []

    def load() -> None:
        try:
            Hub(path=str(place), size=8).load("train")
        except UserError as error:
            told.append(str(error))

    reader = threading.Thread(target=load, daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive(), "still reading"
    assert f"1 of 3 images cannot be decoded: row 2, '{strange}' (no bytes)" in told[0]


# -------------------------------------------------------------------------------------------------------------- label columns

MB = 1_000_000


def labelled(values: list[object], tmp: Path, **columns: list[object]) -> Path:
    file = tmp / "set.parquet"
    cells = [png(at) for at in range(len(values))]
    pq.write_table(pa.table({"image": cells, "label": values, **columns}), file)
    return file


LONG = {
    "one of 10 MB": ["x" * 10 * MB, "cat"] * 5,
    "many of 1 MB": [str(at % 5) * MB for at in range(10)],
    "a thousand characters and one": ["x" * 1001, "cat"] * 5,
}


@pytest.mark.parametrize("values", LONG.values(), ids=LONG)
def test_a_label_column_of_megabytes_is_refused(values, tmp_path):
    file = labelled(values, tmp_path)
    with pytest.raises(
        UserError, match=r"column 'label' holds .* MB of text, a value of up to .*: no class names\..*--data\.label"
    ):
        Hub(path=str(file), size=8, label="label").load("train")
    found = Hub(path=str(file), size=8).load("train")
    assert not found.labels and any("columns not used as labels: label (" in note for note in found.notes)
    assert all(len(note) < 300 for note in found.notes), "nor is the text repeated"


def test_many_short_names_are_refused_by_what_they_come_to(tmp_path):
    names = [f"{at:05d} " + "y" * 900 for at in range(4600)]
    file = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": [png()] * 13_800, "label": names * 3}), file)
    with pytest.raises(UserError, match=r"column 'label' holds 4\.2 MB of text, a value of up to 906 bytes"):
        Hub(path=str(file), size=8, label="label").load("train")


def test_names_in_the_header_of_a_table_are_held_to_it_too(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x" * 10 * MB, "cat"])})
    table = pa.table({"image": [{"bytes": png(at), "path": None} for at in range(6)], "label": [0, 1] * 3})
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), tmp_path / "set.parquet")
    with pytest.raises(UserError, match=r"column 'label' holds 10\.0 MB of text"):
        Hub(path=str(tmp_path / "set.parquet"), size=8, label="label").load("train")


def test_the_command_says_so_and_begins_no_run(tmp_path, capsys):
    file = labelled(LONG["one of 10 MB"], tmp_path)
    words = ["pretrain", "--recipe", "small", "--width", "16", "--batch", "4", "--data.path", file, "--data.label", "label"]
    assert command(*words, "--objective", "supervised", "--out", tmp_path / "run") == 2
    told = said(capsys)
    assert "column 'label' holds 10.0 MB of text" in told and len(told) < 1000
    assert not any(name.startswith("run/run.json") for name in contents(tmp_path))


def test_long_names_that_are_names_are_kept(tmp_path):
    names = [f"class {at} " + "of a long and learned description " * 10 for at in range(3)]
    found = Hub(path=str(labelled(names * 4, tmp_path)), size=8).load("train")
    assert found.classes["label"] == tuple(sorted(names))


def test_a_small_table_that_unpacks_to_gigabytes_is_not_taken_into_memory(tmp_path, monkeypatch):
    """How it is read follows from its size unpacked, which its header tells; 20 MB of zeros take 20 kB on the disk."""
    from wingspan.data import _source

    file, copied = tmp_path / "set.parquet", []
    pq.write_table(pa.table({"image": [bytes(MB)] * 20, "label": [0, 1] * 10}), file, compression="zstd", use_dictionary=False)
    assert file.stat().st_size < 0.1 * MB
    monkeypatch.setattr(_source, "IN_MEMORY", 10 * MB)
    whole = _source._copied
    monkeypatch.setattr(_source, "_copied", lambda *given: (copied.append(given[0]), whole(*given))[1])
    with pytest.raises(UserError, match="18 of 18 images cannot be decoded"):
        Hub(path=str(file), size=8).load("train")
    assert copied == ["parquet"]
