"""Optional, for compare.py: times one side's steps when told to, and says where a step's time goes."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from typing import Any, TextIO

from torch.profiler import ProfilerActivity, profile

# What an operation counts as: the first entry that its name, or the name of one that called it, begins with.
REGIONS = (
    ("Optimizer.step", "optimiser"),
    ("Optimizer.zero_grad", "optimiser"),
    ("enumerate(DataLoader)", "data and augmentation"),
    ("augmentation", "data and augmentation"),
    ("loss", "loss"),
)
OPERATIONS = (
    ("aten::mkldnn_convolution_backward", "convolution backward"),
    ("aten::convolution_backward", "convolution backward"),
    ("aten::mkldnn_convolution", "convolution forward"),
    ("aten::native_batch_norm_backward", "batch norm backward"),
    ("aten::native_batch_norm", "batch norm forward"),
    ("aten::relu", "relu forward"),
    ("aten::clamp_min", "relu forward"),
    ("aten::threshold_backward", "relu backward"),
    ("aten::addmm", "projector"),
    ("aten::mm", "projector"),
    ("aten::copy_", "copies: casts and layouts"),
    ("aten::mean", "pooling"),
    ("aten::div", "pooling"),
    ("aten::add", "additions: residual, gradients"),
    ("aten::_foreach_norm", "checks"),
    ("aten::_local_scalar_dense", "checks"),
)


class Pace:
    """Called by a side's training once before its first step and after each: counts, reports, and waits for the next word.

    Words come one a line: "round" times `steps` steps, "profile" says where their time goes; with the end of the input the
    side ends. What a side prints itself goes to its log, not between the answers.
    """

    def __init__(self, steps: int, views: int, answers: TextIO) -> None:
        self.steps, self.views, self.answers = steps, views, answers
        self.left = 0
        self.profiler: profile | None = None
        self.began = self.began_cpu = 0.0

    def __call__(self) -> None:
        self.left -= 1
        if self.left > 0:
            return
        if self.left == 0:
            self.answer(self.read())
        word = sys.stdin.readline().strip()
        if not word:
            raise SystemExit
        if word == "profile":
            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.start()
        self.left = self.steps
        self.began, self.began_cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, Any]:
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.began_cpu
        found: dict[str, Any] = {"seconds": seconds, "cpu_seconds": cpu, "views": self.steps * self.views}
        if self.profiler is not None:
            self.profiler.stop()
            found["profile"] = parts(self.profiler, seconds, self.steps)
            self.profiler = None
        return found

    def answer(self, found: dict[str, Any]) -> None:
        self.answers.write(json.dumps(found) + "\n")
        self.answers.flush()


def parts(profiler: profile, seconds: float, steps: int) -> dict[str, float]:
    """Seconds a step of each part of the work; "between operations" is what no operation of torch's accounts for."""
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        spent[part(event)] += event.self_cpu_time_total / 1e6 / steps
    spent["between operations"] = seconds / steps - sum(spent.values())
    return {name: round(value, 4) for name, value in sorted(spent.items(), key=lambda pair: -pair[1]) if value > 5e-4}


def part(event: Any) -> str:
    for prefix, name in OPERATIONS:
        if name == "copies: casts and layouts" and event.name == prefix and not region(event):
            return name
    found = region(event)
    if found:
        return found
    return next((name for prefix, name in OPERATIONS if event.name.startswith(prefix)), "other")


def region(event: Any) -> str:
    while event is not None:
        for prefix, name in REGIONS:
            if event.name.startswith(prefix):
                return name
        event = event.cpu_parent
    return ""
