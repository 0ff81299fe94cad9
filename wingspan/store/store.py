"""A store of features, opened: views of its rows, labels and images, memory-mapped."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from wingspan import bits
from wingspan.data.base import ImageSet
from wingspan.errors import UserError, nearest
from wingspan.store import manifest as manifests
from wingspan.store import shards
from wingspan.store._mapping import mapped
from wingspan.store.checks import INDEX, check
from wingspan.store.manifest import Manifest
from wingspan.store.rows import Rows, View, take
from wingspan.store.sparse import Sparse


@dataclass(frozen=True)
class Store:
    """A folder that `wingspan features` wrote, opened by `open_store`."""

    path: Path
    manifest: Manifest

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.manifest.splits)

    def part(self, split: str) -> Part:
        """One split's rows and labels. Raises UserError naming the splits there are."""
        if split not in self.manifest.splits:
            raise UserError(f"{self.path} holds no split '{split}'.{nearest(split, self.splits)}")
        return self._parts[split]

    @functools.cached_property
    def _parts(self) -> Mapping[str, Part]:
        return {split: Part(self, split) for split in self.splits}

    @property
    def train(self) -> Part:
        return self.part("train")

    @property
    def test(self) -> Part:
        return self.part("test")

    def images(self, split: str) -> ImageSet:
        """The images themselves, which the store does not hold: loaded again from where they came.

        Raises UserError when they are gone, or no longer as many.
        """
        self.part(split)
        data = self.manifest.data
        try:
            found = data.load(cast(Literal["train", "test"], split))
        except UserError as error:
            raise UserError(f"the images of {self.path} cannot be loaded: {error}") from error
        if len(found) != (rows := self.manifest.splits[split].rows):
            raise UserError(
                f"{self.path} holds features of {rows:,} images of split '{split}' of '{data.label_name}', where there are "
                f"{len(found):,} now: the images have changed. Extract the features again."
            )
        return found


@dataclass(frozen=True)
class Part:
    """One split of a store: N images."""

    store: Store
    split: str

    def __len__(self) -> int:
        return self.store.manifest.splits[self.split].rows

    @property
    def width(self) -> int:
        """D."""
        return self.store.manifest.width

    @property
    def format(self) -> manifests.Format:
        return self.store.manifest.format

    @property
    def threshold(self) -> float:
        """A bit of `bits` says that h lay above this."""
        return self.store.manifest.threshold

    @property
    def target(self) -> str | None:
        """The task that images are classified by; None where they have no labels."""
        return self.store.manifest.splits[self.split].target

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """task -> names of its classes, in label order."""
        return self.store.manifest.splits[self.split].classes

    @functools.cached_property
    def bits(self) -> Rows:
        """Codes (N, ceil(D / 8)) uint8, most significant bit first: a mapped tensor, or for fp16 a view that packs."""
        if self.format == "fp16":
            return View(self.dense, -(-self.width // 8), torch.uint8, shards.codes)
        return self._mapped("bits", torch.uint8, -(-self.width // 8))

    @functools.cached_property
    def dense(self) -> Rows:
        """h (N, D) fp16: a mapped tensor for fp16, a view that decodes for sparse, and for packed zeros and ones."""
        if self.format == "fp16":
            return self._mapped("fp16", torch.float16, self.width)
        if self.format == "packed":
            return View(self.bits, self.width, torch.float16, functools.partial(_unpacked, width=self.width))
        values = [_tensor([file], [file.stat().st_size], torch.float16) for file in self._files("values")]
        starts = [_tensor([file], [file.stat().st_size], torch.int64) for file in self._files("starts")]
        return Sparse(cast(Tensor, self.bits), values, starts, self.width, self.store.manifest.shard_rows)

    def batches(self, size: int = 1024) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """All rows in order, `size` at a time: h (n, D) as `dense` gives it, and every task's labels (n,)."""
        for start in range(0, len(self), size):
            at = slice(start, min(start + size, len(self)))
            yield take(self.dense, at), {task: values[at] for task, values in self.labels.items()}

    @functools.cached_property
    def labels(self) -> Mapping[str, Tensor]:
        """task -> labels (N,) int64."""
        return {task: torch.from_numpy(self._column(f"label {task}").astype(np.int64)) for task in self.classes}

    @functools.cached_property
    def quantities(self) -> Mapping[str, Tensor]:
        """name -> numbers (N,) float32."""
        names = self.store.manifest.splits[self.split].quantities
        return {name: torch.from_numpy(self._column(f"quantity {name}").astype(np.float32)) for name in names}

    @functools.cached_property
    def ids(self) -> Tensor:
        """(N,) int64: the image's row in its split."""
        return torch.from_numpy(self._column("id").astype(np.int64))

    @functools.cached_property
    def paths(self) -> Sequence[str] | None:
        """Where each image came from, a path or a name; None where the data set has none."""
        return cast(list[str], self._table.column("path").to_pylist()) if "path" in self._table.column_names else None

    @property
    def size(self) -> int:
        """Bytes on disk, labels and paths included."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    @property
    def folder(self) -> Path:
        return self.store.path / self.split

    @functools.cached_property
    def _table(self) -> Any:
        return pq.read_table(self.folder / INDEX)

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        return cast(np.ndarray[Any, np.dtype[Any]], self._table.column(name).to_numpy().copy())

    def _files(self, suffix: str) -> list[Path]:
        return [self.folder / shards.name(shard, suffix) for shard in range(self.store.manifest.shards(self.split))]

    def _mapped(self, suffix: str, dtype: torch.dtype, columns: int) -> Tensor:
        manifest = self.store.manifest
        sizes = [len(manifest.rows_of(self.split, shard)) * manifest.row_bytes for shard in range(manifest.shards(self.split))]
        return _tensor(self._files(suffix), sizes, dtype).view(len(self), columns)


def _unpacked(codes: Tensor, width: int) -> Tensor:
    return bits.unpack(codes, width, torch.float16)


def _tensor(files: Sequence[Path], sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(mapped(files, sizes)).view(dtype)


def open_store(path: Path | str, *, verify: bool = False) -> Store:
    """The store in a folder. `verify` reads every byte and compares checksums; without it, sizes are compared.

    Raises UserError when there is no store, when its extraction has not finished, and naming the file that is missing,
    truncated or damaged.
    """
    path = Path(path)
    manifest = manifests.read(path)
    check(path, manifest, verify)
    return Store(path, manifest)
