"""What a fine-tuned classifier is worth on test images, beside the linear probe that it began with: both on the same images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wingspan import augment as augmentation
from wingspan import spec, warm
from wingspan.data.base import ImageSet
from wingspan.pretrain import Pretrain, State, load_run, prepare
from wingspan.progress import bar
from wingspan.runs import RunFolder, read_json, write_json
from wingspan.runtime import Runtime

_IMAGES = 256  # looked at together


def score(path: Path, device: str = "auto") -> dict[str, Any]:
    """The classifier of a finished fine-tuning on the test split, beside the probe that it began with: what finetuned.json
    holds. What was scored before is read."""
    folder = RunFolder(path)
    run, file = load_run(folder), path / "finetuned.json"
    last = folder.checkpoints()[-1]
    about = {"run": spec.fingerprint(run), "step": int(last.name.removeprefix("step-"))}
    if file.exists() and about.items() <= (known := read_json(file)).items():
        return dict(known)
    runtime = Runtime(device, run.precision)
    images, test = run.data.load("train"), run.data.load("test")
    truth, names = test.task()
    state = prepare(run, images, runtime)
    warm.begin(run, state.learner, images, runtime)
    first = answers(run, state, runtime, test, "the probe it began with")
    state.read(last, spec.fingerprint(run))
    now = answers(run, state, runtime, test, "the classifier")
    better = (now == truth).double() - (first == truth).double()
    shown = torch.bincount(truth, minlength=len(names))
    found = {
        **about,
        "from": {"run": run.start.weights, "width": load_run(RunFolder(Path(run.start.weights))).backbone.D},
        "what": "head" if run.start.frozen else "whole",
        "width": run.backbone.D,
        "data": {"name": run.data.label_name, "target": test.target, "settings": spec.to_json(run.data)},
        "labels": dict(zip(names, torch.bincount(images.task()[0], minlength=len(names)).tolist(), strict=True)),
        "n": len(truth),
        "chance": float(shown.max()) / len(truth),
        "balanced_chance": 1 / int((shown > 0).sum()),
        "began": scores(first, truth, names),
        "now": scores(now, truth, names),
        # On the same images, so the error of the difference is not that of two separate tests.
        "gain": {"value": float(better.mean()), "error": float(better.std()) / math.sqrt(len(truth))},
        "seed": run.seed,
    }
    write_json(file, found)
    return found


@torch.inference_mode()
def answers(run: Pretrain, state: State, runtime: Runtime, images: ImageSet, label: str) -> Tensor:
    """The class (N,) that the classifier gives each image, seen without chance."""
    learner = state.learner.eval()
    parts = []
    batches = torch.arange(len(images)).split(_IMAGES)
    with bar(label, len(batches), per_unit=_IMAGES, things="images") as shown:
        for rows in batches:
            seen = augmentation.plain(run.views, images.images.batch(rows).to(runtime.device))
            with runtime.autocast():
                logits = learner.heads["classifier"](learner.projector(learner.backbone(seen)))
            parts.append(logits.argmax(1).cpu())
            shown.advance()
    return torch.cat(parts)


def scores(given: Tensor, truth: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy with its standard error and 95 % interval (Wilson 1927), the mean over classes, and every class's own.

    given, truth (N,). Classes without a test image have no accuracy and are not part of the mean.
    """
    right = (given == truth).double()
    n, value = len(truth), float(right.mean())
    sizes = torch.bincount(truth, minlength=len(names))
    there = sizes > 0
    each = torch.bincount(truth, weights=right, minlength=len(names))[there] / sizes[there]
    spread = (each * (1 - each) / sizes[there]).sum().sqrt() / int(there.sum())
    own = iter(each.tolist())
    return {
        "accuracy": value,
        "error": math.sqrt(value * (1 - value) / n),
        "interval": list(wilson(value, n)),
        "balanced_accuracy": float(each.mean()),
        "balanced_error": float(spread),
        "per_class": {
            name: {"accuracy": next(own), "n": size} for name, size in zip(names, sizes.tolist(), strict=True) if size
        },
    }


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of n, which stays within 0..1 and does not vanish at 0 or 1."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half
