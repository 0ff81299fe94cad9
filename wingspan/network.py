"""A frozen network as measures see it: a run's last checkpoint, or any module that gives one vector an image.

Frozen means frozen: evaluation mode, no gradient for a weight, no buffer changes (a test compares every one before and after).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan import projector, spec
from wingspan.augment import Augment
from wingspan.errors import UserError, nearest
from wingspan.pretrain import Pretrain, check_identity, load_run
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.store import shards
from wingspan.store.manifest import Model
from wingspan.weights import read_weights


@dataclass(frozen=True)
class Network:
    """A frozen backbone, the projector trained on it, and what its images look like.

    backbone: (B, 3, S, S) normalised images -> h (B, D). projector: h -> z, or None where there is none. augment: what
    views are made with; its normalisation is that of the backbone's input. name: how messages call it.
    """

    backbone: nn.Module
    augment: Augment
    runtime: Runtime
    projector: nn.Module | None = None
    name: str = "the module"

    def __post_init__(self) -> None:
        for module in (self.backbone, self.projector):
            if module is not None:
                module.to(self.runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                module.eval().requires_grad_(False)

    def at(self, side: int) -> Network:
        """The network looking at images of `side` pixels, unless its augmentation names a size of its own."""
        return replace(self, augment=replace(self.augment, size=self.augment.size or side))

    def plain(self, pixels: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) -> the view without chance that probes see (B, 3, size, size), on the network's device."""
        made: Tensor = augmentation.plain(self.augment, pixels.to(self.runtime.device))
        return made

    def views(self, pixels: Tensor, count: int, seed: int, step: int) -> Tensor:
        """uint8 images (B, 3, S, S) -> `count` random views of each (count, B, 3, size, size), as in pretraining."""
        drawn = augmentation.draws(self.augment, len(pixels), count, seed, step)
        made = augmentation.apply(self.augment, pixels.to(self.runtime.device), drawn)
        return made.view(count, len(pixels), *made.shape[1:])

    @torch.inference_mode()
    def h(self, views: Tensor) -> Tensor:
        """Normalised images (B, 3, size, size) -> h (B, D) in fp32, on the network's device."""
        with self.runtime.autocast():
            found: Tensor = self.backbone(views)
        return found.float()

    @torch.inference_mode()
    def layers(self, views: Tensor) -> dict[str, Tensor]:
        """h, and behind it every layer of the projector: {"h": (B, D), "projector 1": (B, K1), ...} in fp32.

        A hidden layer is taken after its ReLU (as FFCV-SSL's train_ssl.py probes it), the last one as it is.
        """
        found = {"h": self.h(views)}
        with self.runtime.autocast():
            before = found["h"]
            for name, part in self._projector_layers():
                found[name] = before = part(before).float()
        return found

    def layer(self, views: Tensor, name: str) -> Tensor:
        """One of `layers` (B, K) in fp32; for "h" without going through the projector."""
        return self.h(views) if name == "h" else self.layers(views)[name]

    def layer_names(self) -> tuple[str, ...]:
        return ("h", *(name for name, _ in self._projector_layers()))

    def check_layer(self, layer: str) -> None:
        """Raise UserError naming the nearest unless there is such a layer."""
        if layer not in self.layer_names():
            raise UserError(f"--layer '{layer}': {self.name} has no such layer.{nearest(layer, self.layer_names())}")

    def _projector_layers(self) -> Iterator[tuple[str, nn.Module]]:
        parts: list[nn.Module] = []
        modules = [] if self.projector is None else list(self.projector.children())
        number = 0
        for at, module in enumerate(modules):
            parts.append(module)
            if isinstance(module, nn.ReLU) or at == len(modules) - 1:
                number += 1
                yield f"projector {number}", nn.Sequential(*parts)
                parts = []


def load_network(folder: RunFolder, runtime: Runtime) -> tuple[Pretrain, Network]:
    """A run's settings and its trained network, from its last checkpoint.

    Raises UserError when there is no checkpoint, or when it holds a network of another width than run.json says.
    """
    run = load_run(folder)
    if not folder.checkpoints():
        raise UserError(f"{folder.path} holds no checkpoint yet: wingspan pretrain --resume {folder.path}")
    last = folder.checkpoints()[-1]
    with torch.random.fork_rng(devices=[]):
        backbone, head = run.backbone.build(), projector.build(run.projector_text, run.backbone.D)
    read_weights(backbone, last / "learner.safetensors")
    read_weights(head, last / "learner.safetensors", "projector.")
    check_identity(last, spec.fingerprint(run))
    return run, Network(backbone, run.augment, runtime, head, folder.path.name)


def model_of(folder: RunFolder, run: Pretrain) -> Model:
    """What a store of a run's features says about where they come from: the run, its last checkpoint, a hash of its weights."""
    last = folder.checkpoints()[-1]
    step = int(last.name.removeprefix("step-"))
    weights = shards.checksum(last / "learner.safetensors")
    return Model(folder.path.name, str(folder.path.absolute()), spec.fingerprint(run), step, weights)
