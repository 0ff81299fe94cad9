"""How fast training goes: seconds a view by its FLOPs, from finished runs, from a few steps made now, or as told."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wingspan.chance import generator
from wingspan.data.base import ImageSet, InMemory
from wingspan.errors import UserError
from wingspan.forecast import Forecast
from wingspan.loop import step
from wingspan.pretrain import Pretrain, State, prepare
from wingspan.runtime import Runtime

Sample = tuple[float, float]
"""Training FLOPs of a view, seconds that a view took."""

_STEP_SECONDS = 1.0  # a step that long is timed well enough
_WEIGHTS = 2**30  # bytes of weights and optimiser, above which drawing them takes longer than timing


@dataclass(frozen=True)
class Rate:
    """A view takes fixed + per_flop * (its training FLOPs) seconds."""

    fixed: float
    per_flop: float
    basis: str  # what it rests on, for people

    def seconds(self, flops: float) -> float:
        return self.fixed + self.per_flop * flops


def training_flops(run: Pretrain, cost: Forecast) -> float:
    """FLOPs that training spends on one view: forward, and twice that backward; forward once more through a moving average of
    backbone and projector, where the objective keeps one."""
    averaged = cost.forward_flops - 2 * cost.head_parameters if run.objective.momentum(0.0) is not None else 0
    return 3.0 * cost.forward_flops + averaged


def told(tflops: float) -> Rate:
    """The rate of a device that sustains so many TFLOP/s. Raises UserError for what is no speed."""
    if not 0 < tflops < float("inf"):
        raise UserError(f"--tflops {tflops:g} is no speed: give the TFLOP/s that one device sustains, as 150.")
    return Rate(0.0, 1 / (tflops * 1e12), f"{tflops:g} TFLOP/s sustained on each device, as given")


def fit(samples: Sequence[Sample], basis: str) -> Rate:
    """The rate with the least sum of squared relative errors, neither coefficient below 0; from one count of FLOPs in
    proportion to them. Raises ValueError without a sample."""
    flops, seconds = np.array(samples, dtype=float).T
    columns = np.stack([1 / seconds, flops / seconds], axis=1)  # relative: columns @ (fixed, per_flop) should be 1
    choices = [(1,)] if len(set(flops)) == 1 else [(0, 1), (0,), (1,)]
    found = []
    for chosen in choices:
        solution = np.zeros(2)
        scale = np.abs(columns[:, chosen]).max(axis=0)
        solution[list(chosen)] = np.linalg.lstsq(columns[:, chosen] / scale, np.ones(len(samples)), rcond=None)[0] / scale
        if (solution >= 0).all():
            found.append((float(((columns @ solution - 1) ** 2).sum()), *map(float, solution)))
    _, fixed, per_flop = min(found)
    return Rate(fixed, per_flop, basis)


def measured(cells: Sequence[tuple[Pretrain, Forecast]], device: str, threads: int) -> Rate | None:
    """The rate of this machine, from real training steps on random images: those of the cheapest and of the dearest run whose
    weights are soon drawn and fit well into free memory. None when no run does.

    threads: how many a run has on a CPU.
    """
    free = free_bytes(device)
    room = min(_WEIGHTS, (free if free is not None else 4 * 2**30) / 3)
    able = [cell for cell in cells if cell[1].weight_bytes <= room]
    if not able:
        return None
    ranked = sorted(able, key=lambda cell: training_flops(*cell))
    chosen = [ranked[0], ranked[-1]] if training_flops(*ranked[0]) < training_flops(*ranked[-1]) else ranked[:1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runtime = Runtime(device, chosen[0][0].precision)
        samples = [(training_flops(*cell), _seconds_a_view(*cell, runtime, room)) for cell in chosen]
    finally:
        torch.set_num_threads(before)
    where = "GPU" if runtime.device.type == "cuda" else f"CPU with {threads} thread{'s' if threads > 1 else ''} a run"
    busy = " while other work kept it busy" if where != "GPU" and os.getloadavg()[0] > (os.cpu_count() or 1) / 2 else ""
    many = f"{len(chosen)} cell{'s' if len(chosen) > 1 else ''}"
    return fit(samples, f"measured now on {many}, {where}, {runtime.precision}{busy}")


def _seconds_a_view(run: Pretrain, cost: Forecast, runtime: Runtime, room: float) -> float:
    """Seconds of a view when a whole part of a batch is computed at once. Where that would take long, from two smaller parts:
    what a step costs whatever its images (casting weights, the optimiser) would weigh too much in one of them."""
    part = run.batch // run.accumulate
    side = run.views.size
    draw = generator(0, "rate")
    classes = {"all": torch.zeros(part, dtype=torch.int64)}
    pixels = torch.randint(0, 256, (min(part, 512), 3, side, side), generator=draw, dtype=torch.uint8)
    images = ImageSet(InMemory(pixels), {"all": classes["all"][: len(pixels)]}, {"all": tuple(map(str, range(1000)))}, "all")
    state = prepare(run, images, runtime)
    state.learner.train()

    def seconds(n: int) -> float:
        return min(_step_seconds(run, state, runtime, images, n) for _ in range(2))

    few, most = 2, min(len(pixels), max(4, int(room / max(1, cost.activation_bytes // part))))
    least = seconds(few)
    n, took = few, least
    while n < most and (n == few or took < _STEP_SECONDS / 2):
        n = min(most, max(2 * n, int(n * _STEP_SECONDS / took)))
        took = seconds(n)
    slope = max(0.0, (took - least) / (n - few)) if n > few else 0.0
    return (took + slope * (part - n)) / (part * run.objective.views)


def _step_seconds(run: Pretrain, state: State, runtime: Runtime, images: ImageSet, n: int) -> float:
    """How long one step on n images takes. The first of a size also chooses its kernels: take the best of several."""
    indices = torch.arange(n)
    began = time.perf_counter()
    # As at the begin of a warm-up: random images must not make weights run away.
    step(dataclasses.replace(run, batch=n, accumulate=1), state, runtime, images, indices, images.images.batch(indices), 10**6)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def free_bytes(device: str) -> int | None:
    """Memory free on the device that runs would use, or on this machine; None where the system does not tell."""
    if device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    try:  # a container may have less
        group = Path("/sys/fs/cgroup")
        found = min(found, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return found
