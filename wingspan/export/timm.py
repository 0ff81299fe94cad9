"""timm's own model with a last block of width D: weights with its names, config.json, and code that builds it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wingspan import interop
from wingspan.export._code import Code
from wingspan.export._preprocessing import crop_mode, interpolation
from wingspan.export._twin import Twin, twin
from wingspan.export.base import Checked, Subject, check
from wingspan.export.safetensors import metadata
from wingspan.width import plain

LIMIT = 1e-5


def write(subject: Subject, place: Path) -> Checked:
    """Raises UserError when timm is missing, or when what model.py builds differs from the network."""
    made = twin(subject)
    code = Code(made.base, made.model)
    tensors = {name: value.contiguous().clone() for name, value in made.model.state_dict().items()}
    save_file(tensors, place / "model.safetensors", metadata(subject))
    (place / "config.json").write_text(json.dumps(config(subject, made), indent=2) + "\n")
    (place / "model.py").write_text(text(subject, made, code))
    wanted = subject.expected()
    model = runpy.run_path(str(place / "model.py"))["load"](place)
    with torch.no_grad():
        off = check(model(subject.images), wanted, LIMIT, "model.py")
    how = f"built by model.py and run on {subject.images_are}"
    lines = f"from model import load\nmodel = load()\n{subject.gives} = model(images)  # (B, {subject.width})"
    if code.lines:
        return Checked(off, how, lines, f"timm's {made.name}, but for {len(code.lines)} assignments in model.py.")
    with torch.no_grad():
        again = interop.timm().create_model(f"local-dir:{place}", pretrained=True).eval()
        off = max(off, check(again(subject.images), wanted, LIMIT, "timm.create_model"))
    note = f"Nothing differs from timm's {made.name}: `timm.create_model('local-dir:FOLDER', pretrained=True)` loads it too."
    return Checked(off, f"{how}; and by timm.create_model", lines, note, "timm")


def config(subject: Subject, made: Twin) -> dict[str, Any]:
    """config.json as timm writes and reads it."""
    known: dict[str, Any] = dict(made.base.pretrained_cfg)  # type: ignore[arg-type]
    augment, classes = subject.run.augment, len(subject.classes)
    found: dict[str, Any] = {"architecture": made.name, "num_classes": classes, "num_features": subject.run.backbone.D}
    if classes:
        found["label_names"] = list(subject.classes)
    if made.arguments:
        found["model_args"] = dict(made.arguments)
    found["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": [3, subject.side, subject.side],
        "fixed_input_size": bool(known.get("fixed_input_size", False)),
        "interpolation": interpolation(subject),
        "crop_pct": 1.0,
        "crop_mode": crop_mode(subject),
        "mean": list(augment.mean),
        "std": list(augment.std),
        "num_classes": classes,
        "first_conv": known.get("first_conv"),
        "classifier": known.get("classifier"),
    }
    return found


_TEMPLATE = '''"""{title}

    from model import load
    model = load()  # images (B, 3, {side}, {side}), normalised as preprocessing.json says -> {gives} (B, {width})

Needs torch, timm and safetensors. Written by wingspan export from the run {run}.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

{sources}
def build() -> nn.Module:
    """The network with weights that are not filled in yet."""
    model = timm.create_model({name!r}, num_classes={classes}{arguments})
{changes}    return model


def load(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """The network with its weights, in evaluation mode."""
    model = build()
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True)
    return model.eval()
'''


def text(subject: Subject, made: Twin, code: Code) -> str:
    """model.py."""
    sources = "".join(f"\n{source}\n\n" for source in code.sources)
    if sources:
        sources = f"\n# What follows is copied from {plain.__name__} (Apache-2.0), so that it need not be installed.\n{sources}"
    words = [f"{key}={value!r}" for key, value in made.arguments.items()]
    return _TEMPLATE.format(
        title=f"timm's {made.name} with a last block of width {subject.run.backbone.D}.",
        side=subject.side,
        gives=subject.gives,
        width=subject.width,
        run=subject.folder.path.name,
        sources=sources + "\n" if sources else "",
        name=made.name,
        classes=len(subject.classes),
        arguments="".join(f", {word}" for word in words),
        changes="".join(f"    {line}\n" for line in code.lines),
    )
