from __future__ import annotations

import gc
import hashlib
import subprocess
from pathlib import Path

import pytest
import torch
from made_stores import MODEL, Made, made, network, truth
from torch import Tensor

from wingspan import bits, features
from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.extraction import Wanted, extract_to
from wingspan.store import manifest, shards
from wingspan.store._mapping import mapped
from wingspan.store.rows import Rows, View
from wingspan.store.store import open_store

WIDTHS = (256, 100, 13, 8)
SOME = torch.tensor([89, 0, 31, 32, 33, 32, 64])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", ["packed", "fp16", "sparse"])
def test_a_store_gives_back_what_the_network_gave(form: str, width: int, tmp_path: Path) -> None:
    store = made(tmp_path / "store", width, format=form)
    for split in ("train", "test"):
        part, h = store.part(split), truth(width, split)
        assert len(part) == len(h) and part.width == width and part.format == form
        assert torch.equal(part.bits[:], bits.pack(h))
        wanted = (h > 0).half() if form == "packed" else h
        for at in (slice(None), slice(30, 70), slice(60, 61), slice(5, 5), SOME):
            assert torch.equal(part.dense[at], wanted[at])
            assert torch.equal(part.bits[at], bits.pack(h)[at])
        batches = list(part.batches(77))
        assert torch.equal(torch.cat([values for values, _ in batches]), wanted)
        assert all(len(values) <= 77 for values, _ in batches)
        assert torch.equal(torch.cat([labels["half"] for _, labels in batches]), torch.arange(len(h)) % 2)


def test_several_shards_are_one_mapped_tensor(tmp_path: Path) -> None:
    part = made(tmp_path / "store").train
    assert len(list(part.folder.glob("*.bits"))) == 3 and isinstance(part.bits, Tensor)
    rows = part.bits[100:200]  # over a boundary
    assert rows.data_ptr() == part.bits.data_ptr() + 100 * 32, "no copy"
    before = hashlib.sha256((part.folder / "00000.bits").read_bytes()).hexdigest()
    part.bits[0] += 1
    assert hashlib.sha256((part.folder / "00000.bits").read_bytes()).hexdigest() == before, "a reader changes no file"


