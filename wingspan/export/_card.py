"""README.md of an export: a model card as the Hugging Face hub shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from wingspan import spec
from wingspan.data._decode import BORDER
from wingspan.data.base import PLACES
from wingspan.data.hub import Hub
from wingspan.data.subset import Subset
from wingspan.export._preprocessing import fit, interpolation
from wingspan.export.base import Checked, Subject
from wingspan.results import Entry, tables
from wingspan.runs import read_json

_MOST = 200  # class names that the card lists


def card(subject: Subject, checked: Checked) -> str:
    """The card: what the network is, what was measured on it, how it is loaded, how the file was checked."""
    run = subject.run
    title = f"{run.backbone.label_name}, D = {run.backbone.D}"
    parts = [
        front_matter(subject, checked.library),
        f"# {title}",
        _what(subject),
        "## Load it",
        "In this folder, with `images` float32 and preprocessed as below:",
        f"```python\n{checked.load}\n```",
        checked.note,
        f"The file was checked: {checked.how}; the largest difference is {checked.difference:.1e} of the largest output.",
        "## Preprocessing",
        "As `preprocessing.json` says. This turns a Pillow picture into what the network takes (PyTorch: `torch.from_numpy`):",
        f"```python\n{picture(subject)}```",
        _classes(subject),
        "## Measured",
        results(subject),
        "## Pretraining",
        _settings(subject),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(subject: Subject, library: str) -> str:
    """YAML that the hub reads: library, task, tags, data set."""
    run = subject.run
    tags = ["wingspan", spec.kind_of(run.objective), run.backbone.label_name]
    task = "image-feature-extraction" if subject.classifier is None else "image-classification"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task}", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    data = run.data.of if isinstance(run.data, Subset) else run.data
    if isinstance(data, Hub) and data.name:
        lines += ["datasets:", f"- {json.dumps(data.name)}"]
    return "\n".join([*lines, "---"])


_PICTURE = """import json
import numpy as np
from PIL import Image, ImageOps

p = json.load(open("preprocessing.json"))

def preprocess(picture):  # -> (1, 3, side, side) float32
    square = ImageOps.{square}(picture.convert("RGB"), (p["side"], p["side"]), Image.Resampling.{method}{more})
    pixels = np.asarray(square, np.float32) / 255
    return ((pixels - p["mean"]) / p["std"]).transpose(2, 0, 1)[None].astype(np.float32)
"""


def picture(subject: Subject) -> str:
    """Python that makes a Pillow picture what the network takes, by `preprocessing.json`."""
    square, more = {"crop": ("fit", ""), "pad": ("pad", f", {BORDER}"), "squash": ("", "")}[fit(subject)]
    text = _PICTURE.format(square=square, method=interpolation(subject).upper(), more=more)
    if not square:
        text = text.replace('ImageOps.(picture.convert("RGB"), (', 'picture.convert("RGB").resize((').replace(", ImageOps", "")
    return text


def _what(subject: Subject) -> str:
    run, backbone = subject.run, subject.run.backbone
    count = sum(value.numel() for value in subject.module.parameters())
    gives = f"a representation h of {backbone.D} numbers"
    if subject.classifier is not None:
        gives = f"logits of {subject.width} classes, on {gives}"
    began = f", from the weights of `{Path(run.start.weights).name}`" if run.start.weights else ""
    return (
        f"Images (B, 3, {subject.side}, {subject.side}) to {gives}. The last block has width D = {backbone.D}, set with "
        f"Wingspan; {count / 1e6:.1f} M parameters. Trained on {run.data.label_name} with {spec.kind_of(run.objective)} for "
        f"{_epochs(subject)}{began}."
    )


def _epochs(subject: Subject) -> str:
    """Epochs of training, or how far it was when the checkpoint was written."""
    folder, planned = subject.folder, subject.run.epochs
    said = f"{planned} epoch{'s' if planned > 1 else ''}"
    done = folder.done() and read_json(folder.finished)["steps"] == subject.step
    return said if done else f"{subject.step} steps (training was not finished: {said} were planned)"


def _classes(subject: Subject) -> str:
    if not subject.classes:
        return ""
    some = ", ".join(f"{at}: {name}" for at, name in enumerate(subject.classes[:_MOST]))
    return f"## Classes\n\n{some}{', ... (all in preprocessing.json)' if len(subject.classes) > _MOST else ''}"


def results(subject: Subject) -> str:
    """Every number that was measured on this checkpoint, with its standard error, as a table."""
    files = [
        file for file in sorted(subject.folder.results.glob("*.json")) if read_json(file).get("step") in (None, subject.step)
    ]
    found = tables([Entry(subject.folder, subject.run, {}, files)]).numbers
    tuned = _tuned(subject)
    if not len(found):
        return tuned or f"Nothing was measured on this checkpoint yet: `wingspan measure {subject.folder.path.name}`."
    head = ["measure", "data", "task", "metric", "value", "n", "chance"]
    rows = [f"| {' | '.join(head)} |", "|---|---|---|---|---:|---:|---:|"]
    for row in found.to_dict("records"):
        metric = row["metric"] + (f" ({row['series']})" if row["series"] else "")
        value = _number(row["metric"], row["value"], row["error"])
        chance = "" if pd.isna(row["chance"]) else _number(row["metric"], row["chance"], None)
        cells = (row["measure"], row["data"], row["task"], metric, value, f"{row['n']:,}", chance)
        rows.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join([tuned, "", *rows, "", "Values ± their standard error. Chance: always answering the most frequent class."])


def _tuned(subject: Subject) -> str:
    """What a fine-tuned classifier was worth, where that was scored on this checkpoint."""
    file = subject.folder.path / "finetuned.json"
    told = read_json(file) if file.exists() else {}
    if told.get("step") != subject.step or told.get("run") != subject.fingerprint:
        return ""
    (low, high), labels = told["now"]["interval"], sum(told["labels"].values())
    return (
        f"Classifier, fine-tuned on {labels:,} labelled images ({told['what']}): **{_score(told['now'])}** (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}) of {told['n']:,} test images of {told['data']['name']}; mean over classes "
        f"{told['now']['balanced_accuracy']:.1%}. The linear probe that it began with: {_score(told['began'])}. "
        f"Always answering the most frequent class: {told['chance']:.1%}."
    )


def _score(scores: dict[str, Any]) -> str:
    return _number("accuracy", scores["accuracy"], scores["error"])


def _number(metric: str, value: float, error: float | None) -> str:
    known = error is not None and not pd.isna(error)
    if "accuracy" in metric:
        return f"{value:.1%}" + (f" ± {100 * error:.1f}" if known and error is not None else "")
    return f"{value:.4g}" + (f" ± {error:.2g}" if known else "")


def _homeless(data: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in data.items() if name not in (*PLACES, "cache")}
    return {name: _homeless(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _settings(subject: Subject) -> str:
    """The run as JSON, less what is at its default; folders of whoever trained it are no one's business."""
    told = {name: value for name, value in spec.to_json(subject.run, sparse=True).items() if name != "start"}
    told |= {"data": _homeless(told["data"])} if "data" in told else {}
    return (
        f"Run `{subject.folder.path.name}`, step {subject.step:,}. Settings that are not at their default:\n\n"
        f"```json\n{json.dumps(told, indent=2)}\n```"
    )
