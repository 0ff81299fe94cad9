"""What a linear probe reads right after the width of a trained backbone was changed, before any further training.

python benchmarks/width_change.py runs/first --width 64 2048 [--seeds 3] [--json]

Widths above the run's: new channels random, the residual of random features, and placed without looking at images. Below it:
the most telling channels, principal directions, and the first ones. Logistic regression on features of 5,000 training images
(decay chosen on a fifth of them), accuracy on the test images; its standard error is binomial, and the comparisons are paired,
so differences are surer than that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wingspan import augment, warm
from wingspan.network import load_network
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.width import set_width

WIDER: dict[str, dict[str, Any]] = {"random": {}, "residual": {"new": "residual"}, "without images": {"images": None}}
NARROWER: dict[str, dict[str, Any]] = {"channels": {}, "projection": {"narrow": "projection"}, "first": {"images": None}}


def features(module: nn.Module, views: Tensor) -> Tensor:
    module = module.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return torch.cat([module(part).float() for part in views.split(250)]).clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--width", nargs="+", type=int, default=[64, 128, 256, 1024, 2048])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for path in given.runs:
        rows += measured(path, given.width, given.seeds, given.images)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        told = f"{row['accuracy']:.3f} +- {row['error']:.3f}  zeros {row['sparsity']:.2f}"
        print(f"{row['run']:<40} D {row['D']:>6} {row['how']:<15} seed {row['seed']}  {told}")


def measured(path: Path, widths: list[int], seeds: int, count: int) -> list[dict[str, Any]]:
    run, network = load_network(RunFolder(path), Runtime("cpu", "fp32"))
    splits = {}
    for name in ("train", "test"):
        images = run.data.load(name)
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
        splits[name] = (augment.plain(run.views, images.images.batch(rows)), images.task()[0][rows])
    classes = len(images.task()[1])
    (train, labels), (test, truth) = splits["train"], splits["test"]
    kept = torch.arange(len(labels)) % 5 > 0

    def row(module: nn.Module, D: int, how: str, seed: int) -> dict[str, Any]:
        h, unseen = features(module, train), features(module, test)

        def right(rows: Tensor, decay: float, x: Tensor, y: Tensor) -> float:
            weight, bias = warm.logistic(h[rows], labels[rows], classes, decay)
            return float(((x @ weight.T + bias).argmax(1) == y).float().mean())

        decay = max(warm.DECAYS, key=lambda value: right(kept, value, h[~kept], labels[~kept]))
        accuracy = right(torch.ones_like(kept), decay, unseen, truth)
        error = (accuracy * (1 - accuracy) / len(truth)) ** 0.5
        sparsity = float((unseen == 0).float().mean())
        return {"run": path.name, "D": D, "how": how, "seed": seed, "accuracy": accuracy, "error": error, "sparsity": sparsity}

    C = run.backbone.D
    found = [row(network.backbone, C, "as trained", 0)]
    for D in widths:
        for how, options in (WIDER if D > C else NARROWER).items():
            for seed in range(seeds if D > C else 1):
                made = set_width(
                    network.backbone, D, **{"images": train[:1024], "seed": seed, "side": run.views.size, **options}
                )
                found.append(row(made, D, how, seed))
    return found


if __name__ == "__main__":
    main()