def test_labels_ids_and_names_are_kept(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    given = Made().load("test")
    part = store.test
    assert part.target == "kind" and part.classes == given.classes
    assert all(torch.equal(part.labels[task], given.labels[task]) for task in ("kind", "half"))
    assert torch.equal(part.quantities["weight"], given.quantities["weight"])
    assert torch.equal(part.ids, 2 * torch.arange(90))
    assert given.names is not None and part.paths == list(given.names())
    bare = made(tmp_path / "bare", data=Made(bare=True)).test
    assert not bare.labels and bare.paths is None and bare.target is None and torch.equal(bare.ids, torch.arange(90))


def test_the_manifest_says_where_features_come_from(tmp_path: Path) -> None:
    about = features.open(made(tmp_path / "store", threshold=0.5).path).manifest
    assert about.model == MODEL and about.data == Made() and about.layer == "h"
    assert (about.width, about.threshold, about.format, about.side, about.precision) == (256, 0.5, "packed", 4, "fp32")
    assert {split: facts.rows for split, facts in about.splits.items()} == {"train": 300, "test": 90}


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    store = made(tmp_path / "store", format="sparse")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", shards.SUMS], cwd=store.train.folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {file.name for file in store.train.folder.iterdir()} - {shards.SUMS}
    assert listed == shards.read_sums(store.train.folder).keys(), "every file is listed, and nothing is left behind"


@pytest.mark.parametrize("width", [2048, 32768])
def test_packed_takes_a_sixteenth_of_fp16(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_ROWS", 2048)  # as it is
    monkeypatch.setattr(manifest, "PAGE", 65536)
    data = Made(rows=2500, tests=3, bare=True)
    packed, dense = (made(tmp_path / form, width, data, format=form, splits=("train",)).train for form in ("packed", "fp16"))
    assert packed.size <= dense.size / 16 * 1.01, "the index of images and the checksums included"
    assert len(list(packed.folder.glob("*.bits"))) == 2
    assert torch.equal(packed.bits[:], dense.bits[:])


def test_threshold_moves_the_bits(tmp_path: Path) -> None:
    part = made(tmp_path / "store", 100, threshold=0.7, relu=False).test
    assert torch.equal(part.bits[:], bits.pack(truth(100, "test", relu=False) > 0.7))
    with pytest.raises(UserError, match=r"--threshold 0\.7 is for packed codes: fp16"):
        made(tmp_path / "other", threshold=0.7, format="fp16")


def test_sparse_refuses_values_below_0(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sparse keeps what lies above 0, and 'h' has values below"):
        made(tmp_path / "store", format="sparse", relu=False)
    assert torch.equal(made(tmp_path / "dense", format="fp16", relu=False).test.dense[:], truth(256, "test", relu=False))


def test_layers_of_the_projector_can_be_stored(tmp_path: Path) -> None:
    from dataclasses import replace

    from wingspan import projector

    torch.manual_seed(0)
    seen = replace(network(16), projector=projector.build("24-8", 16))
    store = extract_to(tmp_path / "store", seen, MODEL, Made(), Wanted("fp16", "projector 1"))
    images = Made().load("test").images
    wanted = seen.at(4).layers(seen.at(4).plain(images.batch(torch.arange(90))))["projector 1"]
    assert store.manifest.width == 24 and torch.equal(store.test.dense[:], wanted.half())
    with pytest.raises(UserError, match=r"--layer 'projector 3': made has no such layer.*'projector"):
        extract_to(tmp_path / "other", seen, MODEL, Made(), Wanted("fp16", "projector 3"))


def test_codes_on_another_device_are_those_of_the_cpu() -> None:
    h = torch.randn(70, 109, generator=generator(0, "test"))
    for threshold in (0.0, 0.3):
        assert torch.equal(shards.codes_on_device(h, threshold), shards.codes(h, threshold))


def test_codes_of_fp32_are_those_of_the_fp16_it_would_become() -> None:
    edge = torch.tensor([2.0**-25]).view(torch.int32) + torch.arange(-3, 4)
    h = torch.cat([edge.view(torch.float32), torch.tensor([0.0, -0.0, 1e-30, 2.0**-24, -1.0, 3.0])]).view(1, -1)
    assert torch.equal(shards.codes(h), bits.pack(h.half())) and shards.codes(h).any()
    for threshold in (0.1, 1 / 3):  # which no half is
        near = (torch.tensor([threshold]).view(torch.int32) + torch.arange(-5000, 5000, 7)).view(torch.float32).view(1, -1)
        assert torch.equal(shards.codes(near, threshold), bits.pack(near.half() > threshold))


def test_views_are_rows() -> None:
    h = torch.randn(5, 16)
    assert isinstance(h, Rows)
    view = View(h, 2, torch.uint8, shards.codes)
    assert isinstance(view, Rows) and view.shape == (5, 2)
    assert torch.equal(view[torch.tensor([3, 1])], bits.pack(h)[[3, 1]])


def test_mappings_are_given_back(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_bytes(bytes(range(256)) * 256)
    files[1].write_bytes(b"tail")

    def held() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    whole = torch.from_numpy(mapped(files, [65536, 4]))
    assert whole[65534:].tolist() == [254, 255, *b"tail"] and held() == 2
    part = whole[-1:]
    del whole
    gc.collect()
    assert held() == 2 and part.item() == ord("l"), "held as long as a part is"
    del part
    gc.collect()
    assert held() == 0
    with pytest.raises(ValueError, match="only the last"):
        mapped(files[::-1], [4, 65536])
    with pytest.raises(FileNotFoundError):
        mapped([tmp_path / "none"], [10])


def test_shards_fill_pages() -> None:
    for form in ("packed", "fp16", "sparse"):
        for width in (1, 8, 64, 100, 2048, 4096, 32768):
            rows = manifest.shard_rows(form, width)
            assert rows * manifest.row_bytes(form, width) % manifest.PAGE == 0


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "test" / "00000.bits").write_bytes(b"short"),
            r"test/00000\.bits is truncated: 5 bytes, 2,880 expected",
        ),
        (lambda folder: (folder / "train" / "00001.bits").unlink(), r"train/00001\.bits is missing"),
        (
            lambda folder: (folder / "train" / "00001.bits").open("ab").write(b"x"),
            r"train/00001\.bits is too long: 4,097 bytes",
        ),
        (lambda folder: (folder / "store.json").unlink(), r"is no store of features: it holds no store\.json"),
        (lambda folder: (folder / "store.json").write_text("{"), r"store\.json is damaged"),
        (lambda folder: (folder / "store.json").write_text('{"version": 9}'), r"version 9, this Wingspan reads version 1"),
        (
            lambda folder: (folder / "test" / "SHA256SUMS").write_text("abc  x\n"),
            r"SHA256SUMS is damaged: 'abc  x' is no checksum",
        ),
        (lambda folder: (folder / "test" / "SHA256SUMS").unlink(), r"0 of 1 shards of split 'test' are extracted\. Go on"),
    ],
)
def test_a_damaged_store_is_refused_by_name(harm, message: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "store").path
    harm(folder)
    with pytest.raises(UserError, match=message):
        open_store(folder)


def test_a_flipped_bit_is_found_when_asked(tmp_path: Path) -> None:
    folder = made(tmp_path / "store").path
    file = folder / "train" / "00002.bits"
    raw = bytearray(file.read_bytes())
    raw[17] ^= 1
    file.write_bytes(raw)
    open_store(folder)
    with pytest.raises(UserError, match=r"train/00002\.bits is damaged: its checksum"):
        open_store(folder, verify=True)


def test_truncated_values_of_a_sparse_store_are_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "store", format="sparse").path
    file = folder / "test" / "00000.values"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"00000\.values is truncated"):
        open_store(folder)


def test_unknown_splits_and_places_are_refused(tmp_path: Path) -> None:
    store = made(tmp_path / "store", splits=("test",))
    with pytest.raises(UserError, match="holds no split 'train'"):
        _ = store.train
    with pytest.raises(UserError, match="is no store of features: it does not exist"):
        open_store(tmp_path / "none")


def test_images_are_loaded_again_or_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path / "store")
    assert torch.equal(store.images("test").images.batch(SOME), Made().load("test").images.batch(SOME))
    whole = Made.load
    monkeypatch.setattr(Made, "load", lambda self, split: whole(self, split).take(torch.arange(5)))
    with pytest.raises(UserError, match=r"features of 90 images of split 'test' of 'made', where there are 5 now"):
        store.images("test")


def test_reading_takes_only_what_is_asked_for(tmp_path: Path) -> None:
    """A batch copies its own rows: the rest of a store's pages stay untouched."""
    width, data = 4096, Made(rows=3000, tests=3)
    part = made(tmp_path / "store", width, data, format="fp16", splits=("train",)).train
    assert part.size > 24e6

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split("VmFlags")
        return sum(int(each.split("Rss:")[1].split()[0]) for each in lines if str(tmp_path) in each)

    assert isinstance(part.dense, Tensor)
    assert resident() == 0
    part.dense[torch.tensor([5, 2000])].sum()
    assert 0 < resident() < 600, "kB: two rows of 8 kB, and what the system reads ahead"
