"""The wide block streamed beside the plain one: time of forward and backward, memory, FLOPs.

    python benchmarks/wide_block.py [--json] [--threads 2] [--pairs 3] [--only bottleneck-bf16-64-8192] [--all]

What is timed is what depends on D: the last convolution, the shortcut, their batch norms, ReLU and the mean of positions, from
inputs to all gradients. `bottleneck` is ResNet-50's block at 7 x 7 (1x1 convolutions of 512 and 2048 channels), `basic` is
ResNet-18's at 4 x 4 (3x3 and 1x1 convolutions of 512). A case is KIND-PRECISION-IMAGES-WIDTH. The plain side is channels_last
and of the same precision; both run in turn in one process. Memory is the peak beyond inputs, parameters and their gradients in
a second pass, each side in a process of its own (Linux; on a GPU, PyTorch's own count). Ratios are streamed over plain, the
median of pairs with the least and greatest; FLOPs are counted by PyTorch. `growth` is the streamed time at the greatest width
over that at the least, over the ratio of their FLOPs.

--hold measures both sides in memory that is kept when freed, as `wingspan pretrain` runs on a CPU, not PyTorch's default.

With --device cuda a third side is the plain block under torch.compile, and `floor_ratio` is the streamed time over that of the
three matrix products alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from memory import forget, kilobytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wingspan.backbones.resnet import Block
from wingspan.chance import generator
from wingspan.runtime import hold_memory
from wingspan.streaming import block

SHAPES = {"bottleneck": (512, 2048, 7), "basic": (512, 512, 4)}  # inner channels, shortcut's channels, side
BRIEF = [f"bottleneck-bf16-64-{D}" for D in (2048, 8192, 32768)] + ["bottleneck-fp32-64-8192", "basic-bf16-512-8192"]
FULL = [
    *(f"bottleneck-{p}-{N}-{D}" for p in ("bf16", "fp32") for N in (64, 256) for D in (2048, 8192, 32768)),
    *(f"basic-bf16-512-{D}" for D in (512, 2048, 8192)),
]


class Case:
    """One block with its inputs, and both ways to run it."""

    def __init__(self, name: str, device: str) -> None:
        kind, precision, N, D = name.split("-")
        inner, inputs, side = SHAPES[kind]
        self.bf16, self.device, self.N, self.D = precision == "bf16", device, int(N), int(D)
        self.positions, chance = side * side, generator(0, "block")
        self.block = Block(inputs, inner, self.D, 1, bottleneck=kind == "bottleneck", project=True)
        for value in self.block.parameters():
            if value.ndim == 4:
                nn.init.kaiming_normal_(value, generator=chance)
        if kind == "basic":  # conv2 is the last one: it takes `inner` channels
            self.block.conv2 = nn.Conv2d(inner, self.D, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.block.conv2.weight, generator=chance)
        self.block = self.block.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.h, self.x = (self._input(K, side, chance) for K in (inner, inputs))
        shortcut, shortcut_norm = self.block.downsample  # type: ignore[misc]
        self.parts = (self.block.last_conv, self.block.last_norm, shortcut, shortcut_norm)
        self.leaves = [self.h, self.x, *(value for part in self.parts for value in part.parameters())]  # type: ignore[union-attr]
        self.above = torch.randn(self.N, self.D, generator=chance).to(device)

    def _input(self, K: int, side: int, chance: torch.Generator) -> Tensor:
        made = torch.randn(self.N, K, side, side, generator=chance).relu_().to(self.device, memory_format=torch.channels_last)
        return made.to(torch.bfloat16 if self.bf16 else torch.float32).requires_grad_()

    def plain(self) -> Tensor:
        conv, norm, shortcut, shortcut_norm = self.parts
        z = norm(conv(self.h)) + shortcut_norm(shortcut(self.x))  # type: ignore[operator]
        return torch.relu_(z).mean((2, 3))

    def streamed(self) -> Tensor:
        return block.pooled(self.h, self.x, *self.parts)  # type: ignore[arg-type]

    @functools.cached_property
    def compiled(self) -> Callable[[], Tensor]:
        return torch.compile(self.plain)

    def step(self, side: str) -> float:
        for leaf in self.leaves:
            leaf.grad = None
        began = self.clock()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            r: Tensor = getattr(self, side)()
        r.backward(self.above.to(r.dtype))
        return self.clock() - began

    def clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def flops(self, side: str) -> int:
        """Counted while it runs once, which also warms it."""
        with FlopCounterMode(display=False) as counter:
            self.step(side)
        return counter.get_total_flops()

    def floor(self) -> float:
        """Seconds of three products of the size of the block's, which no way of computing it can leave out."""
        M, K = self.N * self.positions, sum(part.weight[0].numel() for part in (self.parts[0], self.parts[2]))  # type: ignore[union-attr,index]
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        u, v, dz = (torch.randn(*shape, device=self.device, dtype=dtype) for shape in ((M, K), (self.D, K), (M, self.D)))
        began = self.clock()
        for a, b in ((u, v.t()), (dz, v), (dz.t(), u)):
            a @ b
        return self.clock() - began


