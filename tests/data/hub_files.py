"""Small image files for the tests of `hub`."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from wingspan.data.hub import Hub


def picture(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    held = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(held, kind, **options)
    return held.getvalue()


def parquet(file: Path, cells: list[bytes], **columns) -> Path:
    """Images of the Hugging Face layout, with further columns; a column given as (values, class names) is a ClassLabel."""
    features = {"image": datasets.Image()}
    for name, held in columns.items():
        if isinstance(held, tuple):
            columns[name], features[name] = held[0], datasets.ClassLabel(names=held[1])
    images = pa.array([{"bytes": cell, "path": None} for cell in cells], datasets.Image().pa_type)
    table = pa.table({"image": images, **columns})
    meta = datasets.Features({**datasets.Features.from_arrow_schema(table.schema), **features}).arrow_schema.metadata
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta), file)
    return file


def pngs(count: int, start: int = 0) -> list[bytes]:
    return [encoded(picture(start + i)) for i in range(count)]


def pixels(count: int, start: int = 0) -> torch.Tensor:
    return torch.stack([torch.from_numpy(picture(start + i)).permute(2, 0, 1) for i in range(count)])


def every(image_set) -> torch.Tensor:
    return image_set.images.batch(torch.arange(len(image_set)))


def pair(folder: Path, **options) -> Hub:
    """Six training and four test images with a ClassLabel."""
    parquet(folder / "train.parquet", pngs(6), label=([0, 1, 2, 0, 1, 2], ["ant", "bee", "cat"]))
    parquet(folder / "test.parquet", pngs(4, 50), label=([2, 1, 0, 0], ["ant", "bee", "cat"]))
    return Hub(path=str(folder), size=8, **options)
