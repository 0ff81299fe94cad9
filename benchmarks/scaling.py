"""Views a second of several processes over those of one, as `wingspan pretrain --devices N` runs.

    python benchmarks/scaling.py --json
    python benchmarks/scaling.py --devices 8 --backbone resnet50 --width 8192 --batch 512 --size 224      # on GPUs

Every row trains the same network through the command line, in turn, round after round; the rate is that of the steps after the
first three. On a CPU a process has one thread, and one process with as many threads as there are processes stands beside them.
efficiency: (views a second of N) / (N x views a second of one); same batch: the batch is shared; same share: it grows with N.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SKIPPED = 3  # steps: memory is taken and kernels are chosen in them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--objective", default="simclr")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    N = options.devices
    rows = {"one": (1, 1, 1), "same batch": (N, 1, 1), "same share": (N, 1, N)}
    if not torch.cuda.is_available():
        rows["one, with as many threads"] = (1, N, 1)
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.rounds):
        for name, (devices, threads, factor) in rows.items():
            rates[name].append(rate(options, devices, threads, options.batch * factor))
    found = {
        name: {
            "views_per_second": statistics.median(values),
            "over one": spread([value / one for value, one in zip(values, rates["one"], strict=True)]),
            "efficiency": spread([value / one / N for value, one in zip(values, rates["one"], strict=True)]),
        }
        for name, values in rates.items()
    }
    about = {name: getattr(options, name) for name in ("devices", "backbone", "width", "objective", "batch", "size")}
    if options.json:
        print(json.dumps({**about, "load": os.getloadavg()[0], "rows": found}, indent=1))
        return
    for name, row in found.items():
        middle, low, high = row["efficiency"]
        print(f"{name:<28} {row['views_per_second']:>9,.0f} views/s  efficiency {middle:.2f} ({low:.2f} to {high:.2f})")


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def rate(options: argparse.Namespace, devices: int, threads: int, batch: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--recipe", "small", "--backbone", options.backbone, "--width", options.width, "--objective", options.objective,
            "--batch", batch, "--data.size", options.size, "--data.train", batch * (options.steps + SKIPPED), "--data.test", 10,
            "--epochs", 1, "--no-online", "--devices", devices, "--out", f"{folder}/run",
        ]  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "wingspan.cli", "pretrain", *map(str, words)],
            check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        views = lines[-1]["views_per_second"] * lines[-1]["seconds"]
        early = lines[SKIPPED - 1]
        return (views - early["views_per_second"] * early["seconds"]) / (lines[-1]["seconds"] - early["seconds"])


if __name__ == "__main__":
    main()
