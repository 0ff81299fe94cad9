"""What an export is: a folder that other tools load, checked by loading it, with preprocessing.json and a model card.

A file of this folder is a form, and its name, with `-` or `.` for `_`, the word for `--to`. It has `write(subject, place)`,
which fills a folder, loads what it wrote and gives a `Checked`; it raises UserError when that differs from the run's network.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wingspan.errors import UserError, nearest
from wingspan.pretrain import Pretrain
from wingspan.runs import RunFolder

Output = Literal["h", "classes"]
_SAID = {"torch_export": "torch.export"}


@dataclass(frozen=True)
class Subject:
    """What is exported.

    backbone: (B, 3, side, side) normalised images -> h (B, D), in evaluation mode, fp32, on the CPU, nothing streamed.
    classifier: h -> logits (B, C), or None where h is the output. classes: a name a logit, numbers where the data could not be
    read. images: (n, 3, side, side), preprocessed, that every file is checked on; images_are: what they are, in words.
    """

    folder: RunFolder
    run: Pretrain
    fingerprint: str
    step: int
    backbone: nn.Module
    classifier: nn.Linear | None
    classes: tuple[str, ...]
    side: int
    images: Tensor
    images_are: str

    @property
    def output(self) -> Output:
        return "h" if self.classifier is None else "classes"

    @property
    def gives(self) -> str:
        """What a caller names the output."""
        return "h" if self.classifier is None else "logits"

    @property
    def width(self) -> int:
        """Numbers an image in the output: D or C."""
        return self.run.backbone.D if self.classifier is None else self.classifier.out_features

    @property
    def module(self) -> nn.Module:
        """Normalised images -> h or logits."""
        if self.classifier is None:
            return self.backbone
        return nn.Sequential(self.backbone, self.classifier).eval()

    def expected(self) -> Tensor:
        """What the network gives for `images`."""
        with torch.no_grad():
            found: Tensor = self.module(self.images)
        return found


@dataclass(frozen=True)
class Checked:
    """difference: largest |found - torch's| over the largest |torch's|. how: what was compared, in words. load: Python that
    loads it in its folder. note: what else the card says. library: the hub's word for what loads it."""

    difference: float
    how: str
    load: str
    note: str = ""
    library: str = "pytorch"


def formats() -> Mapping[str, str]:
    """Word for `--to` -> file."""
    found = [each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return {_SAID.get(name, name.replace("_", "-")): name for name in found if name != "base" and not name.startswith("_")}


def way(to: str) -> tuple[str, ModuleType]:
    """The word as documented, and the module, of a form. Raises UserError naming the nearest."""
    known = formats()
    for word, name in known.items():
        if to.replace("-", "_").replace(".", "_") == name:
            return word, importlib.import_module(f"wingspan.export.{name}")
    raise UserError(f"--to '{to}': no such form.{nearest(to, known)}")


def check(found: Tensor, wanted: Tensor, limit: float, what: str) -> float:
    """The largest difference relative to the largest |wanted|. Raises UserError when it is above `limit`, or no number."""
    if found.shape != wanted.shape:
        raise UserError(f"{what} gives {tuple(found.shape)} where the network gives {tuple(wanted.shape)}; nothing was kept.")
    scale = float(wanted.abs().max()) or 1.0
    off = float((found.double() - wanted.double()).abs().max()) / scale
    if math.isnan(off) or off > limit:
        raise UserError(
            f"{what} differs from the network by {off:.1e} of its largest output, {limit:.0e} is allowed; nothing was kept. "
            "Another form may do: " + ", ".join(f"--to {word}" for word in formats()) + "."
        )
    return off


def library(name: str) -> Any:
    """An optional library. Raises UserError saying how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this export needs {name} ({error}): pip install 'wingspan[interop]'.") from error
