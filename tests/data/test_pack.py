"""`wingspan pack`: the same images as the set it was made from, whatever comes in between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hub_files import encoded, every, pair, parquet, picture, pngs

from wingspan import cli
from wingspan.data import _packing
from wingspan.data._packing import pack
from wingspan.data._pages import damaged, read_manifest
from wingspan.data.base import Data
from wingspan.data.hub import Hub
from wingspan.data.packed import Packed
from wingspan.data.scenes import Scenes
from wingspan.data.subset import Subset
from wingspan.errors import UserError
from wingspan.stopping import Interrupted, Stop

BOTH = ("train", "test")


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def many(folder: Path, count: int = 40) -> Hub:
    parquet(folder / "train.parquet", pngs(count), label=([0, 1] * (count // 2), ["a", "b"]))
    parquet(folder / "test.parquet", pngs(8, 90), label=([0, 1] * 4, ["a", "b"]))
    return Hub(path=str(folder), size=8, workers=1)


@pytest.fixture
def small_steps(monkeypatch):
    """Four images a chunk, saved after every second."""
    monkeypatch.setattr(_packing, "CHUNK", 4 * 3 * 8 * 8)
    monkeypatch.setattr(_packing, "SAVE", 8 * 3 * 8 * 8)


def folders(path: Path) -> Hub:
    for name in ("ant", "bee"):
        for number in range(12):
            file = path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(picture(number + 50 * (name == "bee"), 12, 9)))
    return Hub(path=str(path / "photos"), size=8)


@pytest.mark.parametrize("kind", ["parquet", "folders", "scenes", "tasks"])
def test_a_packed_set_is_the_set_it_was_made_from(tmp_path, kind):
    made: dict[str, Data] = {
        "parquet": pair(tmp_path / "here"),
        "folders": folders(tmp_path),
        "scenes": Scenes(train=30, test=10, size=8, target="colour"),  # the target's name tells nothing; has quantities
        "tasks": Hub(path=str(parquet(tmp_path / "t" / "x.parquet", pngs(20), image_=[1.5] * 20, colour=list(range(20)),
                                      size=["s", "t"] * 10)), size=8, label="colour"),
    }  # fmt: skip
    data, out = made[kind], tmp_path / "packed"
    pack(data, out, 8, BOTH)
    for split in BOTH:
        wanted = data.load(split)
        through_hub = Hub(path=str(out), size=8)
        for found in (Packed(folder=str(out)).load(split), through_hub.load(split)):
            assert torch.equal(every(found), every(wanted)) and len(found) == len(wanted) > 0
            assert found.target == wanted.target and dict(found.classes) == dict(wanted.classes)
            assert {name: values.tolist() for name, values in found.labels.items()} == {
                name: values.tolist() for name, values in wanted.labels.items()
            }
            assert found.quantities.keys() == wanted.quantities.keys()
            assert all(torch.equal(found.quantities[name], wanted.quantities[name].float()) for name in wanted.quantities)
            assert (found.names and found.names()) == (wanted.names and wanted.names())
    assert Packed(folder=str(out)).label_name == data.label_name
    assert list(damaged(out)) == []


def test_a_packed_set_takes_the_place_of_its_source(tmp_path):
    out = tmp_path / "packed"
    pack(many(tmp_path / "here"), out, 80, ("train", "test"))
    packed = Packed(folder=str(out))
    assert (packed.side, packed.stored, packed.fit) == (70, 80, "crop") and Hub(path=str(out), size=70).stored == 80
    limited = Packed(folder=str(out), limit_train=10).load("train")
    assert limited.labels["label"].bincount().tolist() == [5, 5]
    whole = every(packed.load("train"))
    assert torch.equal(every(limited), whole[limited.rows])
    drawn = Subset(of=packed, images=4).load("train")
    assert torch.equal(every(drawn), whole[drawn.rows])
    order = torch.tensor([3, 39, 0, 3])
    assert torch.equal(packed.load("train").images.batch(order), whole[order])
    alone = tmp_path / "alone"
    pack(many(tmp_path / "here"), alone, 8, ("train",))
    assert len(Packed(folder=str(alone)).load("train")) == 40, "none is held out for testing"
    with pytest.raises(UserError, match="was packed without test images"):
        Packed(folder=str(alone)).load("test")


def test_pictures_are_decoded_once_and_not_kept_elsewhere(tmp_path, monkeypatch):
    decoded = []
    from wingspan.data import _encoded

    kept = _encoded.decode
    monkeypatch.setattr(_encoded, "decode", lambda *given: decoded.append(1) or kept(*given))
    pack(many(tmp_path / "here"), tmp_path / "packed", 8, BOTH)
    assert len(decoded) == 48
    assert not list((tmp_path / "cache").glob("*.u8"))
    every(Packed(folder=str(tmp_path / "packed")).load("train"))
    assert len(decoded) == 48


# ------------------------------------------------------------------------------------------------------------ interrupted

DIES = """
import os, sys
from wingspan.data import _packing
from wingspan.data.hub import Hub

