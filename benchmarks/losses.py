"""Losses at large batch beside their plain forms: time of a forward and backward pass, and memory beyond z and its gradient.

    python benchmarks/losses.py [--json] [--threads 1] [--pairs 3] [--only nt_xent-4096x256]

Both sides are the package's own functions, in fp32, each in a process of its own, in turn: `plain` holds the whole matrix of
scores, covariances or correlations, as peers do; `ours` is what a run gets. Seconds are CPU seconds, the median of passes that
take a second together, or one pass where it takes longer; memory is the greatest resident size above that before the first
pass (Linux), less the gradient. Ratios are ours over plain, the median over pairs with the least and greatest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from memory import forget, kilobytes
from torch import Tensor

from wingspan.chance import generator
from wingspan.objectives import barlow, simclr, vicreg
from wingspan.objectives.base import Batch

SIDES = ("plain", "ours")
CASES = [
    *(("nt_xent", N, 256) for N in (1024, 4096, 8192)),
    *(("covariance", N, 8192) for N in (512, 2048)),
    ("barlow", 512, 8192),
]  # fmt: skip
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nt_xent": lambda z: simclr.nt_xent(z, 0.15),
    "covariance": vicreg.off_diagonal_squares,
    "barlow": lambda z: torch.stack(list(barlow.Barlow().terms(Batch(z)).values())).sum(),
}


def name(case: tuple[str, int, int]) -> str:
    loss, N, K = case
    return f"{loss}-{N}x{K}"


def one_side(side: str, case: tuple[str, int, int]) -> dict[str, float]:
    if side == "plain":
        simclr.ALONE = vicreg.PLAIN = barlow.PLAIN = sys.maxsize
    kind, N, K = case
    loss, views = LOSSES[kind], () if kind == "covariance" else (2,)
    z = torch.randn(*views, N, K, generator=generator(0, "z"))

    def step(x: Tensor) -> float:
        x.requires_grad_()
        began = time.process_time()
        torch.autograd.grad(loss(x), x)
        return time.process_time() - began

    step(z[..., :64, :64].clone())  # libraries load what they need
    forget()
    before = kilobytes("VmRSS")
    seconds = [step(z)]
    peak = kilobytes("VmHWM")
    while sum(seconds) < 1:
        seconds.append(step(z))
    return {"seconds": statistics.median(seconds), "mb": (peak - before) * 1024 / 1e6 - z.nbytes / 1e6}


def compare(case: tuple[str, int, int], chosen: argparse.Namespace) -> dict[str, object]:
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
    for _ in range(chosen.pairs):
        for side in SIDES:
            words = [sys.executable, __file__, "--one-side", side, "--only", name(case), "--threads", str(chosen.threads)]
            found = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
            seen[side].append(json.loads(found.stdout))

    def ratio(unit: str) -> list[float]:
        ratios = [ours[unit] / plain[unit] for plain, ours in zip(seen["plain"], seen["ours"], strict=True)]
        return [round(each(ratios), 3) for each in (statistics.median, min, max)]

    return {
        "case": name(case), "time_ratio": ratio("seconds"), "memory_ratio": ratio("mb"),
        **{f"{side}_seconds": round(statistics.median(run["seconds"] for run in seen[side]), 3) for side in SIDES},
        **{f"{side}_mb": round(statistics.median(run["mb"] for run in seen[side]), 1) for side in SIDES},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads for both sides")
    parser.add_argument("--pairs", type=int, default=3, help="rounds over both sides")
    parser.add_argument("--only", choices=[name(case) for case in CASES], help="one case, LOSS-IMAGESxK, instead of all")
    parser.add_argument("--one-side", choices=SIDES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    cases = [case for case in CASES if chosen.only in (None, name(case))]
    torch.set_num_threads(chosen.threads)
    if chosen.one_side:
        print(json.dumps(one_side(chosen.one_side, cases[0])))
        return
    load = [round(each, 2) for each in os.getloadavg()]
    found = {
        "benchmark": "losses", "threads": chosen.threads, "pairs": chosen.pairs, "torch": torch.__version__,
        "load_average": load, "cases": [compare(case, chosen) for case in cases],
    }  # fmt: skip
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in found.items() if key != "cases"))
    for case in found["cases"]:  # type: ignore[attr-defined]
        print(", ".join(f"{key} {value}" for key, value in case.items()))


if __name__ == "__main__":
    main()
