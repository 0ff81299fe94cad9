"""How many images a training split holds, told without decoding, downloading or writing anything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wingspan import spec
from wingspan.data._listed import Listed
from wingspan.data._source import IN_MEMORY, SPLITS, Table, _group, _split_of, _walk
from wingspan.data.base import Data
from wingspan.data.cifar import Cifar
from wingspan.data.hub import HELD_OUT, Hub
from wingspan.data.imagenet import ImageNet
from wingspan.data.scenes import CLASSES, Scenes
from wingspan.errors import UserError

# (training images, classes) as published, of hub ids and of the files in this folder.
PUBLISHED = {
    "ILSVRC/imagenet-1k": (1_281_167, 1000),
    "uoft-cs/cifar10": (50_000, 10),
    "uoft-cs/cifar100": (50_000, 100),
    "ylecun/mnist": (60_000, 10),
    "imagenet": (1_281_167, 1000),
    "inat18": (437_513, 8142),
    "places205": (2_448_873, 205),
    "eurosat": (21_600, 10),
    "clevr": (70_000, 8),
    "cifar": (50_000, 10),
}


@dataclass(frozen=True)
class Length:
    """Training images; their labels (N,) where these could be read, else how many classes there are (0: not known)."""

    images: int
    source: str  # where the number is from, for people
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    classes: int = 0


def length(data: Data) -> Length | None:
    """What is known of the training split of `data`; None when its images are not here and no published number is known."""
    if isinstance(data, Scenes):
        labels = data.factors("train").labels()[data.target]
        return Length(data.train, "drawn, not stored", labels, CLASSES[data.target])
    try:
        found = _here(data)
    except (UserError, OSError):
        found = None  # the run itself will say what is wrong with the files
    return found or _published(data)


def _here(data: Data) -> Length | None:
    if isinstance(data, Hub):
        return _cached(data) if data.name else _files(data)
    if isinstance(data, Listed) and data.folder:
        listing = data.listing("train")
        labels = torch.from_numpy(listing.labels[listing.target])
        rows = data._hub()._limited(torch.arange(len(labels)).numpy(), labels.numpy(), "train")
        return Length(len(rows), "counted here", labels[rows], listing.classes[listing.target])
    return None


def _files(hub: Hub) -> Length | None:
    """Of local files: the labels and all, unless reading these would first copy them into the cache."""
    path = Path(hub.path).expanduser()
    files = [path] if path.is_file() else list(_walk(path))
    tables = [file for file in files if file.suffix == ".parquet"]
    if not tables and any(file.suffix == ".tar" for file in files):
        return None
    if sum(file.stat().st_size for file in tables) > IN_MEMORY:
        return _parquet_rows(hub, path if path.is_dir() else path.parent, tables)
    # Without a cache to decode into, loading only lists what there is.
    images = dataclasses.replace(hub, cache_gb=0, on_bad="error").load("train")
    labels, names = images.task() if images.target else (None, ())
    return Length(len(images), "counted here", labels, names)


def _parquet_rows(hub: Hub, root: Path, files: list[Path]) -> Length:
    import pyarrow.parquet as pq

    known = {*SPLITS, hub.split_train, hub.split_test} - {""}
    grouped = _group(files, lambda file: _split_of(file.relative_to(root), known))
    rows = {name: sum(pq.read_metadata(file).num_rows for file in group) for name, group in grouped.items()}
    return Length(_trained(hub, rows), "counted here")


def _cached(hub: Hub) -> Length | None:
    """Of a hub id that was downloaded before, told by the `datasets` library's own record."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / hub.name.replace("/", "___")
    records = sorted(folder.glob(f"{hub.config or '*'}/*/*/dataset_info.json"), key=lambda file: file.stat().st_mtime)
    if not records:
        return None
    splits = json.loads(records[-1].read_text()).get("splits") or {}
    rows = {name: int(split["num_examples"]) for name, split in splits.items()}
    return Length(_trained(hub, rows), "counted here")


def _trained(hub: Hub, rows: Mapping[str, int]) -> int:
    source, held_out = hub._source(dict.fromkeys(rows, _unread), "train")
    images = rows[source] - (max(1, round(HELD_OUT * rows[source])) if held_out else 0)
    return min(images, hub.limit_train or images)


def _unread() -> Table:
    raise NotImplementedError  # which split is wanted goes by names alone


def _published(data: Data) -> Length | None:
    if isinstance(data, Hub):
        images, classes = PUBLISHED.get(data.name, (0, 0)) if data.split_train == "train" else (0, 0)
    else:
        images, classes = PUBLISHED.get(spec.kind_of(data), (0, 0))
    if isinstance(data, Cifar):
        classes = data.classes
    if isinstance(data, ImageNet):
        if data.subset_list:
            return None
        images = max(1, round(data.subset * images))
    limit = getattr(data, "limit_train", 0)
    return Length(min(images, limit or images), "as published", classes=classes) if images else None
