"""Views a second of pretraining, end to end and split into reading, augmentation, forward + backward + step; fp32 and bf16.

    python benchmarks/pretrain.py --json
    python benchmarks/pretrain.py --backbone resnet18 --stem cifar --width 2048 --batch 128

Both precisions run in turn, round after round, so that a drifting machine drifts for both; the ratio is the median over
rounds. The numbers are this machine's; the ratio travels better.
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
from wingspan.runtime import Runtime


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
    sides = {precision: setup(run, images, precision) for precision in ("fp32", "bf16")}
    rounds: dict[str, list[dict[str, float]]] = {precision: [] for precision in sides}
    for number in range(options.rounds + 1):
        for precision, (state, runtime) in sides.items():
            found = one_round(run, state, runtime, images, options.steps)
            if number:  # the first round warms caches and primitives
                rounds[precision].append(found)
    result = {
        "backbone": options.backbone, "width": run.backbone.D, "objective": options.objective, "batch": options.batch,
        "size": options.size, "threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": options.rounds,
        "load_average": round(os.getloadavg()[0], 2), "device": str(next(iter(sides.values()))[1].device),
        **{precision: summary(each) for precision, each in rounds.items()},
        "bf16_over_fp32": ratio(rounds),
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
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def setup(run: Pretrain, images: ImageSet, precision: str) -> tuple[State, Runtime]:
    runtime = Runtime("auto", precision)  # type: ignore[arg-type]
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


def ratio(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    pairs = [slow["end_to_end"] / fast["end_to_end"] for slow, fast in zip(rounds["fp32"], rounds["bf16"], strict=True)]
    return {"median": round(statistics.median(pairs), 3), "min": round(min(pairs), 3), "max": round(max(pairs), 3)}


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['backbone']} D={result['width']}, {result['objective']}, batch {result['batch']}, "
        f"{result['device']}, {result['threads']} threads, load {result['load_average']}",
        f"{'views/s':<18}{'fp32':>12}{'bf16':>12}",
    ]
    for part in ("end_to_end", "data", "augmentation", "forward_backward"):
        key = f"{part}_views_per_second"
        lines.append(f"{part:<18}{result['fp32'][key]:>12,.0f}{result['bf16'][key]:>12,.0f}")
    found = result["bf16_over_fp32"]
    return "\n".join([*lines, f"bf16 over fp32: {found['median']} ({found['min']} to {found['max']})"])


if __name__ == "__main__":
    main()
