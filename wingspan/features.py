"""Features that a frozen network gives for a set of images, made once for every measure that looks at them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from wingspan.data.base import Data, ImageSet
from wingspan.errors import UserError
from wingspan.network import Network
from wingspan.progress import bar, tell

Need = Literal["train", "test", "layers", "network"]
"""train, test: features of that split; layers: of the projector's layers too; network: the network itself and the images."""

_MAPPED = 2**30  # bytes from which features lie in a file that the system pages in and out, not in memory


@dataclass(frozen=True)
class Split:
    """One split of a data set: its features h (N, D) in fp16 on the CPU, and its images with every task's labels.

    h is (N, 0) where no measure asked for it. `layers` holds h and the projector's layers ("projector 1"), where asked.
    """

    h: Tensor
    images: ImageSet
    layers: Mapping[str, Tensor] = field(default_factory=dict)


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
    network.backbone.eval()  # however it was handled since
    found: dict[str, Tensor] = {}
    bad = torch.zeros(len(images), dtype=torch.bool)
    starts = range(0, len(images), batch)
    with bar(label, len(starts), per_unit=batch, things="images") as shown:
        for start in starts:
            rows = torch.arange(start, min(start + batch, len(images)))
            views = network.plain(images.images.batch(rows))
            made = network.layers(views) if layers else {"h": network.h(views)}
            for name, values in made.items():
                if name not in found:
                    found[name] = room(len(images), values.shape[1])
                half = values.to("cpu", torch.float16)
                bad[rows] |= ~torch.isfinite(half).all(1)
                found[name][start : start + len(rows)] = half
            shown.advance()
    if bad.any():
        rows_named = ", ".join(map(str, bad.nonzero().flatten()[:5].tolist()))
        raise UserError(
            f"{network.name}, {label}: features of {int(bad.sum())} images are not finite (rows {rows_named}): "
            "the run has diverged; train it again with a lower --optim.lr."
        )
    return found


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
