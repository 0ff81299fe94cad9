"""Features that a frozen network gives for a set of images, made once for every measure that looks at them."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wingspan.data.base import Data, Images, ImageSet
from wingspan.errors import UserError
from wingspan.network import Network
from wingspan.progress import bar, tell
from wingspan.store.rows import take
from wingspan.store.store import Store
from wingspan.store.store import open_store as open

__all__ = ["Bank", "Need", "Split", "bank", "extract", "forward", "open", "room", "stored_bank"]

Need = Literal["train", "test", "layers", "network"]
"""train, test: features of that split; layers: of the projector's layers too; network: the network itself and the images."""

_DECODED = 1024  # rows of a sparse store at a time
_MAPPED = 2**30  # bytes from which features lie in a file that the system pages in and out, not in memory


@dataclass(frozen=True)
class Split:
    """One split of a data set: its features h (N, D) in fp16 on the CPU, and its images with every task's labels.

    h is (N, 0) where no measure asked for it. `layers` holds h and the projector's layers ("projector 1"), where asked. From a
    packed store h is bits, uint8 (N, ceil(D / 8)) as `wingspan.bits` packs them, and `width` is D.
    """

    h: Tensor
    images: ImageSet
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    width: int = 0  # D of packed bits; 0: h is dense


@dataclass(frozen=True)
class Bank:
    """What a measure looks at: features of a data set's two splits, and where they come from."""

    data: str  # the data set's short name
    train: Split
    test: Split
    fingerprint: str  # of the run
    network: Network | None = None  # the network itself, for gradients and views of its own; None for features from a file
    source: Data | None = None  # the data set, for measures that need more of it than images and labels


def extract(network: Network, images: ImageSet, *, layers: bool = False, batch: int = 512, label: str) -> dict[str, Tensor]:
    """{"h": (N, D)} in fp16 on the CPU, of every image's view without chance, in order; with `layers` the projector's too.

    Above a gigabyte features lie in a temporary memory-mapped file. Raises UserError naming the network and the rows whose
    features are not finite.
    """
    found: dict[str, Tensor] = {}
    bad = torch.zeros(len(images), dtype=torch.bool)
    batches = torch.arange(len(images)).split(batch)
    with bar(label, len(batches), per_unit=batch, things="images") as shown:
        for rows, made in zip(batches, forward(network, images, batches, layers), strict=True):
            for name, values in made.items():
                if name not in found:
                    found[name] = room(len(images), values.shape[1])
                half = values.to("cpu", torch.float16)
                bad[rows] |= ~torch.isfinite(half).all(1)
                found[name][int(rows[0]) : int(rows[-1]) + 1] = half
            shown.advance()
    if bad.any():
        raise not_finite(network, label, bad.nonzero().flatten().tolist())
    return found


def forward(network: Network, images: ImageSet, batches: Sequence[Tensor], layers: bool) -> Iterator[dict[str, Tensor]]:
    """{"h": (n, D)} in fp32 on the network's device for every batch of rows (n,), in order; with `layers` the projector's too.

    The next batch's pixels are fetched meanwhile.
    """
    network.backbone.eval()  # however it was handled since
    with ThreadPoolExecutor(1, thread_name_prefix="pixels") as thread:
        ahead = [thread.submit(images.images.batch, rows) for rows in batches[:1]]
        for rows in [*batches[1:], None]:
            pixels = ahead.pop().result()
            if rows is not None:
                ahead.append(thread.submit(images.images.batch, rows))
            views = network.plain(pixels)
            yield network.layers(views) if layers else {"h": network.h(views)}


def not_finite(network: Network, label: str, rows: Sequence[int]) -> UserError:
    """The message about features that no one can use."""
    named = ", ".join(map(str, rows[:5]))
    return UserError(
        f"{network.name}, {label}: features of {len(rows)} images are not finite (rows {named}): "
        "the run has diverged; train it again with a lower --optim.lr."
    )


def room(rows: int, width: int) -> Tensor:
    """An uninitialised (rows, width) in fp16: in memory, or, above a gigabyte, in a nameless file in the temporary folder."""
    if rows * width * 2 <= _MAPPED:
        return torch.empty(rows, width, dtype=torch.float16)
    size = rows * width * 2
    try:
        with tempfile.NamedTemporaryFile(prefix="wingspan-features-") as file:  # its pages outlive its name
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is refused here, not as a crash at some later write
            return torch.from_file(file.name, shared=True, size=rows * width, dtype=torch.float16).view(rows, width)
    except OSError as error:
        raise UserError(
            f"no room for features of {rows:,} images x {width} ({size / 1e9:.1f} GB) in {tempfile.gettempdir()}: {error}. "
            "Point TMPDIR at a folder with more space."
        ) from error


def stored_bank(store: Store) -> Bank:
    """Both splits of a store, read where they lie: what is packed stays packed; sparse rows are decoded, as `room` keeps them.

    Raises UserError when the store lacks a split.
    """

    def split(name: str) -> Split:
        part = store.part(name)
        images = ImageSet(_Later(store, name), part.labels, part.classes, part.target, quantities=part.quantities)
        if part.format == "packed":
            return Split(take(part.bits, slice(0, len(part))), images, width=part.width)
        if part.format == "fp16":
            return Split(take(part.dense, slice(0, len(part))), images)
        h = room(len(part), part.width)
        for start in range(0, len(part), _DECODED):
            h[start : start + _DECODED] = take(part.dense, slice(start, start + _DECODED))
        return Split(h, images)

    about = store.manifest
    return Bank(about.data.label_name, split("train"), split("test"), about.model.fingerprint, source=about.data)


@dataclass(frozen=True)
class _Later:
    """A store's images, loaded when a measure looks at pixels."""

    store: Store
    split: str

    def __len__(self) -> int:
        return self.store.manifest.splits[self.split].rows

    @property
    def side(self) -> int:
        return self._images.side

    def batch(self, indices: Tensor) -> Tensor:
        return self._images.batch(indices)

    @functools.cached_property
    def _images(self) -> Images:
        return self.store.images(self.split).images


def bank(network: Network, data: Data, fingerprint: str, needs: Collection[Need] = ("train", "test")) -> Bank:
    """Both splits of a data set, with the features that are needed, of images at the side that the data set states."""
    network = network.at(data.side)

    def split(name: Literal["train", "test"]) -> Split:
        images = data.load(name)
        tell(images.notes)
        if name not in needs:
            return Split(torch.empty(len(images), 0, dtype=torch.float16), images)
        label = f"features of {data.label_name} {name}"
        made = extract(network, images, layers="layers" in needs, label=label)
        return Split(made["h"], images, made if "layers" in needs else {})

    return Bank(data.label_name, split("train"), split("test"), fingerprint, network, data)
