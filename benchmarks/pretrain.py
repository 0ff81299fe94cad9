"""Views a second of pretraining, end to end and split into reading, augmentation, forward + backward + step; fp32 and bf16, or
the last block plain and streamed.

    python benchmarks/pretrain.py --json
    python benchmarks/pretrain.py --backbone resnet18 --stem cifar --width 2048 --batch 128
    python benchmarks/pretrain.py --compare streamed --width 4096

Both sides run in turn, round after round, so that a drifting machine drifts for both; the ratio of times is the median over
rounds. The numbers are this machine's; the ratio travels better. Memory is kept when freed, as `wingspan pretrain` does on a
CPU, unless --default-malloc is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch

from wingspan import augment as augmentation
from wingspan import loop, sampling, spec
from wingspan.data.base import ImageSet
from wingspan.pretrain import Pretrain, State, prepare
from wingspan.recipes import SMALL
from wingspan.runtime import Runtime, hold_memory

SIDES = {"precision": ("fp32", "bf16"), "streamed": ("plain", "streamed")}


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    run = spec.override(
        SMALL,
        {
            "backbone": options.backbone,
            "backbone.width": options.width,
            **({"backbone.stem": options.stem} if options.stem else {}),
            "objective": options.objective,
            "batch": options.batch,
            "projector": options.projector,
            "data.size": options.size,
            "data.train": max(2 * options.batch, 1024),
            "data.test": 10,
        },
    )
    images = run.data.load("train")
    if not options.default_malloc and not torch.cuda.is_available():
        hold_memory()
    slow, fast = SIDES[options.compare]
    sides = {side: setup(run, images, side) for side in (slow, fast)}
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(options.rounds + 1):
        for side, (state, runtime) in sides.items():
            found = one_round(run, state, runtime, images, options.steps)
            if number:  # the first round warms caches and primitives
                rounds[side].append(found)
    result = {
        "backbone": options.backbone, "width": run.backbone.D, "objective": options.objective, "batch": options.batch,
        "size": options.size, "threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": options.rounds,
        "load_average": round(os.getloadavg()[0], 2), "device": str(next(iter(sides.values()))[1].device),
        "default_malloc": options.default_malloc, "sides": [slow, fast],
        **{side: summary(each) for side, each in rounds.items()},
        "speedup": ratio(rounds[slow], rounds[fast]), "time_ratio": ratio(rounds[fast], rounds[slow]),
    }  # fmt: skip
    print(json.dumps(result) if options.json else table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="small", help="any name that wingspan pretrain --backbone takes")
    parser.add_argument("--stem", default="", help="imagenet, cifar or half; left out: the backbone's own")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--objective", default="simclr")
    parser.add_argument("--projector", default="512-128")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--compare", default="precision", choices=list(SIDES))
    parser.add_argument("--default-malloc", action="store_true", help="leave memory as PyTorch has it")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def setup(run: Pretrain, images: ImageSet, side: str) -> tuple[State, Runtime]:
    """A side is a precision, or `plain` or `streamed` in the precision that training would choose."""
    runtime = Runtime("auto", side if side in ("fp32", "bf16") else "auto")  # type: ignore[arg-type]
    if side in ("plain", "streamed"):
        run = spec.override(run, {"backbone.streamed": "on" if side == "streamed" else "off"})
    state = prepare(run, images, runtime)
    state.learner.train()
    return state, runtime


def one_round(run: Pretrain, state: State, runtime: Runtime, images: ImageSet, steps: int) -> dict[str, float]:
    """Seconds of `steps` steps: whole steps as training makes them, then reading and augmentation alone."""
    total = 10_000  # a schedule long enough that the rate hardly moves
    batches = [sampling.uniform(run.seed, state.step + at, len(images), run.batch) for at in range(steps)]
    began = clock(runtime)
    for indices in batches:
        loop.step(run, state, runtime, images, indices, images.images.batch(indices), total)
    whole = clock(runtime) - began
    began = clock(runtime)
    read = [images.images.batch(indices) for indices in batches]
    data = clock(runtime) - began
    began = clock(runtime)
    for at, batch in enumerate(read):
        draws = augmentation.draws(run.augment, run.batch, run.objective.views, run.seed, at)
        augmentation.apply(run.augment, batch.to(runtime.device), draws)
    augment = clock(runtime) - began
    return {"end_to_end": whole, "data": data, "augmentation": augment, "forward_backward": whole - data - augment,
            "views": float(steps * run.batch * run.objective.views)}  # fmt: skip


def clock(runtime: Runtime) -> float:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Views a second of each part, median over rounds, and the range of the whole."""
    rates = {part: [each["views"] / max(each[part], 1e-9) for each in rounds] for part in rounds[0] if part != "views"}
    found: dict[str, Any] = {f"{part}_views_per_second": round(statistics.median(each), 1) for part, each in rates.items()}
    found["end_to_end_range"] = [round(min(rates["end_to_end"]), 1), round(max(rates["end_to_end"]), 1)]
    return found


def ratio(over: list[dict[str, float]], under: list[dict[str, float]]) -> dict[str, float]:
    pairs = [a["end_to_end"] / b["end_to_end"] for a, b in zip(over, under, strict=True)]
    return {"median": round(statistics.median(pairs), 3), "min": round(min(pairs), 3), "max": round(max(pairs), 3)}


def table(result: dict[str, Any]) -> str:
    slow, fast = result["sides"]
    lines = [
        f"{result['backbone']} D={result['width']}, {result['objective']}, batch {result['batch']}, "
        f"{result['device']}, {result['threads']} threads, load {result['load_average']}",
        f"{'views/s':<18}{slow:>12}{fast:>12}",
    ]
    for part in ("end_to_end", "data", "augmentation", "forward_backward"):
        key = f"{part}_views_per_second"
        lines.append(f"{part:<18}{result[slow][key]:>12,.0f}{result[fast][key]:>12,.0f}")
    found = result["speedup"]
    return "\n".join([*lines, f"{fast} over {slow}: {found['median']} ({found['min']} to {found['max']})"])


if __name__ == "__main__":
    main()
