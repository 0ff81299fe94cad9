"""What a store holds and where it comes from: `store.json`, written before the first shard and never changed.

DIR/store.json              this
DIR/run.json                the settings of the run whose features these are, as in the run's own folder
DIR/test/index.parquet      a row an image: its row in the split, its path where it has one, every label and quantity
DIR/test/00000.bits         2,048 images or so: bits most significant first (wingspan.bits), fp16 in rows, or what sparse keeps
DIR/test/SHA256SUMS         of every finished file, as `sha256sum --check` reads it; what is not listed is not there yet
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wingspan import spec
from wingspan.data.base import Data
from wingspan.errors import UserError
from wingspan.runs import read_json, write_json
from wingspan.store._mapping import PAGE

Format = Literal["fp16", "packed", "sparse"]
VERSION = 1
_FILE = "store.json"
_ROWS = 2048  # images a shard: what a kill costs at most


@dataclass(frozen=True)
class Model:
    """Which network: enough to refuse another, and to find it again."""

    name: str
    run: str = ""  # the run's folder; "" for a module that is no run
    fingerprint: str = ""  # of the run's settings
    step: int = 0  # of the checkpoint
    weights: str = ""  # sha256 of the checkpoint's weights


@dataclass(frozen=True)
class SplitFacts:
    """One split: how many images, and what is known of each."""

    rows: int
    target: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # task -> names, in label order
    quantities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A store's settings. Two that are equal hold the same bytes, made on the same machine."""

    model: Model
    data: Data
    width: int  # D, or the width of the layer
    format: Format
    splits: Mapping[str, SplitFacts]
    side: int  # pixels that the network looked at
    shard_rows: int  # images in every shard but the last
    layer: str = "h"
    threshold: float = 0.0  # bits are h > threshold
    precision: str = "fp32"
    batch: int = 512  # images through the network at a time: results may depend on it in the last digit
    notes: tuple[str, ...] = ()  # why this format, what was left out
    version: int = VERSION

    @property
    def row_bytes(self) -> int:
        """Bytes that an image takes in shards of fixed size: sparse values come on top."""
        return row_bytes(self.format, self.width)

    def shards(self, split: str) -> int:
        return -(-self.splits[split].rows // self.shard_rows)

    def rows_of(self, split: str, shard: int) -> range:
        """The images that a shard holds."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, self.splits[split].rows))


def row_bytes(kind: Format, width: int) -> int:
    return 2 * width if kind == "fp16" else -(-width // 8)


def shard_rows(kind: Format, width: int) -> int:
    """Images a shard: about 2,048, and so many that they fill whole pages, so that shards can be mapped side by side."""
    least = PAGE // math.gcd(PAGE, row_bytes(kind, width))
    return least * max(1, _ROWS // least)


def present(folder: Path) -> bool:
    """Whether a folder is a store, begun or whole."""
    return (folder / _FILE).exists()


def read(folder: Path) -> Manifest:
    """The manifest of the store in `folder`.

    Raises UserError when there is none, one of another version, or one whose splits would lie outside the folder.
    """
    file = folder / _FILE
    if not file.exists():
        told = "it does not exist" if not folder.exists() else f"it holds no {_FILE}"
        raise UserError(f"'{folder}' is no store of features: {told}. Make one: wingspan features RUN --out {folder}")
    value = read_json(file)
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise UserError(f"{file}: version {version}, this Wingspan reads version {VERSION}. Extract the features again.")
    found = spec.from_json(Manifest, value, str(file))
    for split in found.splits:  # each is the name of a folder
        if not re.fullmatch(r"\w[\w.-]*", split):
            raise UserError(f"{file}: '{split[:80]}' cannot be the name of a split. Get the store from where it is whole.")
    return found


def write(folder: Path, manifest: Manifest) -> None:
    write_json(folder / _FILE, spec.to_json(manifest))
