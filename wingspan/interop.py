"""timm and torchvision, imported on demand, also where torchvision's compiled operators do not fit the installed PyTorch.

The package index has no torchvision build for a CPU build of PyTorch; the CUDA one then fails at its first import, because the
operators that its compiled part would declare are missing. No model of either library needs them to be *implemented*, so they
are declared here by name alone: models and transforms work, and calling such an operator (non-maximum suppression) still fails.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import torch

from wingspan.errors import UserError

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_DECLARED: list[torch.library.Library] = []  # a declaration lives as long as its library


def timm() -> Any:
    """The timm package. Raises UserError saying how to install it, or why it cannot be imported."""
    torchvision()
    return _import("timm")


def torchvision() -> Any:
    """The torchvision package, with `torchvision.models`. Raises UserError as `timm` does."""
    for _ in range(20):  # operators that a release registers one after another; two at present
        try:
            return _import("torchvision", "torchvision.models")
        except RuntimeError as error:
            found = _MISSING.search(str(error))
            if found is None:
                raise
            _declare(found[1])
    raise UserError("torchvision cannot be imported: reinstall the release that belongs to the installed torch.")


def _declare(operator: str) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported


def _import(name: str, *inside: str) -> Any:
    try:
        for each in inside:
            importlib.import_module(each)
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}): pip install 'wingspan[interop]'.") from error
