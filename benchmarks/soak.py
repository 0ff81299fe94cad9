"""Memory, file descriptors and threads of one process that pretrains, probes and carries out studies, round after round.

    python benchmarks/soak.py --json --minutes 60

A round is what a notebook or a long job does: pretrain a run, go on with it from an earlier checkpoint, measure it, store
features, carry out a study at its smallest scale; its folder is removed afterwards. After each, this process is counted. What
grows is told as a slope an hour, by least squares over the later three quarters of the rounds: the first take what is kept for
good (kernels, caches, allocator).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from wingspan import cli
from wingspan.loop import pretrain
from wingspan.pretrain import Pretrain, Sitting
from wingspan.recipes import recipe
from wingspan.spec import override


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began, counts = time.monotonic(), []
    while time.monotonic() - began < 60 * options.minutes:
        with tempfile.TemporaryDirectory() as folder:
            a_round(Path(folder), seed=len(counts))
        gc.collect()
        counts.append({"minutes": (time.monotonic() - began) / 60, **count()})
        if not options.json:
            print({name: round(value, 2) for name, value in counts[-1].items()}, flush=True)
    later = counts[len(counts) // 4 :]
    hours = np.array([each["minutes"] / 60 for each in later])
    grown = {name: float(np.polyfit(hours, [each[name] for each in later], 1)[0]) for name in later[0] if name != "minutes"}
    found = {"rounds": len(counts), "first": counts[0], "quarter": later[0], "last": counts[-1], "an hour": grown}
    print(json.dumps(found, indent=1))


def a_round(folder: Path, seed: int) -> None:
    run = override(recipe("small"), {"seed": seed, "epochs": 4, "data.train": 1024, "data.test": 256, "batch": 128})
    assert isinstance(run, Pretrain)
    path = folder / "run"
    with hushed():
        pretrain(run, path, Sitting(save_seconds=0))
        # As after a kill in the third epoch: the last checkpoint but one is gone on from.
        (path / "done.json").unlink()
        shutil.rmtree(sorted((path / "checkpoints").glob("step-*"))[-1])
        pretrain(run, path, Sitting(save_seconds=0), resume=True)
        for words in (
            ["measure", str(path), "--measures", "linear_fast,knn,sparsity"],
            ["features", str(path), "--out", str(folder / "store")],
            ["study", "scenes", "--scale", "smoke", "--seeds", str(seed), "--out", str(folder / "study")],
        ):
            status = cli.run(words)
            assert not status, words


@contextlib.contextmanager
def hushed():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def count() -> dict[str, float]:
    """Of this process: MB resident, open file descriptors, threads, files mapped, children."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "resident MB": pages * os.sysconf("SC_PAGESIZE") / 1e6,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "python threads": threading.active_count(),
        "mappings": Path("/proc/self/maps").read_text().count("\n"),
        "children": len(children),
    }


if __name__ == "__main__":
    main()
