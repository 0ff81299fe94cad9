"""Tiny folders laid out as the publishers of CLEVR, iNaturalist, Places205, ImageNet, ImageNet-9, CIFAR and EuroSAT do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from hub_files import encoded, picture


def save(file: Path, seed: int, height: int = 8, width: int = 8) -> Path:
    """PNG bytes under whatever name the layout asks for: pixels come back exactly."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(picture(seed, height, width)))
    return file


def shown(seeds) -> torch.Tensor:
    """The pixels that `save` wrote for these seeds."""
    return torch.stack([torch.from_numpy(picture(seed)).permute(2, 0, 1) for seed in seeds])


def named(found, task: str) -> list[str]:
    return [found.classes[task][label] for label in found.labels[task]]


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def clevr(root: Path, scenes: dict[str, list[list[float]]]) -> Path:
    """scenes: split -> for every scene the depths of its objects. Pictures are 12 x 8."""
    for split, depths in scenes.items():
        told = []
        for index, objects in enumerate(depths):
            name = f"CLEVR_{split}_{index:06d}.png"
            save(root / "images" / split / name, 100 * len(split) + index, width=12)
            held = [{"pixel_coords": [240, 160, depth], "shape": "cube", "color": "red"} for depth in objects]
            told.append({"image_index": index, "image_filename": name, "split": split, "objects": held})
        write(root / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps({"info": {"version": "1.0"}, "scenes": told}))
    return root


def inat18(root: Path) -> Path:
    """Category ids 7, 3, 5 listed out of order; four training images of 3, one of 5; validation one of each; out of order."""
    categories = [{"id": i, "name": name, "supercategory": "Aves"} for i, name in ((7, "Apus"), (3, "Corvus"), (5, "Bubo"))]
    for split, held in (("train", [3, 5, 3, 3, 3]), ("val", [7, 5, 3])):
        images, annotations = [], []
        for index, category in enumerate(held):
            name = f"train_val2018/Aves/{category}/{split}{index}.jpg"
            save(root / name, 1000 * len(split) + index)
            images.append({"id": 50 + index, "file_name": name, "width": 8, "height": 8})
            annotations.append({"id": index, "image_id": 50 + index, "category_id": category})
        told = {"images": images[::-1], "annotations": annotations, "categories": categories}
        write(root / f"{split}2018.json", json.dumps(told))
    return root


def places205(root: Path, images: str = "data/vision/torralba/deeplearning/images256") -> Path:
    pairs = {
        "train": [("a/abbey/gsun_1.jpg", 0), ("b/bedroom/gsun_2.jpg", 1), ("a/abbey/gsun_3.jpg", 0)],
        "val": [("b/bedroom/gsun_4.jpg", 1), ("a/apartment_building/outdoor/gsun_5.jpg", 2)],
    }
    for split, held in pairs.items():
        for path, label in held:
            save(root / images / path, 7 * label + len(path))
        write(root / "trainvalsplit_places205" / f"{split}_places205.csv", "".join(f"{path} {k}\n" for path, k in held))
    return root


WNIDS = ("n02085620", "n02086079", "n03991062")  # two dogs and a pot


def imagenet_train(root: Path, each: int = 10) -> Path:
    for label, wnid in enumerate(WNIDS):
        for index in range(each):
            save(root / wnid / f"{wnid}_{index}.JPEG", 100 * label + index)
    return root


def imagenet_val(folder: Path, wnids: list[str], nested: bool) -> Path:
    """Validation image i (from 1) has the pixels of seed 900 + i."""
    for index, wnid in enumerate(wnids, 1):
        name = f"ILSVRC2012_val_{index:08d}.JPEG"
        save(folder / wnid / name if nested else folder / name, 900 + index)
    return folder


def imagenet9(root: Path, variants: tuple[str, ...]) -> Path:
    """Two dogs and a fish in each variant; the composite ones are named as published: fg_X_bg_Y."""
    for number, variant in enumerate(variants):
        for index, (folder, own) in enumerate(
            (("00_dog", "n02085620_1"), ("00_dog", "n02086079_2"), ("08_fish", "n02536864_3"))
        ):
            name = f"fg_{own}_bg_n01833805_{index}" if variant.startswith("mixed") else own
            save(root / variant / "val" / folder / f"{name}.JPEG", 10 * number + index)
    return root


def cifar(folder: Path, classes: int, each: int = 4) -> dict[str, np.ndarray]:
    """The binary version; file name -> its records (N, labels + 3072)."""
    columns = 1 if classes == 10 else 2
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"] if classes == 10 else ["train.bin", "test.bin"]
    folder.mkdir(parents=True)
    written = {}
    for number, name in enumerate(files):
        records = np.random.default_rng(number).integers(0, 256, (each, columns + 3072), dtype=np.uint8)
        records[:, 0] %= 10 if classes == 10 else 20
        records[:, columns - 1] %= classes if classes == 10 else 100
        (folder / name).write_bytes(records.tobytes())
        written[name] = records
    if classes == 10:
        write(folder / "batches.meta.txt", "".join(f"name{i}\n" for i in range(10)) + "\n")
    else:
        write(folder / "coarse_label_names.txt", "".join(f"coarse{i}\n" for i in range(20)))
        write(folder / "fine_label_names.txt", "".join(f"fine{i}\n" for i in range(100)))
    return written


def eurosat(root: Path, each: int = 10) -> Path:
    for label, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        for index in range(1, each + 1):
            save(root / "2750" / name / f"{name}_{index}.jpg", 100 * label + index)
    return root