def peak(name: str, side: str, device: str) -> float:
    """MB beyond inputs, parameters and their gradients."""
    case = Case(name, device)
    case.step(side)
    if device == "cuda":
        case.step(side)
        held = torch.cuda.memory_allocated()  # gradients are there
        torch.cuda.reset_peak_memory_stats()
        case.step(side)
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    for leaf in case.leaves:
        leaf.grad = torch.ones_like(leaf)  # written, so that it counts as held
    held = kilobytes("VmRSS")
    for leaf in case.leaves:
        leaf.grad = None
    forget()
    case.step(side)
    return (kilobytes("VmHWM") - held) * 1024 / 1e6


def measure(name: str, chosen: argparse.Namespace) -> dict[str, object]:
    case = Case(name, chosen.device)
    sides = ("plain", "streamed", "compiled") if chosen.device == "cuda" else ("plain", "streamed")
    flops = {side: case.flops(side) for side in sides[:2]}
    for side in sides[2:]:
        case.step(side)
    seconds: dict[str, list[float]] = {side: [] for side in (*sides, "floor")}
    for _ in range(chosen.pairs):
        for side in sides:
            seconds[side].append(case.step(side))
        if chosen.device == "cuda":
            case.floor()
            seconds["floor"].append(case.floor())
    memory = {side: memory_of(name, side, chosen) for side in sides}
    found: dict[str, object] = {
        "case": name, "time_ratio": ratio(seconds["streamed"], seconds["plain"]),
        "memory_ratio": round(memory["streamed"] / memory["plain"], 3),
        "flops_ratio": round(flops["streamed"] / flops["plain"], 3), "gflop": round(flops["streamed"] / 1e9),
        **{f"{side}_seconds": round(statistics.median(seconds[side]), 4) for side in sides},
        **{f"{side}_mb": round(memory[side], 1) for side in sides},
    }  # fmt: skip
    if chosen.device == "cuda":
        found["floor_ratio"] = ratio(seconds["streamed"], seconds["floor"])
        found["compiled_ratio"] = ratio(seconds["streamed"], seconds["compiled"])
    return found


def memory_of(name: str, side: str, chosen: argparse.Namespace) -> float:
    words = [
        sys.executable,
        __file__,
        "--only",
        name,
        "--peak",
        side,
        "--threads",
        str(chosen.threads),
        "--device",
        chosen.device,
    ]
    # Freed memory goes back at once, so that what one pass leaves behind does not hide what the next one takes.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def ratio(ours: list[float], theirs: list[float]) -> list[float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [round(each(ratios), 3) for each in (statistics.median, min, max)]


def growth(cases: list[dict[str, object]]) -> dict[str, float]:
    """Of every kind, precision and batch that was measured at several widths."""
    found = {}
    for group in sorted({str(case["case"]).rpartition("-")[0] for case in cases}):
        same = [case for case in cases if str(case["case"]).rpartition("-")[0] == group]
        least, most = (pick(same, key=lambda case: int(str(case["case"]).rpartition("-")[2])) for pick in (min, max))
        if least is not most:
            times = float(most["streamed_seconds"]) / float(least["streamed_seconds"])  # type: ignore[arg-type]
            found[group] = round(times / (float(most["gflop"]) / float(least["gflop"])), 3)  # type: ignore[arg-type]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--pairs", type=int, default=3, help="rounds over both sides")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="+", help="cases, as KIND-PRECISION-IMAGES-WIDTH: bottleneck-bf16-64-8192")
    parser.add_argument("--all", action="store_true", help="every case that the README tells of: an hour on two cores")
    parser.add_argument("--hold", action="store_true", help="keep freed memory on both sides, as training does")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.hold:
        hold_memory()
    names = chosen.only or (FULL if chosen.all else BRIEF)
    if chosen.peak:
        print(peak(names[0], chosen.peak, chosen.device))
        return
    found = {
        "benchmark": "wide_block", "threads": torch.get_num_threads(), "pairs": chosen.pairs, "torch": torch.__version__,
        "device": chosen.device, "hold": chosen.hold, "load_average": round(os.getloadavg()[0], 2), "cases": [],
    }  # fmt: skip
    cases: list[dict[str, object]] = []
    for name in names:
        cases.append(measure(name, chosen))
        if not chosen.json:
            print(", ".join(f"{key} {value}" for key, value in cases[-1].items()), flush=True)
    found |= {"cases": cases, "growth": growth(cases)}
    print(json.dumps(found) if chosen.json else f"growth {found['growth']}")


if __name__ == "__main__":
    main()
