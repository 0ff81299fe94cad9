"""A run's network in forms that load where Wingspan is not installed; a file of this folder is a form (`base.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wingspan.export._card import card
from wingspan.export._folder import MARK, appearing, check_free
from wingspan.export._preprocessing import preprocessing
from wingspan.export._subject import subject
from wingspan.export.base import Checked, Output, way
from wingspan.pretrain import load_run
from wingspan.runs import RunFolder, write_json
from wingspan.spec import fingerprint


@dataclass(frozen=True)
class Exported:
    """folder: where it is. files: name -> bytes. checked: how it was checked, and how it is loaded."""

    folder: Path
    files: dict[str, int]
    checked: Checked


def export(run: Path, to: str, out: Path | None = None, output: Output | None = None, size: int = 0) -> Exported:
    """Write a run's last checkpoint for other tools; docs/export.md shows each form.

    to: a form: safetensors, timm, torch.export, onnx, hub-folder. out: RUN/export/FORM when left out; only a former export
    of the same run is written over. output: h (B, D), or classes (B, C); left out: classes of a fine-tuned run, else h.
    size: side of the images in pixels; 0: that of training.

    Raises UserError, leaving nothing, when there is no run, checkpoint or such form, when a library is missing, the disk is
    full, or the file that was written does not compute what the network does.
    """
    word, form = way(to)
    folder = RunFolder(run)
    out = out or run / "export" / word
    check_free(out, fingerprint(load_run(folder)))
    found = subject(folder, output, size)
    with appearing(out, found.fingerprint) as place:
        checked: Checked = form.write(found, place)
        write_json(place / "preprocessing.json", preprocessing(found))
        (place / "README.md").write_text(card(found, checked))
        facts = {"run": found.fingerprint, "step": found.step, "to": word, "output": found.output, "side": found.side}
        write_json(place / MARK, facts | {"difference": checked.difference})
    return Exported(out, {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*"))}, checked)
