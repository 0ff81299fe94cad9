"""Nearest neighbours beside brute force with everything in memory: time, and memory beyond the mapped features.

    python benchmarks/knn.py [--json] [--threads 1] [--train 10000] [--test 1000] [--width 4096] [--pairs 3] [--only SIDE]

Three sides read the same mapped fp16 file, each in a process of its own, in turn: `dense` takes the whole bank to fp32 and all
similarities at once, as peers do; `cosine` and `hamming` are what `--measures knn` does. Seconds are those of the search alone;
memory is the greatest private memory (RssAnon, Linux) above that before the search. Ratios are dense over ours, the median over
pairs with the least and greatest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import memory
import torch
from torch import Tensor

from wingspan import bits, neighbours
from wingspan.chance import generator

K = 20
SIDES = ("dense", "cosine", "hamming")


def dense(train: Tensor, test: Tensor) -> Tensor:
    bank = torch.nn.functional.normalize(train.float())
    return (torch.nn.functional.normalize(test.float()) @ bank.T).topk(K).indices


def search(side: str, train: Tensor, test: Tensor) -> Tensor:
    if side == "dense":
        return dense(train, test)
    if side == "cosine":
        return neighbours.cosine(train, test, K).indices
    return neighbours.hamming(bits.pack(train), bits.pack(test), train.shape[1], K).indices


def one_side(side: str, folder: str, sizes: tuple[int, int], width: int) -> dict[str, float]:
    train, test = (
        torch.from_file(f"{folder}/{name}", shared=True, size=n * width, dtype=torch.float16).view(n, width)
        for name, n in zip(("train", "test"), sizes, strict=True)
    )
    search(side, train[:64], test[:64])  # libraries load what they need
    with memory.growth() as grown:
        start = time.perf_counter()
        search(side, train, test)
        taken = time.perf_counter() - start
    return {"seconds": taken, "bytes": grown.bytes}


def write(folder: str, sizes: tuple[int, int], width: int) -> None:
    """Features of which about half are zeros, a part at a time."""
    for name, n in zip(("train", "test"), sizes, strict=True):
        with Path(folder, name).open("wb") as file:
            for start in range(0, n, 1024):
                rows = min(1024, n - start)
                part = torch.randn(rows, width, generator=generator(0, name, start)).relu_().half()
                file.write(part.numpy().tobytes())


def compare(chosen: argparse.Namespace, folder: str) -> dict[str, object]:
    sides = SIDES if not chosen.only else (chosen.only,)
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(chosen.pairs):
        for side in sides:
            words = [sys.executable, __file__, "--one-side", side, "--folder", folder, "--threads", str(chosen.threads)]
            sizes = ["--train", str(chosen.train), "--test", str(chosen.test), "--width", str(chosen.width)]
            seen[side].append(json.loads(subprocess.run([*words, *sizes], stdout=subprocess.PIPE, check=True).stdout))
    found: dict[str, object] = {}
    for side in sides:
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(seen.get("dense", []), seen[side], strict=False)]
        found[side] = {
            "seconds": round(statistics.median(run["seconds"] for run in seen[side]), 2),
            "memory_mb": round(max(run["bytes"] for run in seen[side]) / 1e6, 1),
            "dense_over_this": [round(f(ratios), 2) for f in (statistics.median, min, max)] if ratios else None,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads for all sides")
    parser.add_argument("--train", type=int, default=10_000, help="images in the bank")
    parser.add_argument("--test", type=int, default=1_000, help="images that ask")
    parser.add_argument("--width", type=int, default=4096, help="D")
    parser.add_argument("--pairs", type=int, default=3, help="rounds over the sides")
    parser.add_argument("--only", choices=SIDES, help="one side alone, where brute force does not fit")
    parser.add_argument("--one-side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sizes = (chosen.train, chosen.test)
    if chosen.one_side:
        print(json.dumps(one_side(chosen.one_side, chosen.folder, sizes, chosen.width)))
        return
    with tempfile.TemporaryDirectory(prefix="wingspan-benchmark-") as folder:
        write(folder, sizes, chosen.width)
        sides = compare(chosen, folder)
    found = {
        "benchmark": "knn", "train": chosen.train, "test": chosen.test, "width": chosen.width, "k": K,
        "mapped_mb": round(sum(sizes) * chosen.width * 2 / 1e6, 1), "threads": chosen.threads, "pairs": chosen.pairs,
        "torch": torch.__version__, "load_average": [round(load, 2) for load in os.getloadavg()], "sides": sides,
    }  # fmt: skip
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in found.items() if name != "sides"))
    for side, told in sides.items():
        print(f"{side:>8} {told}")


if __name__ == "__main__":
    main()
