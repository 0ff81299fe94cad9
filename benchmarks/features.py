"""The feature store against its promises: bytes on disk, search, the rate of extraction, and kills that change nothing.

    python benchmarks/features.py --json
    python benchmarks/features.py --only extraction --backbone resnet18 --stem cifar --width 32768 --images 1024
    python benchmarks/features.py --only extraction --side 224 --backbone resnet18 --width 8192 --images 512 --batch 64

size: packed and sparse over fp16, files of labels and checksums included, and whether all three give the same codes.
search: exact Hamming top-10 beside faiss (benchmarks/hamming.py; left out where faiss is not installed).
extraction: images a second of writing a store, from decoding to the last byte on the disk, over those of the network alone on
views in memory; in turn, the median over rounds with the least and greatest. Pictures up to 64 pixels are decoded once before,
as for training; larger ones are JPEGs, decoded as they are needed.
kills: `wingspan features` killed (SIGKILL) five times at random moments, then let through; every byte compared with an
uninterrupted store's.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _parts import carry_out
from PIL import Image

from wingspan import spec
from wingspan.data.hub import Hub
from wingspan.extraction import Wanted, extract_to
from wingspan.network import Network
from wingspan.recipes import SMALL
from wingspan.runtime import Runtime, hold_memory
from wingspan.store.manifest import Model

PARTS = ("size", "search", "extraction", "kills")


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    hold_memory()
    parts = {"size": size, "search": search, "extraction": extraction, "kills": kills}
    carry_out(options, parts, benchmark="features", threads=options.threads)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="some of the parts")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every side")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--stem", default="", help="cifar, half or imagenet; the backbone's own when left out")
    parser.add_argument("--width", type=int, default=32768, help="D")
    parser.add_argument("--images", type=int, default=4096, help="images extracted, and those of size")
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--format", default="packed", choices=("packed", "fp16", "sparse"), help="of the extracted store")
    parser.add_argument("--rounds", type=int, default=5, help="of extraction")
    return parser.parse_args()


def pictures(options: argparse.Namespace, folder: Path) -> Hub:
    """A Parquet file of encoded pictures that are neither noise nor flat, of ten classes."""
    file = folder / f"pictures-{options.side}-{options.images}.parquet"
    if not file.exists():
        chance, cells = np.random.default_rng(0), []
        for _ in range(options.images):
            small = Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture, data = small.resize((options.side, options.side), Image.Resampling.BICUBIC), io.BytesIO()
            picture.save(data, "PNG" if options.side <= 64 else "JPEG")
            cells.append({"bytes": data.getvalue(), "path": None})
        pq.write_table(pa.table({"image": cells, "label": chance.integers(0, 10, options.images)}), file)
    return Hub(path=str(file), size=options.side, cache_gb=8.0 if options.side <= 64 else 0.0)


def built(options: argparse.Namespace) -> Network:
    changes = {"backbone": options.backbone, "backbone.width": options.width}
    run = spec.override(SMALL, changes | ({"backbone.stem": options.stem} if options.stem else {}))
    torch.manual_seed(0)
    return Network(run.backbone.build(), run.augment, Runtime("auto"), name="built")


def size(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for width in sorted({2048, options.width}):
        chosen = argparse.Namespace(**{**vars(options), "width": width, "side": 32})
        network, data = built(chosen), pictures(chosen, folder)
        stores = {}
        for kind in ("fp16", "packed", "sparse"):
            wanted = Wanted(kind, batch=options.batch, splits=("train",))
            stores[kind] = extract_to(folder / f"size-{kind}-{width}", network, Model("built"), data, wanted).train
        codes = [hashlib.sha256(part.bits[:].numpy().tobytes()).hexdigest() for part in stores.values()]
        h = stores["fp16"].dense[:]
        assert isinstance(h, torch.Tensor)
        found[f"D={width}"] = {
            "bytes_an_image": {kind: round(part.size / len(part), 1) for kind, part in stores.items()},
            "packed_times_16_over_fp16": round(16 * stores["packed"].size / stores["fp16"].size, 4),
            "sparse_over_fp16": round(stores["sparse"].size / stores["fp16"].size, 4),
            "share_above_0": round(float((h > 0).float().mean()), 4),
            "codes_equal": len(set(codes)) == 1,
            "sparse_values_equal": bool(torch.equal(stores["sparse"].dense[:], h)),
        }
    return found


def search(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import hamming

    return hamming.compare(codes=50_000, queries=1_000, width=32_768, top=10, threads=options.threads, pairs=3)


def extraction(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    network, data = built(options), pictures(options, folder)
    images = data.load("train")
    rows = torch.arange(min(len(images), options.batch))
    views = network.at(options.side).plain(images.images.batch(rows))
    sizes = [min(options.batch, len(images) - start) for start in range(0, len(images), options.batch)]

    def alone() -> float:
        began = time.perf_counter()
        for count in sizes:
            network.h(views[:count])
        return time.perf_counter() - began

    def stored(name: str) -> float:
        wanted = Wanted(options.format, batch=options.batch, splits=("train",))
        began = time.perf_counter()
        extract_to(folder / name, network, Model("built"), data, wanted)
        return time.perf_counter() - began

    network.h(views), stored("warm")
    times = [(alone(), stored(f"extracted-{at}")) for at in range(options.rounds)]
    ratios = [forward / whole for forward, whole in times]
    return {
        "backbone": options.backbone, "width": options.width, "side": options.side, "batch": options.batch,
        "format": options.format, "images": len(images), "rounds": options.rounds,
        "forward_images_per_second": round(len(images) / statistics.median(forward for forward, _ in times), 1),
        "extraction_images_per_second": round(len(images) / statistics.median(whole for _, whole in times), 1),
        "extraction_over_forward": [round(each(ratios), 3) for each in (statistics.median, min, max)],
    }  # fmt: skip


def kills(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "wingspan.cli"]
    run, scenes = folder / "run", ["--data.train", "64", "--data.test", "32", "--data.size", "32"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    train = ["pretrain", "--recipe", "small", "--width", "4096", "--epochs", "1", "--batch", "64", "--no-online", *scenes]
    subprocess.run([*words, *train, "--out", str(run)], check=True, **quiet)  # type: ignore[call-overload]
    more = [
        "--data",
        str(pictures(argparse.Namespace(side=32, images=20_000), folder).path),
        "--format",
        "packed",
        "--batch",
        "256",
    ]

    def command(out: str) -> list[str]:
        return [*words, "features", str(run), *more, "--out", str(folder / out)]

    began = time.perf_counter()
    subprocess.run(command("whole"), check=True, **quiet)  # type: ignore[call-overload]
    whole, chance, moments = time.perf_counter() - began, random.Random(os.getpid()), []
    while len(moments) < 5:
        process = subprocess.Popen(command("cut"), **quiet)  # type: ignore[call-overload]
        moments.append(round(chance.uniform(0, whole), 2))
        time.sleep(moments[-1])
        process.kill()
        process.wait()
    left = len(list((folder / "cut").rglob("*.bits")))
    subprocess.run(command("cut"), check=True, **quiet)  # type: ignore[call-overload]
    return {
        "images": 20_000, "seconds_uninterrupted": round(whole, 2), "killed_after_seconds": moments,
        "shards_before_the_last_sitting": left, "same_bytes": hashes(folder / "whole") == hashes(folder / "cut"),
        "checksums": subprocess.run([*words, "features", str(folder / "cut"), "--check"], check=False, **quiet).returncode == 0,  # type: ignore[call-overload]
    }  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()
