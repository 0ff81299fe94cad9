"""Optional: pretraining with Wingspan beside lightly and stable-pretraining, end to end, on this machine, in one run.

    sh benchmarks/peers/install.sh                                # once; several GB
    python benchmarks/peers/compare.py --json --threads 1
    python benchmarks/peers/compare.py --data FOLDER --profile    # FOLDER/train.parquet: CIFAR-10 with an `image` column

SimCLR, ResNet-18 with the CIFAR stem, 32 x 32: reading, augmentation, forward, backward and optimiser step, in views a second.
Each side lives in a process of its own, so that imports and warm-up do not count, and is stopped while another runs; they take
turns round after round, so that a drifting machine drifts for all. Ratios are of the pairs of a round. CPU seconds are those
of a side's main process: with --workers the work of the workers is not among them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIDES = {  # name -> file, whether at its best flags
    "wingspan": ("side_wingspan", False),
    "lightly": ("side_lightly", False),
    "lightly_best": ("side_lightly", True),
    "stable_pretraining": ("side_spt", False),
    "stable_pretraining_best": ("side_spt", True),
}


def main() -> None:
    options = arguments()
    if options.side:
        return be(options)
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(started(name, options)) for name in options.sides}
        about = {name: side.hear() for name, side in sides.items()}
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            for name, side in sides.items():
                found = side.take("round")
                if number:  # the first warms caches and primitives
                    rounds[name].append(found)
        profiles = {name: side.take("profile")["profile"] for name, side in sides.items() if options.profile}
    result = {
        "batch": options.batch, "projector": f"{options.hidden}-{options.out}", "threads": options.threads,
        "workers": options.workers, "rounds": options.rounds, "steps": options.steps,
        "images": Path(options.data).name or "random", "machine": platform.machine(),
        "load_average": round(os.getloadavg()[0], 2),
        "sides": {name: {**about[name], **summary(rounds[name])} for name in sides},
        "wingspan_over": {name: ratio(rounds, name) for name in sides if name != "wingspan" and "wingspan" in sides},
        **({"seconds_a_step": profiles} if profiles else {}),
    }  # fmt: skip
    print(json.dumps(result, indent=None if options.json else 2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps a round")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=2048, help="the projector's hidden width, the same for all")
    parser.add_argument("--out", type=int, default=128, help="the embedding's width")
    parser.add_argument("--workers", type=int, default=0, help="the peers' loader processes, beside --threads; 0: none")
    parser.add_argument("--data", default="", help="folder of CIFAR's train.parquet; left out: random images")
    parser.add_argument("--profile", action="store_true", help="after the rounds, where a step's time goes")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="the environment that install.sh made")
    parser.add_argument("--wingspan-python", default="", help="another interpreter for Wingspan; left out: the peers'")
    parser.add_argument("--side", choices=SIDES, default="", help=argparse.SUPPRESS)
    return parser.parse_args()


class Side:
    """A running side, stopped but while it answers."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended without an answer:\n{self.log.read_text()[-3000:]}")
        os.killpg(self.process.pid, signal.SIGSTOP)
        found: dict[str, Any] = json.loads(line)
        return found

    def take(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        os.killpg(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.hear()


@contextlib.contextmanager
def started(name: str, options: argparse.Namespace) -> Iterator[Side]:
    interpreter = options.peers.absolute() / "bin" / "python"
    if not interpreter.exists():
        raise SystemExit(f"{interpreter} is not there: run install.sh first, or name its folder with --peers.")
    if name == "wingspan" and options.wingspan_python:
        interpreter = Path(options.wingspan_python).absolute()
    words = [word for word in sys.argv[1:] if word != "--json"]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        data = ["--data", str(Path(options.data).resolve())] if options.data else []
        process = subprocess.Popen(
            [str(interpreter), str(HERE / "compare.py"), *words, *data, "--side", name],
            cwd=folder, text=True, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        try:
            yield Side(name, process, Path(folder) / "log")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def be(options: argparse.Namespace) -> None:
    """This process is a side: say its versions, then train as told."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from pace import Pace
    from pictures import pixels

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    file, options.best = SIDES[options.side]
    module = importlib.import_module(file)
    pace = Pace(options.steps, 2 * options.batch, answers)
    pace.answer({package: importlib.metadata.version(package) for package in module.PACKAGES})
    module.train(options, pixels(options.data), pace)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    wall = [each["views"] / each["seconds"] for each in rounds]
    cpu = [each["views"] / each["cpu_seconds"] for each in rounds]
    return {
        "views_per_second": round(statistics.median(wall), 1),
        "range": [round(min(wall), 1), round(max(wall), 1)],
        "views_per_cpu_second": round(statistics.median(cpu), 1),
    }


def ratio(rounds: dict[str, list[dict[str, Any]]], peer: str) -> dict[str, Any]:
    """How many times the peer's views a second Wingspan makes, by the clock and by CPU time."""
    found: dict[str, Any] = {}
    for name, key in (("", "seconds"), ("cpu_", "cpu_seconds")):
        pairs = [theirs[key] / ours[key] for ours, theirs in zip(rounds["wingspan"], rounds[peer], strict=True)]
        found |= {f"{name}median": round(statistics.median(pairs), 3)}
        found |= {f"{name}min": round(min(pairs), 3), f"{name}max": round(max(pairs), 3)}
    return found


if __name__ == "__main__":
    main()
