"""model.safetensors: the weights by name, and what they are of."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from wingspan import spec
from wingspan.errors import UserError
from wingspan.export.base import Checked, Subject


def write(subject: Subject, place: Path) -> Checked:
    """Names are the run's own, for a ResNet torchvision's and timm's; a classifier's are `classifier.weight` and `.bias`."""
    tensors = {name: value.contiguous() for name, value in subject.backbone.state_dict().items()}
    if subject.classifier is not None:
        tensors |= {f"classifier.{name}": value.contiguous() for name, value in subject.classifier.state_dict().items()}
    file = place / "model.safetensors"
    save_file(tensors, file, metadata(subject))
    with safe_open(file, "pt") as opened:
        wrong = {*tensors} ^ {*opened.keys()}
        wrong |= {name for name in opened.keys() if not torch.equal(opened.get_tensor(name), tensors[name])}  # noqa: SIM118
    if wrong:
        raise UserError(f"model.safetensors did not come back from disk as it was written ({', '.join(sorted(wrong)[:3])}).")
    lines = (
        "from safetensors.torch import load_file\n"
        'weights = load_file("model.safetensors")  # name -> tensor\n'
        "print({name: tuple(value.shape) for name, value in weights.items()})"
    )
    note = (
        "The file holds weights and no architecture. `--to timm` writes code that builds the network beside it, `--to onnx` "
        "and `--to torch.export` a file that holds both. With Wingspan, `--start.weights` takes this file."
    )
    return Checked(0.0, "every tensor read back and compared, bit by bit", lines, note)


def metadata(subject: Subject) -> dict[str, str]:
    """What the header of a safetensors file says: strings only."""
    run = subject.run
    return {
        "format": "pt",
        "architecture": run.backbone.label_name,
        "width": str(run.backbone.D),
        "backbone": json.dumps(spec.to_json(run.backbone)),
        "output": subject.output,
        "run": subject.fingerprint,
        "step": str(subject.step),
        "side": str(subject.side),
        "mean": json.dumps(run.augment.mean),
        "std": json.dumps(run.augment.std),
    }
