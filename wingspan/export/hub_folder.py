"""timm's form, ready to be put on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wingspan.export import timm
from wingspan.export.base import Checked, Subject


def write(subject: Subject, place: Path) -> Checked:
    """As `timm.write`; the card says how it gets to the hub, and from there into a program. Nothing is uploaded."""
    made = timm.write(subject, place)
    if made.library == "timm":
        load = (
            'import timm\nmodel = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()\n'
            f"{subject.gives} = model(images)  # (B, {subject.width})"
        )
    else:
        load = (
            "import runpy\nfrom huggingface_hub import snapshot_download\n"
            'model = runpy.run_path(snapshot_download("USER/NAME") + "/model.py")["load"]()\n'
            f"{subject.gives} = model(images)  # (B, {subject.width})"
        )
    note = f"{made.note} To put this folder on the hub: `hf upload USER/NAME FOLDER .`"
    return dataclasses.replace(made, note=note, load=f"{made.load}\n\n# once it is on the hub, as USER/NAME\n{load}")
