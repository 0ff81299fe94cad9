"""Optional, for compare.py: the same small images for every side, and CIFAR's data set class over them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
COUNT = 4096


def pixels(folder: str) -> Pixels:
    """(N, 32, 32, 3): the first images of `folder`/train.parquet, or smooth random ones where no folder is given."""
    if not folder:
        coarse = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
        return np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in coarse])
    import pyarrow.parquet as parquet

    rows = next(parquet.ParquetFile(Path(folder) / "train.parquet").iter_batches(COUNT, columns=["image"])).to_pylist()
    encoded = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    return np.stack([np.asarray(image.resize((32, 32)) if image.size != (32, 32) else image) for image in encoded])


class InMemory:
    """What torchvision.datasets.CIFAR10 does with its array: a PIL image and a label by index, through `transform`."""

    def __init__(self, data: Pixels, transform: Callable[[Any], Any] | None = None) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), index % 10
