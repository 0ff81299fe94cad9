"""model.pt2: a graph with its weights, for PyTorch alone (torch.export), any batch size."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from wingspan.errors import UserError
from wingspan.export.base import Checked, Subject, check

LIMIT = 1e-5


def write(subject: Subject, place: Path) -> Checked:
    """Raises UserError when the graph cannot be taken, or differs from the network."""
    file = place / "model.pt2"
    archive = io.BytesIO()  # writing to the file itself, PyTorch ends the whole process where the disk is full
    torch.export.save(graph(subject), archive)
    file.write_bytes(archive.getbuffer())
    del archive
    loaded = torch.export.load(file).module()
    wanted = subject.expected()
    with torch.no_grad():
        off = max(check(loaded(subject.images[:n]), wanted[:n], LIMIT, file.name) for n in (1, len(wanted)))
    lines = (
        f'import torch\nmodel = torch.export.load("{file.name}").module()\n'
        f"{subject.gives} = model(images)  # (B, {subject.width})"
    )
    return Checked(off, f"loaded and run on {subject.images_are}", lines)


def graph(subject: Subject) -> torch.export.ExportedProgram:
    """The network as a graph whose batch is of any size. Raises UserError when it cannot be taken."""
    example = subject.images[:1].repeat(2, 1, 1, 1)  # one image would be taken for a constant
    try:
        with torch.no_grad():
            return torch.export.export(subject.module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (RuntimeError, ValueError, AssertionError) as error:
        name = subject.run.backbone.label_name
        raise UserError(f"torch.export cannot take the graph of {name}: {error}. Try --to timm.") from error
