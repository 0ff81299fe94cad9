"""Augmentation beside kornia's: the same five operations with the same probabilities, in turn, in one process.

    python benchmarks/augment.py [--json] [--threads 1] [--pairs 9]

The operations are random resized crop, flip, colour jitter, grey and solarise (probability 0.2). Kornia gets float
images made beforehand; Wingspan starts from uint8 and also makes its draws, normalises and writes channels_last. Pairs
of runs alternate, so that a busy machine slows both sides; the ratio is the median over pairs, with the least and
greatest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from wingspan import augment

CASES = ((512, 32), (64, 224))  # images, side
OURS = augment.Augment(solarise=(0.2,))


def kornia_operations(side: int) -> Callable[[Tensor], Tensor]:
    try:
        import kornia.augmentation as peer
    except ImportError:
        sys.exit("This benchmark needs kornia, which is not installed: pip install -c constraints.txt -e '.[bench]'")
    return torch.nn.Sequential(
        peer.RandomResizedCrop((side, side), scale=OURS.scale, ratio=OURS.ratio),
        peer.RandomHorizontalFlip(p=OURS.flip[0]),
        peer.ColorJitter(OURS.brightness, OURS.contrast, OURS.saturation, OURS.hue, p=OURS.jitter[0]),
        peer.RandomGrayscale(p=OURS.grey[0]),
        peer.RandomSolarize(thresholds=(OURS.threshold, OURS.threshold), additions=(0.0, 0.0), p=OURS.solarise[0]),
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(batch: int, side: int, pairs: int) -> dict[str, float | int]:
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=chance)
    floats = images / 255
    peer = kornia_operations(side)
    ours_seconds, peer_seconds = [], []
    for step in range(-2, pairs):  # two pairs to warm up
        ours = seconds(lambda step=step: augment.apply(OURS, images, augment.draws(OURS, batch, 1, 0, step)))
        theirs = seconds(lambda: peer(floats))
        if step >= 0:
            ours_seconds.append(ours)
            peer_seconds.append(theirs)
    ratios = [theirs / ours for ours, theirs in zip(ours_seconds, peer_seconds, strict=True)]
    return {
        "batch": batch,
        "side": side,
        "images_per_second": round(batch / statistics.median(ours_seconds), 1),
        "kornia_images_per_second": round(batch / statistics.median(peer_seconds), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads for both sides")
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs a case")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cases = [compare(batch, side, chosen.pairs) for batch, side in CASES]
    import kornia

    found = {
        "benchmark": "augment",
        "threads": torch.get_num_threads(),
        "pairs": chosen.pairs,
        "torch": torch.__version__,
        "kornia": kornia.__version__,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "cases": cases,
    }
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    print(f"torch {found['torch']}, kornia {found['kornia']}, {found['threads']} threads, load {found['load_average']}")
    print(f"{'images':>16} {'wingspan/s':>11} {'kornia/s':>9} {'ratio':>6}  least..greatest")
    for case in cases:
        shape = f"{case['batch']} x {case['side']}^2"
        rates = f"{case['images_per_second']:>11} {case['kornia_images_per_second']:>9} {case['ratio']:>6}"
        print(f"{shape:>16} {rates}  {case['ratio_min']}..{case['ratio_max']}")


if __name__ == "__main__":
    main()
