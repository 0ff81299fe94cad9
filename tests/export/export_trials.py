"""Exports loaded in a fresh process in which Wingspan cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wingspan import interop
from wingspan.errors import UserError
from wingspan.network import load_network
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wingspan":
            raise ImportError(name + " cannot be imported here")

sys.meta_path.insert(0, Refuse())
try:
    import wingspan
except ImportError:
    pass
else:
    raise SystemExit("the hook does not hold")
import numpy as np
"""

OPERATORS = """
import re, torch
_declared = []
for _ in range(20):
    try:
        import torchvision.models
        break
    except RuntimeError as error:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
        name = re.search(r"operator torchvision::(\\w+) does not exist", str(error))[1]
        _declared[-1].define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for each in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[each]
"""
"""timm imports torchvision, which does not import beside a CPU build of PyTorch; see wingspan.interop."""

BY = {
    "timm": "import torch\nfrom model import load\nfound = load()(torch.from_numpy(images)).detach().numpy()",
    "torch.export": (
        "import torch\nfound = torch.export.load('model.pt2').module()(torch.from_numpy(images)).detach().numpy()"
    ),
    "onnx": "import onnxruntime\n(found,) = onnxruntime.InferenceSession('model.onnx').run(None, {'images': images})",
}
LIBRARIES = {"timm": ("timm",), "hub-folder": ("timm",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def needed(to: str) -> None:
    """Skip, saying so, where a form's library is missing."""
    for name in LIBRARIES.get(to, ()):
        if name == "timm":
            try:
                interop.timm()
            except UserError as error:
                pytest.skip(str(error))
        else:
            pytest.importorskip(name, reason=f"{name} is not installed")


def in_fresh_process(script: str, place: Path) -> str:
    """What a script prints in a folder, without Wingspan."""
    before = WITHOUT + (OPERATORS if "timm" in script or "model.py" in script or "from model" in script else "")
    done = subprocess.run(
        [sys.executable, "-c", before + script], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(place: Path, script: str, images: torch.Tensor) -> np.ndarray:
    """What `script` makes of `images` in `found`, given as one batch and as its first image and the others."""
    np.save(place / "given.npy", images.numpy())
    within = script.replace("\n", "\n    ")
    in_fresh_process(
        f"def run(images):\n    {within}\n    return np.asarray(found)\n"
        "given = np.load('given.npy')\n"
        "np.save('found.npy', [run(given), np.concatenate([run(given[:1]), run(given[1:])])])",
        place,
    )
    found = np.load(place / "found.npy")
    for name in ("given.npy", "found.npy"):
        (place / name).unlink()
    assert off(found[0], found[1]) < 1e-5
    return found[0]


def h_of(folder: RunFolder, images: torch.Tensor) -> np.ndarray:
    _, network = load_network(folder, Runtime("cpu", "fp32"))
    return network.h(images).numpy()


def logits_of(folder: RunFolder, images: torch.Tensor) -> np.ndarray:
    from safetensors.torch import load_file

    weights = load_file(folder.checkpoints()[-1] / "learner.safetensors")
    head = weights["heads.classifier.weight"].numpy(), weights["heads.classifier.bias"].numpy()
    return h_of(folder, images) @ head[0].T + head[1]


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def drawn(side: int, count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
