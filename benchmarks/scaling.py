"""Views a second of several processes over those of one, as `wingspan pretrain --devices N` runs.

    python benchmarks/scaling.py --json
    python benchmarks/scaling.py --json --width 8192 --projector 8192-8192 --batch 128 --steps 4          # what fsdp saves
    python benchmarks/scaling.py --devices 8 --backbone resnet50 --width 8192 --batch 512 --size 224      # on GPUs

Every row trains the same network through the command line, in turn, round after round; the rate is that of the steps after the
first three. On a CPU a process has one thread, and one process with as many threads as there are processes stands beside them.
efficiency: (views a second of N) / (N x views a second of one); same batch: the batch is shared; same share: it grows with N;
fsdp: the batch is shared, and the projector's weights, too. resident: the largest process, without what is on a GPU.
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
    parser.add_argument("--projector", default="512-128")
    parser.add_argument("--objective", default="simclr")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    N = options.devices
    rows = {"one": (1, 1, 1, "ddp"), "same batch": (N, 1, 1, "ddp"), "same share": (N, 1, N, "ddp"), "fsdp": (N, 1, 1, "fsdp")}
    if not torch.cuda.is_available():
        rows["one, with as many threads"] = (1, N, 1, "ddp")
    rates: dict[str, list[float]] = {name: [] for name in rows}
    sizes = dict.fromkeys(rows, 0.0)
    for _ in range(options.rounds):
        for name, (devices, threads, factor, strategy) in rows.items():
            found, size = rate(options, devices, threads, options.batch * factor, strategy)
            rates[name].append(found)
            sizes[name] = max(sizes[name], size)
    table = {
        name: {
            "views_per_second": statistics.median(values),
            "over one": spread([value / one for value, one in zip(values, rates["one"], strict=True)]),
            "efficiency": spread([value / one / N for value, one in zip(values, rates["one"], strict=True)]),
            "resident GB": round(sizes[name], 2),
        }
        for name, values in rates.items()
    }
    about = {
        name: getattr(options, name) for name in ("devices", "backbone", "width", "projector", "objective", "batch", "size")
    }
    if options.json:
        print(json.dumps({**about, "load": os.getloadavg()[0], "rows": table}, indent=1))
        return
    for name, row in table.items():
        middle, low, high = row["efficiency"]
        print(
            f"{name:<28} {row['views_per_second']:>9,.0f} views/s  efficiency {middle:.2f} ({low:.2f} to {high:.2f})  "
            f"{row['resident GB']:.2f} GB"
        )


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def rate(options: argparse.Namespace, devices: int, threads: int, batch: int, strategy: str) -> tuple[float, float]:
    """Views a second, and the most GB that any process had resident."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--recipe", "small", "--backbone", options.backbone, "--width", options.width, "--objective", options.objective,
            "--projector", options.projector, "--strategy", strategy,
            "--batch", batch, "--data.size", options.size, "--data.train", batch * (options.steps + SKIPPED), "--data.test", 10,
            "--epochs", 1, "--no-online", "--devices", devices, "--out", f"{folder}/run",
        ]  # fmt: skip
        # A parent of its own, since a process is told the largest of all that it ever began.
        command = [sys.executable, "-m", "wingspan.cli", "pretrain", *map(str, words)]
        told = "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], check=True, stdout=s.DEVNULL); "
        told += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        made = subprocess.run([sys.executable, "-c", told, *command], check=True, capture_output=True, env=environment)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        views = lines[-1]["views_per_second"] * lines[-1]["seconds"]
        early = lines[SKIPPED - 1]
        found = (views - early["views_per_second"] * early["seconds"]) / (lines[-1]["seconds"] - early["seconds"])
        return found, int(made.stdout) * 1024 / 1e9


if __name__ == "__main__":
    main()
