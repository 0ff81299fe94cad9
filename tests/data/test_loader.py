"""Reading images for training: the same bytes whoever asks and however, and memory that does not grow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_files import encoded, parquet, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wingspan import augment, compiled
from wingspan.data import _resample
from wingspan.data._decode import decode
from wingspan.data._packing import pack
from wingspan.data.hub import Hub
from wingspan.data.packed import Packed

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet1k_sample" / "test.parquet"


def jpegs(folder: Path, count: int, width: int = 90, height: int = 70, **options) -> Hub:
    """JPEGs that are decoded batch by batch."""
    cells = [encoded(picture(seed, height, width), "JPEG") for seed in range(count)]
    parquet(folder / "train.parquet", cells, label=([0, 1] * (count // 2), ["a", "b"]))
    return Hub(path=str(folder / "train.parquet"), size=32, cache_gb=0.0, **options)


def test_batches_are_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    found = []
    for workers in (1, 2, 5):
        images = jpegs(tmp_path, 40, workers=workers).load("train").images
        whole = images.batch(order)
        assert torch.equal(whole, torch.cat([images.batch(part) for part in order.split(7)]))
        views = augment.apply(augment.Augment(size=32), whole, augment.draws(augment.Augment(), len(order), 2, 0, 3))
        found.append((whole, views))
    for whole, views in found[1:]:
        assert torch.equal(whole, found[0][0]) and torch.equal(views, found[0][1])
    assert not torch.equal(found[0][0][0], found[0][0][1])


def test_there_is_a_decoding_thread_for_every_core_of_this_process(tmp_path, monkeypatch):
    hub = jpegs(tmp_path, 8, 500, 400)  # large enough for threads to be worth it

    def threads() -> int:
        return hub.load("train").images.workers

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert threads() == 6
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_WORLD_SIZE", "3"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    assert threads() == 2


# --------------------------------------------------------------------------------------------------------------- resizing


@pytest.fixture
def kernel():
    return checked()


def checked():
    try:
        compiled.library(_resample._SOURCE)
    except compiled.UnavailableError as error:
        pytest.skip(str(error))
    found = _resample._checked()
    assert found is not None, "this Pillow resizes otherwise than the kernel: it is correct, and slow"
    return found


@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)).map(lambda size: (max(size), min(size))),
    side=st.integers(1, 260),
    whole=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
def test_the_kernel_gives_the_bytes_that_pillow_gives(size, side, whole, seed):
    kernel = checked()
    (width, height), chance = size, np.random.default_rng(seed)
    values = chance.integers(0, 256, (height, width, 3)) if seed % 2 else 255 * chance.integers(0, 2, (height, width, 3))
    image, margin = Image.fromarray(values.astype(np.uint8)), 0.0 if whole else (width - height) / 2
    box = (margin, 0.0, width - margin, float(height))
    found = _resample._by_kernel(kernel, image, side, box)
    assert found is not None and np.array_equal(found, _resample._by_pillow(image, side, box))


def test_every_way_of_resizing_gives_the_same_picture(monkeypatch):
    pictures = [(encoded(picture(1, *shape)), fit) for shape in ((50, 80), (80, 50)) for fit in ("crop", "squash", "pad")]
    first = [decode(data, 24, fit) for data, fit in pictures]
    monkeypatch.setattr(_resample, "_checked", lambda: None)
    assert all(np.array_equal(decode(data, 24, fit), held) for (data, fit), held in zip(pictures, first, strict=True))


def test_a_tall_image_is_left_to_pillow(kernel, monkeypatch):
    asked = []
    monkeypatch.setattr(_resample, "_by_kernel", lambda kernel, image, side, box: asked.append(image.size))
    decode(encoded(picture(1, 81, 80)), 24)
    assert not asked
    decode(encoded(picture(1, 80, 81)), 24)
    assert asked == [(81, 80)]


def test_a_kernel_that_resizes_otherwise_is_not_used(monkeypatch, kernel):
    made = _resample._by_kernel
    monkeypatch.setattr(_resample, "_by_kernel", lambda *given: made(*given) ^ 1)
    assert _resample._checked.__wrapped__() is None

    def none(source: Path) -> None:
        raise compiled.UnavailableError("no compiler")

    monkeypatch.setattr(compiled, "library", none)
    assert _resample._checked.__wrapped__() is None


def test_pixels_that_do_not_lie_in_one_piece_are_left_to_pillow(kernel):
    image = Image.new("RGB", (4096, 2048), "red")  # 32 MB, in blocks of 16
    box = (1024.0, 0.0, 3072.0, 2048.0)
    assert _resample._by_kernel(kernel, image, 8, box) is None
    assert (_resample.resized(image, 8, box) == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of ImageNet is not here")
def test_photographs_are_resized_as_pillow_does(kernel, monkeypatch):
    cells = [cell["bytes"] for cell in pq.read_table(SAMPLE, columns=["image"]).column(0)[:100].to_pylist()]
    first = [decode(data, 64) for data in cells]
    monkeypatch.setattr(_resample, "_checked", lambda: None)
    assert all(np.array_equal(decode(data, 64), held) for data, held in zip(cells, first, strict=True))


# ----------------------------------------------------------------------------------------------------------------- memory


def own_memory() -> int:
    """Bytes that belong to this process alone; files that it has mapped are not counted."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux tells it")
@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_over_an_epoch(tmp_path, packed):
    cells = [encoded(picture(seed, 64, 64), "JPEG") for seed in range(4)]
    parquet(tmp_path / "train.parquet", cells * 1500)
    data = Hub(path=str(tmp_path / "train.parquet"), size=64, cache_gb=0.0, workers=2)
    if packed:
        pack(data, tmp_path / "packed", 64, ("train",))
        data = Packed(folder=str(tmp_path / "packed"))
    images = data.load("train").images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(128)
    for part in order[:8]:
        images.batch(part)
    before = own_memory()
    for part in order:
        images.batch(part)
    assert own_memory() - before < 16e6, "all of these images take 66 MB when decoded"
