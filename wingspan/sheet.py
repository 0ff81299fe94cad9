"""A contact sheet: images and the views that training would see of them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wingspan import augment as augmentation
from wingspan.chance import generator
from wingspan.pretrain import Pretrain
from wingspan.runs import explained


def contact_sheet(run: Pretrain, file: Path, rows: int = 6, columns: int = 3, zoom: int = 2, views: int = 2) -> None:
    """Write a PNG of rows x columns groups: an image of the training split, then some views of it."""
    images = run.data.load("train")
    chosen = torch.randperm(len(images), generator=generator(run.seed, "sheet"))[: rows * columns]
    pixels = images.images.batch(chosen)
    shown = [_pixels(run, augmentation.plain(run.views, pixels))]
    if views:
        draws = augmentation.draws(run.views, len(chosen), views, run.seed, 0)
        shown += _pixels(run, augmentation.apply(run.views, pixels, draws)).split(len(chosen))
    groups = torch.stack(shown, 1)  # (n, 1 + views, 3, S, S)
    grid(groups.flatten(0, 1), columns * groups.shape[1], file, zoom)


def _pixels(run: Pretrain, x: Tensor) -> Tensor:
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (run.augment.mean, run.augment.std))
    return ((x.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def grid(pixels: Tensor, columns: int, file: Path, zoom: int = 1) -> None:
    """Write images (n, 3, S, S) uint8 as a PNG with `columns` a row, each enlarged `zoom` times."""
    n, _, S, _ = pixels.shape
    rows = -(-n // columns)
    gap = 2
    sheet = torch.full((3, rows * (S + gap), columns * (S + gap)), 255, dtype=torch.uint8)
    for at, image in enumerate(pixels):
        top, left = at // columns * (S + gap), at % columns * (S + gap)
        sheet[:, top : top + S, left : left + S] = image
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(file)
