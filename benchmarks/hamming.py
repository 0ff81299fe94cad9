"""The nearest binary codes beside faiss: time, memory, and whether the answers are equal.

    python benchmarks/hamming.py [--json] [--codes 50000] [--queries 1000] [--width 32768] [--top 10] [--threads 2] [--pairs 3]

Ours is `wingspan.neighbours.hamming` on a mapped file, faiss (`pip install faiss-cpu`) is `IndexBinaryFlat` filled from the
same file; each in a process of its own, in turn, with as many threads. Seconds are those of the search alone; milliseconds
those of asking for one query, the median of ten; memory is the greatest private memory (RssAnon, Linux) above that before the
codes were opened. Ratios are ours over faiss, the median over pairs with the least and greatest beside it. Codes are the signs
of random sums of 64 normal numbers, so that some are near and most are not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import memory
import numpy as np

Answer = tuple[np.ndarray, np.ndarray]  # distances, rows (M, k)
SIDES = ("wingspan", "faiss")
ALONE, FACTORS, ROWS = 10, 64, 1024  # queries asked one at a time; numbers behind a code; codes written at a time


def write(folder: str, codes: int, queries: int, width: int) -> None:
    """Files `codes` and `queries`, rows of packed bits, a part at a time."""
    import torch

    from wingspan import bits
    from wingspan.chance import generator

    ways = torch.randn(FACTORS, width, generator=generator(0, "ways"))
    rates = 4 * torch.randn(width, generator=generator(0, "rates"))
    for name, n in (("codes", codes), ("queries", queries)):
        with Path(folder, name).open("wb") as file:
            for start in range(0, n, ROWS):
                rows = torch.randn(min(ROWS, n - start), FACTORS, generator=generator(0, name, start))
                file.write(bits.pack(rows @ ways + rates).numpy().tobytes())


def ours(folder: str, columns: int, top: int, threads: int) -> Callable[[np.ndarray], Answer]:
    import torch

    from wingspan.neighbours import hamming

    torch.set_num_threads(threads)
    size = Path(folder, "codes").stat().st_size
    bank = torch.from_file(f"{folder}/codes", shared=True, size=size, dtype=torch.uint8).view(-1, columns)

    def search(queries: np.ndarray) -> Answer:
        found = hamming(bank, torch.from_numpy(queries), 8 * columns, top)
        return found.distances.numpy(), found.indices.numpy()

    return search


def theirs(folder: str, columns: int, top: int, threads: int) -> Callable[[np.ndarray], Answer]:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(8 * columns)
    index.add(np.memmap(f"{folder}/codes", np.uint8, "r").reshape(-1, columns))
    return lambda queries: index.search(queries, top)


def one_side(side: str, folder: str, width: int, top: int, threads: int) -> dict[str, float]:
    columns = -(-width // 8)
    queries = np.fromfile(f"{folder}/queries", np.uint8).reshape(-1, columns)
    found: dict[str, float] = {}
    make = ours if side == "wingspan" else theirs
    __import__("torch" if side == "wingspan" else "faiss")  # what a library takes by being there is not the search's
    with memory.growth() as grown:
        search = make(folder, columns, top, threads)
        search(queries[:1])  # the file is read, kernels and threads are there
        start = time.perf_counter()
        answer = search(queries)
        found["seconds"] = time.perf_counter() - start
        alone = []
        for query in queries[:ALONE]:
            start = time.perf_counter()
            search(query[None])
            alone.append(time.perf_counter() - start)
    found["alone"] = statistics.median(alone)
    found["bytes"] = grown.bytes
    np.savez(f"{folder}/{side}.npz", distances=answer[0], rows=answer[1])
    return found


def compare(
    codes: int = 50_000, queries: int = 1_000, width: int = 32_768, top: int = 10, threads: int = 2, pairs: int = 3
) -> dict[str, object]:
    """All that this benchmark finds, as it is printed."""
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="wingspan-benchmark-") as folder:
        write(folder, codes, queries, width)
        for _ in range(pairs):
            for side in SIDES:
                words = [sys.executable, __file__, "--one-side", side, "--folder", folder]
                sizes = ["--width", str(width), "--top", str(top), "--threads", str(threads)]
                done = subprocess.run([*words, *sizes], stdout=subprocess.PIPE, check=True)
                seen[side].append(json.loads(done.stdout))
        answers = {side: np.load(f"{folder}/{side}.npz") for side in SIDES}
        equal = {name: bool(np.array_equal(*(answers[side][name] for side in SIDES))) for name in ("distances", "rows")}
    return {
        "benchmark": "hamming", "codes": codes, "queries": queries, "width": width, "top": top, "threads": threads,
        "pairs": pairs, "mapped_mb": round(codes * -(-width // 8) / 1e6, 1), "faiss": _version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "equal": equal,
        "ours_over_faiss": _ratios(seen, "seconds"),
        "ours_over_faiss_one_query": _ratios(seen, "alone"),
        "sides": {
            side: {
                "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
                "one_query_ms": round(statistics.median(run["alone"] for run in runs) * 1e3, 2),
                "memory_mb": round(max(run["bytes"] for run in runs) / 1e6, 1),
            }
            for side, runs in seen.items()
        },
    }  # fmt: skip


def _ratios(seen: dict[str, list[dict[str, float]]], what: str) -> list[float]:
    ratios = [a[what] / b[what] for a, b in zip(*(seen[side] for side in SIDES), strict=True)]
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


def _version() -> str:
    from importlib.metadata import version

    return version("faiss-cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--codes", type=int, default=50_000, help="codes in the bank")
    parser.add_argument("--queries", type=int, default=1_000, help="codes that ask")
    parser.add_argument("--width", type=int, default=32_768, help="bits of a code, a multiple of 8")
    parser.add_argument("--top", type=int, default=10, help="neighbours of each")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads for both sides")
    parser.add_argument("--pairs", type=int, default=3, help="rounds over the sides")
    parser.add_argument("--one-side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one_side:
        print(json.dumps(one_side(chosen.one_side, chosen.folder, chosen.width, chosen.top, chosen.threads)))
        return
    found = compare(chosen.codes, chosen.queries, chosen.width, chosen.top, chosen.threads, chosen.pairs)
    print(json.dumps(found, indent=2) if chosen.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
