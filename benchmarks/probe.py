"""The linear probe beside scikit-learn's logistic regression: time to equal test accuracy, and memory, on the same features.

    python benchmarks/probe.py --json
    python benchmarks/probe.py --rows 50000 --width 32768 --threads 2
    python benchmarks/probe.py --rows 50000 --width 32768 --peer-width 8192     # where the peer's copy in fp32 does not fit

Features are made and stored first: h = relu(u A - noise), u of 64 dimensions moved by the class, in a memory-mapped file of
fp16 and in packed bits. Then every side runs in a process of its own, one after another:

* quick: `Linear`'s preset `linear_quick`: four rates trained at once, one chosen on a tenth of the training rows, then
  trained on all of them; three epochs each;
* fixed: one training at the preset's epochs and a rate of --lr, no choice;
* packed: the same on packed bits, which hold h > 0 only;
* scikit-learn: LogisticRegression (lbfgs) with its defaults on features in fp32, standardised in place; --C changes its
  regularisation, whose best value nobody knows beforehand;
* paper: with --paper, our defaults (100 epochs at a rate of 1e-4, features as they are).

Seconds are those from the opened file to test scores; CPU seconds say more on a busy machine. Memory is the peak of what a
process holds for itself (anonymous pages, sampled), which leaves out the pages of the file that it maps; importing is left
out too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import numpy as np
import torch
from torch import Tensor

from wingspan import bits
from wingspan.data.base import ImageSet, InMemory
from wingspan.features import Bank, Split
from wingspan.inputs import Inputs
from wingspan.measures._heads import Recipe, fit
from wingspan.measures._tasks import Task
from wingspan.measures.linear import PRESETS, Linear

CLASSES, BLOCK = 10, 1024


def main() -> None:
    options = arguments()
    if options.side:
        torch.set_num_threads(options.threads)
        print(json.dumps(SIDES[options.side](options)))
        return
    peer_width = options.peer_width or options.width
    with tempfile.TemporaryDirectory(prefix="wingspan-probe-") as made:
        options.folder = made
        for width in sorted({options.width, peer_width}):
            write(Path(made), options.rows, options.test, width)
        load = [round(each, 2) for each in os.getloadavg()]
        found = {side: run(side, options, options.width) for side in ("quick", "fixed", "packed")}
        if options.paper:
            found["paper"] = run("paper", options, options.width)
        fair = found if peer_width == options.width else {side: run(side, options, peer_width) for side in ("quick", "fixed")}
        peer = run("scikit-learn", options, peer_width)
    result = {
        "benchmark": "probe", "rows": options.rows, "test": options.test, "width": options.width, "peer_width": peer_width,
        "classes": CLASSES, "threads": options.threads, "torch": torch.__version__, "load_average": load,
        "sides": found, "sides_at_peer_width": {**({} if fair is found else fair), "scikit-learn": peer},
        **{f"peer_over_{side}": ratio(peer, fair[side], "seconds") for side in ("quick", "fixed")},
        **{f"peer_over_{side}_cpu": ratio(peer, fair[side], "cpu_seconds") for side in ("quick", "fixed")},
        **{f"accuracy_{side}_less_peer": round(fair[side]["accuracy"] - peer["accuracy"], 4) for side in ("quick", "fixed")},
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def ratio(peer: dict[str, Any], mine: dict[str, Any], unit: str) -> float:
    return round(float(peer[unit]) / float(mine[unit]), 2)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rows", type=int, default=8000, help="training rows")
    parser.add_argument("--test", type=int, default=5000, help="test rows")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--peer-width", type=int, default=0, help="width for scikit-learn; ours then runs at it too")
    parser.add_argument("--lr", type=float, default=1e-3, help="rate of the sides fixed and packed")
    parser.add_argument("--C", type=float, default=1.0, help="scikit-learn's C; 1 is its own")
    parser.add_argument("--paper", action="store_true", help="time the paper's recipe too (100 epochs)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every side")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def write(folder: Path, rows: int, test: int, width: int) -> None:
    """Both splits' features h = relu(u A - noise), u (64,) moved by the class: wide, correlated, sparse, solvable in part.

    {split}-{width}.fp16 (n, width) and {split}-{width}.bits (n, width / 8), with labels in {split}-{width}.pt.
    """
    chance = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 64, generator=chance) / 3
    mixing = torch.randn(64, width, generator=chance) / 8
    for split, n in (("train", rows), ("test", test)):
        labels = torch.randint(CLASSES, (n,), generator=chance)
        torch.save(labels, folder / f"{split}-{width}.pt")
        with (folder / f"{split}-{width}.fp16").open("wb") as dense, (folder / f"{split}-{width}.bits").open("wb") as packed:
            for part in labels.split(BLOCK):
                u = centres[part] + torch.randn(len(part), 64, generator=chance)
                own = torch.rand(len(part), width, generator=chance)
                h = torch.relu(u @ mixing - own).half()
                dense.write(h.numpy().tobytes())
                packed.write(bits.pack(h).numpy().tobytes())


def run(side: str, options: argparse.Namespace, width: int) -> dict[str, Any]:
    """One side in a process of its own."""
    words = [
        f"--side={side}", f"--folder={options.folder}", f"--rows={options.rows}", f"--test={options.test}",
        f"--width={width}", f"--lr={options.lr}", f"--C={options.C}", f"--threads={options.threads}",
    ]  # fmt: skip
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    print(f"{side}, width {width} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, __file__, *words], env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stored(options: argparse.Namespace, split: str, kind: str) -> Tensor:
    """A split's features, memory-mapped: (n, width) fp16, or (n, width / 8) packed bits."""
    n = options.rows if split == "train" else options.test
    dtype, columns = (torch.float16, options.width) if kind == "fp16" else (torch.uint8, -(-options.width // 8))
    name = str(Path(options.folder) / f"{split}-{options.width}.{kind}")
    return torch.from_file(name, shared=False, size=n * columns, dtype=dtype).view(n, columns)


def labels(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    files = (Path(options.folder) / f"{split}-{options.width}.pt" for split in ("train", "test"))
    first, second = (torch.load(file, weights_only=True) for file in files)
    return first, second


def measure(options: argparse.Namespace, probe: Linear) -> dict[str, Any]:
    """A `Linear` as a study calls it."""

    def split(name: str, known: Tensor) -> Split:
        images = InMemory(torch.zeros(len(known), 3, 1, 1, dtype=torch.uint8))
        return Split(stored(options, name, "fp16"), ImageSet(images, {"class": known}, {"class": tuple("0123456789")}))

    first, second = labels(options)
    bank = Bank("made", split("train", first), split("test", second), "0")
    return watched(lambda: probe.measure(bank, seed=0).numbers[0].value, warm)


def fixed(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One training, on either store."""
    task = Task("class", CLASSES, *labels(options))
    quick = PRESETS["linear_quick"]
    recipe = Recipe(options.lr, quick.weight_decay, quick.batch, quick.epochs, quick.cosine)

    def work() -> float:
        inputs = Inputs(stored(options, "train", kind), width=options.width if kind == "bits" else 0).standardised()
        (heads,) = fit(inputs, [task], [recipe], seed=0)
        return task.score(heads.scores(inputs.like(stored(options, "test", kind)))["class"]).value

    return watched(work, warm)


def warm() -> None:
    task = Task("class", 2, torch.arange(16) % 2, torch.arange(16) % 2)
    fit(Inputs(torch.eye(16)), [task], [Recipe(1e-3, 0.0, 4, 1, cosine=True)], seed=0)


def scikit_learn(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    except ImportError:
        sys.exit("This benchmark needs scikit-learn, which is not installed: pip install -c constraints.txt -e '.[bench]'")
    first, second = labels(options)
    iterations = []

    def work() -> float:
        x, y = (stored(options, split, "fp16").numpy().astype(np.float32) for split in ("train", "test"))
        mean = x.mean(0)
        x -= mean
        deviation = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))  # in place: StandardScaler would copy x in float64
        scale = np.where(deviation > 0, deviation, 1)
        x /= scale
        y = (y - mean) / scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where 100 iterations do not converge, that is what its user gets
            found = LogisticRegression(C=options.C).fit(x, first.numpy())
        iterations.append(int(found.n_iter_[0]))
        return float(found.score(y, second.numpy()))

    small = LogisticRegression()
    return {**watched(work, lambda: small.fit(np.eye(16, dtype=np.float32), np.arange(16) % 2)), "iterations": iterations[0]}


def watched(work: Callable[[], float], warm: Callable[[], object]) -> dict[str, Any]:
    """Seconds, accuracy and the peak of anonymous memory beyond what was there before. `warm`: lets libraries set up."""
    warm()
    with memory.growth(every=0.05) as grown:
        began, used = time.perf_counter(), time.process_time()
        accuracy = work()
        seconds, used = time.perf_counter() - began, time.process_time() - used
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(used, 2), "accuracy": round(accuracy, 4),
        "peak_mb": round(grown.bytes / 1e6, 1),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['rows']} rows, {result['classes']} classes, {result['threads']} threads, load {result['load_average']}",
        f"{'side':<14}{'width':>8}{'seconds':>10}{'CPU s':>10}{'accuracy':>10}{'peak MB':>10}",
    ]
    for width, sides in ((result["width"], result["sides"]), (result["peer_width"], result["sides_at_peer_width"])):
        for side, each in sides.items():
            lines.append(
                f"{side:<14}{width:>8}{each['seconds']:>10}{each['cpu_seconds']:>10}{each['accuracy']:>10}{each['peak_mb']:>10}"
            )
    for side in ("quick", "fixed"):
        over = f"{result[f'peer_over_{side}']} (CPU {result[f'peer_over_{side}_cpu']})"
        lines.append(f"scikit-learn over {side}: {over}, accuracy {result[f'accuracy_{side}_less_peer']:+.4f}")
    return "\n".join(lines)


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "quick": lambda options: measure(options, PRESETS["linear_quick"]),
    "paper": lambda options: measure(options, Linear()),
    "fixed": lambda options: fixed(options, "fp16"),
    "packed": lambda options: fixed(options, "bits"),
    "scikit-learn": scikit_learn,
}

if __name__ == "__main__":
    main()
