"""A run's frozen backbone, and the features it gives for a set of images.

Frozen means frozen: evaluation mode, `inference_mode`, no buffer changes (a test compares every one before and after).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import torch
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan import spec
from wingspan.augment import Augment
from wingspan.data.base import Data, ImageSet
from wingspan.errors import UserError
from wingspan.pretrain import Pretrain, check_identity, load_run
from wingspan.progress import bar, tell
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime


@dataclass(frozen=True)
class Split:
    """Features h (N, D) of one split in fp16, with every task's labels (N,)."""

    h: Tensor
    images: ImageSet


@dataclass(frozen=True)
class Bank:
    """Features of a data set's two splits, from one frozen backbone."""

    data: str
    train: Split
    test: Split
    fingerprint: str


def load_backbone(folder: RunFolder) -> tuple[Pretrain, nn.Module]:
    """A run's settings and its trained backbone in evaluation mode, from its last checkpoint.

    Raises UserError when there is no checkpoint, or when it holds a backbone of another width than run.json says.
    """
    run = load_run(folder)
    if not folder.checkpoints():
        raise UserError(f"{folder.path} holds no checkpoint yet: wingspan pretrain --resume {folder.path}")
    last = folder.checkpoints()[-1]
    with torch.random.fork_rng(devices=[]):
        backbone = run.backbone.build()
    read_weights(backbone, last / "learner.safetensors")
    check_identity(last, spec.fingerprint(run))
    return run, backbone.eval()


def read_weights(backbone: nn.Module, file: Path, prefix: str = "backbone.") -> None:
    """Fill a backbone from a checkpoint's weights. Raises UserError listing what does not fit."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            names = opened.keys()
            weights = {name.removeprefix(prefix): opened.get_tensor(name) for name in names if name.startswith(prefix)}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read as weights: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{name}: {found.get(name, 'absent')} found, {wanted.get(name, 'nothing')} expected"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{file} holds another backbone than was asked for ({'; '.join(wrong[:3])}{more}). "
            "Give the width and architecture it was trained with."
        )
    backbone.load_state_dict(weights)


@torch.inference_mode()
def extract(backbone: nn.Module, images: ImageSet, view: Augment, runtime: Runtime, *, batch: int = 512, label: str) -> Tensor:
    """h (N, D) in fp16 on the CPU, of every image's view without chance, in order.

    Raises UserError naming rows whose features are not finite.
    """
    backbone = backbone.to(runtime.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts: list[Tensor] = []
    starts = range(0, len(images), batch)
    with bar(label, len(starts), per_unit=batch, things="images") as shown, runtime.autocast():
        for start in starts:
            indices = torch.arange(start, min(start + batch, len(images)))
            pixels = images.images.batch(indices).to(runtime.device)
            parts.append(backbone(augmentation.plain(view, pixels)).to("cpu", torch.float16))
            shown.advance()
    h = torch.cat(parts)
    bad = (~torch.isfinite(h)).any(1).nonzero().flatten()
    if len(bad):
        rows = ", ".join(map(str, bad[:5].tolist()))
        raise UserError(
            f"{label}: features of {len(bad)} images are not finite (rows {rows}): the run has diverged; lower its rate."
        )
    return h


def bank(folder: RunFolder, data: Data, runtime: Runtime) -> Bank:
    """Features of both splits of a data set from a run's backbone."""
    run, backbone = load_backbone(folder)

    def split(name: Literal["train", "test"]) -> Split:
        images = data.load(name)
        tell(images.notes)
        return Split(extract(backbone, images, run.augment, runtime, label=f"features of {data.label_name} {name}"), images)

    return Bank(data.label_name, split("train"), split("test"), spec.fingerprint(run))
