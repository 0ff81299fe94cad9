"""Decoded once or batch by batch: the same bytes, damaged caches, broken images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from hub_files import encoded, every, pair, parquet, picture, pixels, pngs

from wingspan.data import _cache
from wingspan.data._decode import VERSION, decode
from wingspan.data._encoded import Encoded
from wingspan.data.hub import Hub
from wingspan.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WINGSPAN_CACHE", str(folder))
    return folder


def test_encoded_and_cached_give_the_same_bytes(tmp_path):
    cells = [encoded(picture(i, 30 + i, 50), "JPEG") for i in range(20)]
    file = parquet(tmp_path / "set.parquet", cells)
    cached = Hub(path=str(file), size=8).load("train").images
    large = Hub(path=str(file), size=8, cache_gb=0.0, workers=3).load("train").images
    assert isinstance(large, Encoded) and not isinstance(cached, Encoded) and cached.side == large.side == 8
    order = torch.tensor([17, 3, 3, 0, 11])
    assert torch.equal(cached.batch(order), large.batch(order))
    assert torch.equal(cached.batch(order)[1], torch.from_numpy(decode(cells[3], 8)))
    assert large.batch(order[:0]).shape == cached.batch(order[:0]).shape == (0, 3, 8, 8)
    copy = cached.batch(order)
    copy.zero_()
    assert cached.batch(order).any()


def test_every_fit_has_its_own_file_and_is_the_same_batch_by_batch(tmp_path, own_cache):
    cells = [encoded(picture(i, 30, 50)) for i in range(6)]
    hub = Hub(path=str(parquet(tmp_path / "set.parquet", cells)), size=8)
    seen = {}
    for fit in ("crop", "squash", "pad"):
        for _ in range(2):
            seen[fit] = every(dataclasses.replace(hub, fit=fit).load("train"))
        assert torch.equal(seen[fit], every(dataclasses.replace(hub, fit=fit, cache_gb=0.0).load("train")))
    assert len(list(own_cache.glob("*.u8"))) == 3
    assert not torch.equal(seen["crop"], seen["squash"]) and not torch.equal(seen["pad"], seen["squash"])


def test_files_decoded_before_there_was_a_fit_keep_their_names(tmp_path, own_cache):
    cells = pngs(6)
    pair(tmp_path).load("train")
    digest = hashlib.blake2b(b"".join(len(cell).to_bytes(8, "big") + cell for cell in cells), digest_size=16).digest()
    whole = hashlib.blake2b(f"6 8 {VERSION}".encode() + digest, digest_size=16)
    assert [file.stem for file in own_cache.glob("*.u8")] == [whole.hexdigest()]


def test_store_defaults_to_the_size_or_an_eighth_more():
    assert [Hub(size=size).stored for size in (32, 64, 112, 224)] == [32, 64, 128, 256] and Hub(size=32, store=40).stored == 40


def test_the_cache_is_used_and_rebuilt_when_damaged(tmp_path, own_cache, monkeypatch):
    hub = pair(tmp_path)
    hub.load("train")
    (data,) = own_cache.glob("*.u8")
    writes = []
    write = _cache._write
    monkeypatch.setattr(_cache, "_write", lambda *given: writes.append(given) or write(*given))
    hub.load("train")
    assert not writes
    damages = (
        lambda: data.write_bytes(data.read_bytes()[:-1]),
        data.unlink,
        lambda: data.with_suffix(".json").write_text("{"),
        lambda: data.with_suffix(".json").write_text(json.dumps({"shape": [5, 3, 8, 8], "bad": []})),
    )
    for done, damage in enumerate(damages):
        damage()
        assert torch.equal(every(hub.load("train")), pixels(6)) and len(writes) == done + 1
    parquet(tmp_path / "train.parquet", pngs(6, 100))
    assert torch.equal(every(hub.load("train")), pixels(6, 100))
    assert not list(own_cache.glob("*.tmp"))


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    hub = pair(tmp_path / "set", cache=str(tmp_path / "file" / "cache"))
    found = hub.load("train")
    assert torch.equal(every(found), pixels(6)) and "held in memory" in found.notes[-1] and "cache'" in found.notes[-1]
    monkeypatch.setattr(_cache, "IN_MEMORY", 0)
    with pytest.raises(UserError, match=r"cannot write the cache folder '.*cache'.*name another folder with --data.cache"):
        hub.load("train")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(UserError, match="No space left"):
        pair(tmp_path / "set").load("train")


@pytest.mark.parametrize("cache_gb", [8.0, 0.0])
def test_broken_images_are_named_or_skipped(tmp_path, cache_gb):
    cells = pngs(12)
    cells[3], cells[7] = cells[3][:60], b""
    file = parquet(tmp_path / "set" / "train.parquet", cells, label=(list(range(6)) * 2, list("abcdef")))
    parquet(tmp_path / "set" / "test.parquet", pngs(2), label=([0, 1], list("abcdef")))
    hub = Hub(path=str(tmp_path / "set"), size=8, cache_gb=cache_gb)
    with pytest.raises(UserError, match=rf"row 3 of '{file}' \(.*--data.on-bad skip"):
        every(hub.load("train"))
    for _ in range(2):  # the second time from what the first found
        found = dataclasses.replace(hub, on_bad="skip").load("train")
        kept = [i for i in range(12) if i not in (3, 7)]
        assert torch.equal(every(found), pixels(12)[kept])
        assert found.labels["label"].tolist() == [i % 6 for i in kept]
        assert (
            "2 of 12 images cannot be decoded and are left out: row 3 of" in found.notes[-1] and "(no bytes)" in found.notes[-1]
        )


def test_no_image_left(tmp_path):
    parquet(tmp_path / "set" / "test.parquet", pngs(1))
    file = parquet(tmp_path / "set" / "train.parquet", [b"x"] * 4)
    with pytest.raises(UserError, match="none of the 4 images can be decoded: row 0 of"):
        Hub(path=str(file.parent), size=8, on_bad="skip").load("train")