_packing.CHUNK, _packing.SAVE = 4 * 3 * 8 * 8, 8 * 3 * 8 * 8
fsync, left = os.fsync, [int(sys.argv[3])]

def counted(handle):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    fsync(handle)

os.fsync = counted
_packing.pack(Hub(path=sys.argv[1], size=8, workers=1), __import__("pathlib").Path(sys.argv[2]), 8, ("train", "test"))
"""


@pytest.mark.parametrize("moment", [3, 8])  # within the saving of the first images; after some
def test_killed_and_given_again_it_ends_with_the_same_bytes(tmp_path, small_steps, moment):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    pack(data, tmp_path / "whole", 8, BOTH)
    words = [sys.executable, "-c", DIES, str(tmp_path / "here"), str(out), str(moment)]
    assert subprocess.run(words, check=False, timeout=120).returncode == 9
    assert (out / "packing.json").exists() and (out / "train.u8").stat().st_size > 0
    with pytest.raises(UserError, match="packed in part only: give the wingspan pack command"):
        Hub(path=str(out), size=8).load("train")
    pack(data, out, 8, BOTH)
    assert written(out) == written(tmp_path / "whole")


def test_what_was_saved_is_not_decoded_again(tmp_path, small_steps, monkeypatch):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    stop, written_chunks = Stop(), []
    kept = _packing.write_whole

    def counted(file, some):
        written_chunks.append(1)
        if len(written_chunks) == 5:  # two chunks, their list, another chunk, and one more
            stop.signum = signal.SIGTERM
        kept(file, some)

    monkeypatch.setattr(_packing, "write_whole", counted)
    monkeypatch.setattr(_packing, "stop_on_signals", lambda: _Given(stop))
    with pytest.raises(Interrupted, match="16 of 40 images of 'train' packed and saved"):
        pack(data, out, 8, BOTH)
    stop.signum, before = None, (out / "train.u8").read_bytes()
    assert len(before) == 16 * 3 * 8 * 8
    with (out / "train.u8").open("ab") as file:
        file.write(b"torn")  # what reached the file and not the list
    with (out / "train.chunks.jsonl").open("ab") as file:
        file.write(b'{"taken": 4, "ima')
    sizes = []
    monkeypatch.setattr(_packing, "write_whole", lambda file, some: sizes.append(len(some)) or kept(file, some))
    pack(data, out, 8, BOTH)
    assert sum(size for size in sizes if size == 4 * 3 * 8 * 8) == (24 + 8) * 3 * 8 * 8
    pack(data, tmp_path / "whole", 8, BOTH)
    assert written(out) == written(tmp_path / "whole")


class _Given:
    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def __enter__(self) -> Stop:
        return self.stop

    def __exit__(self, *error: object) -> None:
        pass


def test_a_last_chunk_that_a_power_cut_spoiled_is_made_again(tmp_path, small_steps):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    pack(data, out, 8, BOTH)
    whole = written(out)
    (out / "packing.json").write_text(json.dumps(json.loads((out / "packed.json").read_text())["packing"]))
    (out / "packed.json").unlink()
    with (out / "train.u8").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\0\1\2")
    pack(data, out, 8, BOTH)
    assert written(out) == whole


def test_a_command_given_again_when_all_is_there_does_nothing(tmp_path, monkeypatch):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    first = pack(data, out, 8, BOTH)
    monkeypatch.setattr(_packing, "_opened", None)
    assert pack(data, out, 8, BOTH) == first


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 48 * 192 - 1))
    with pytest.raises(UserError, match=r"packing 48 images of here at 8 pixels takes 0.00 GB more \(9,216 bytes\) in '"):
        pack(many(tmp_path / "here"), tmp_path / "packed", 8, BOTH)
    assert not list((tmp_path / "packed").glob("*.u8"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 48 * 192))
    pack(many(tmp_path / "here"), tmp_path / "packed", 8, BOTH)


def test_a_command_that_could_not_begin_does_not_keep_the_folder(tmp_path):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    with pytest.raises(UserError, match="none"):
        pack(replace(data, split_train="none"), out, 8, BOTH)
    pack(data, out, 8, BOTH)
    pack(data, tmp_path / "whole", 8, BOTH)
    assert written(out) == written(tmp_path / "whole")


def test_a_disk_that_fills_up_on_the_way_loses_nothing(tmp_path, small_steps, monkeypatch):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    kept, sizes = _packing.write_whole, []

    def full(file, some):
        sizes.append(len(some))
        if len(sizes) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kept(file, some)

    monkeypatch.setattr(_packing, "write_whole", full)
    with pytest.raises(UserError, match="No space left on device"):
        pack(data, out, 8, BOTH)
    monkeypatch.setattr(_packing, "write_whole", kept)
    pack(data, out, 8, BOTH)
    pack(data, tmp_path / "whole", 8, BOTH)
    assert written(out) == written(tmp_path / "whole")


def broken(folder: Path) -> Hub:
    cells = pngs(20)
    cells[7], cells[12] = b"no picture", cells[12][:60]
    parquet(folder / "train.parquet", cells, label=([0, 1] * 10, ["a", "b"]))
    parquet(folder / "test.parquet", pngs(2), label=([0, 1], ["a", "b"]))
    return Hub(path=str(folder), size=8)


def test_a_broken_picture_is_named_and_mended(tmp_path, small_steps):
    data, out = broken(tmp_path / "here"), tmp_path / "packed"
    with pytest.raises(UserError, match=r"cannot decode row 7 of '.*train.parquet' \(not an image.*--on-bad skip"):
        pack(data, out, 8, ("train",))
    assert (out / "train.u8").stat().st_size == 4 * 3 * 8 * 8  # what came before is kept
    parquet(tmp_path / "here" / "train.parquet", pngs(20), label=([0, 1] * 10, ["a", "b"]))
    pack(data, out, 8, ("train",))
    assert torch.equal(every(Packed(folder=str(out)).load("train")), every(data.load("train")))


def test_broken_pictures_are_left_out_with_their_labels(tmp_path, small_steps, capsys):
    broken(tmp_path / "here")
    words = ["pack", str(tmp_path / "here"), "--size", "8", "--split", "train", "--out", str(tmp_path / "packed")]
    assert cli.run(words) == 2
    assert cli.run([*words, "--on-bad", "skip"]) == 0  # goes on where the first stopped
    assert "--data.size 8" in capsys.readouterr().err
    kept, found = (Hub(path=str(tmp_path / name), size=8, on_bad="skip").load("train") for name in ("here", "packed"))
    assert len(found) == 18 and torch.equal(every(found), every(kept))
    assert found.labels["label"].tolist() == kept.labels["label"].tolist()
    note = read_manifest(tmp_path / "packed").parts["train"].notes[-1]
    assert note.startswith("2 of 20 images cannot be decoded and are left out: row 7 of") and "row 12 of" in note
    assert any(note in each for each in found.notes)


def test_what_cannot_be_packed_says_why(tmp_path, capsys):
    data, out = many(tmp_path / "here"), tmp_path / "packed"
    pack(data, out, 8, BOTH)
    with pytest.raises(UserError, match=r"packed otherwise \(side: 8 -> 9\): choose another --out"):
        pack(data, out, 9, BOTH)
    with pytest.raises(UserError, match=r"is not empty \(it holds 'test.parquet'"):
        pack(data, tmp_path / "here", 8, BOTH)
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(out / "train.chunks.jsonl", begun / "train.chunks.jsonl")
    (begun / "packing.json").write_text(json.dumps(json.loads((out / "packed.json").read_text())["packing"]))
    parquet(tmp_path / "here" / "train.parquet", pngs(40), label=([1, 0] * 20, ["a", "b"]))
    with pytest.raises(UserError, match=r"images have changed .*begun' began: 'train' held 40"):
        pack(data, begun, 8, BOTH)
    with FileLock(begun / ".lock"), pytest.raises(UserError, match="another process packs into"):
        pack(data, begun, 8, BOTH)
    everything = parquet(tmp_path / "bad" / "train.parquet", [b"x"] * 5).parent
    with pytest.raises(UserError, match="none of the 4 images of 'train' can be decoded: not an image"):
        pack(Hub(path=str(everything)), tmp_path / "none", 8, ("train",), "skip")
    for words, said in (
        (["pack"], "which images"),
        (["pack", "here"], "where to? wingspan pack here --out DIR"),
        (["pack", str(tmp_path / "here"), "--size", "0", "--out", str(tmp_path / "x")], "--size 0 pixels"),
    ):
        assert cli.run(words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 9}, "was packed at 8 pixels: it cannot give --data.size 9"),
        ({"size": 4, "store": 6}, "--data.store 6"),
        ({"size": 8, "fit": "pad"}, "was packed with fit=crop, not pad: give --data.fit crop"),
        ({"size": 8, "label": "labell"}, "no label column 'labell'. Did you mean 'label'"),
    ],
)
def test_what_a_packed_set_cannot_give_is_refused(tmp_path, options, said):
    pack(many(tmp_path / "here"), tmp_path / "packed", 8, BOTH)
    with pytest.raises(UserError) as caught:
        Hub(path=str(tmp_path / "packed"), **options).load("train")
    assert said in str(caught.value)


def test_damage_is_found(tmp_path, capsys, small_steps):
    out = tmp_path / "packed"
    pack(many(tmp_path / "here"), out, 8, BOTH)
    assert cli.run(["pack", str(out), "--check"]) == 0 and "Every byte is as it was written" in capsys.readouterr().err
    with (out / "train.u8").open("r+b") as file:
        file.seek(5 * 3 * 8 * 8)
        file.write(bytes([255 ^ file.read(1)[0]]))
    assert cli.run(["pack", str(out), "--check"]) == 2 and "train.u8: images 4 to 7" in capsys.readouterr().err
    os.truncate(out / "train.u8", 1000)
    with pytest.raises(UserError, match=r"train.u8' holds 1,000 bytes and not 7,680: it was cut"):
        Packed(folder=str(out)).load("train")
    (out / "train.u8").unlink()
    with pytest.raises(UserError, match=r"cannot read '.*train.u8': No such file"):
        Packed(folder=str(out)).load("train")
    (out / "packed.json").write_text("{")
    with pytest.raises(UserError, match=r"packed.json' is damaged"):
        Packed(folder=str(out)).load("train")
    with pytest.raises(UserError, match=r"say where it lies with --data.folder"):
        Packed().load("train")
    with pytest.raises(UserError, match=r"holds no packed.json"):
        Packed(folder=str(tmp_path)).load("train")
