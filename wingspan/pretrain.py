"""Pretraining: the run as a value, and the state that survives a kill. The loop is in `loop.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch

from wingspan import optim, projector, sharding, spec, weights
from wingspan.augment import Augment
from wingspan.backbones.base import Backbone
from wingspan.backbones.resnet import ResNet
from wingspan.chance import key
from wingspan.data.base import Data, ImageSet
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.learner import Learner
from wingspan.objectives.base import Objective
from wingspan.objectives.simclr import SimCLR
from wingspan.optim import Optim
from wingspan.runs import DamagedError, RunFolder, read_json
from wingspan.runtime import Precision, Runtime
from wingspan.sampling import Sampling
from wingspan.sharding import Parts
from wingspan.start import Start


@dataclass(frozen=True)
class Pretrain:
    """A pretraining run. The defaults are the paper's (appendix A)."""

    data: Data = Scenes()
    """Images to learn from."""
    sampling: Sampling = field(default_factory=Sampling)
    """What batches are made of."""
    augment: Augment = field(default_factory=Augment)
    """What is drawn for a view."""
    backbone: Backbone = ResNet()
    """The network whose last block has width D."""
    projector: str | None = None
    """Layer widths between representation and objective, as '8192-8192-8192'; one number is a linear projector, '' none.
    Left out: what the objective usually has."""
    objective: Objective = SimCLR()
    """What is learnt."""
    optim: Optim = field(default_factory=Optim)
    """How weights follow gradients."""
    epochs: int = 100
    """Passes over the images."""
    batch: int = 512
    """Images a step, over all processes. The learning rate scales with it."""
    accumulate: int = 1
    """Parts a batch is computed in, for less memory. Objectives that compare images then compare within a part."""
    seed: int = 0
    """Initial weights, order and augmentation all follow from it."""
    precision: Precision = "auto"
    """bf16, fp32, or auto: bf16 wherever the hardware multiplies it."""
    start: Start = field(default_factory=Start)
    """Where the weights come from before the first step."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 1.")
        if self.batch % self.accumulate:
            raise UserError(f"--accumulate {self.accumulate} does not divide --batch {self.batch}.")
        if self.batch // self.accumulate < 2:
            raise UserError("batch norm needs at least 2 images at a time: raise --batch or lower --accumulate.")
        projector.widths(self.projector_text)
        if self.start.head and (not self.objective.supervised or self.projector_text):
            raise UserError("--start.head begins with a classifier on h: it needs --objective supervised and --projector ''.")

    @property
    def projector_text(self) -> str:
        return self.objective.projector if self.projector is None else self.projector

    @property
    def views(self) -> Augment:
        """The augmentation at the side that training sees; images above 64 pixels are stored larger, for their crops."""
        return dataclasses.replace(self.augment, size=self.augment.size or self.data.side)

    @property
    def name(self) -> str:
        """The folder name a run gets when none is given: readable, and unique through the fingerprint."""
        parts = (spec.kind_of(self.objective), self.backbone.label_name, f"D{self.backbone.D}", f"s{self.seed}")
        return "-".join([*parts, spec.fingerprint(self)])


@dataclass(frozen=True)
class Sitting:
    """How a run is carried out here and now; changes nothing about its result."""

    device: str = "auto"
    """auto, cpu or cuda."""
    save_seconds: float = 120.0
    """Save a checkpoint to resume from at least this often."""
    keep_every: int = 0
    """Keep a checkpoint for good every so many epochs; 0 keeps only the last."""
    online: bool = True
    """Where images have labels, show while training how well a linear probe reads them from the representation, without any
    effect on the run. Such numbers are for watching: they differ from, and mostly stay below, those of wingspan measure.
    Switch it off where the labels must not be looked at, or for the last percent of speed."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share a run. ddp: each keeps all weights; fsdp: of the projector, its gradients, momenta and moving
    average each keeps its part only, for a little more to send (FSDP2). Choose fsdp where D is wide and memory is short."""
    online_every: int = 1
    """Test that probe and a kNN on a few test images every so many epochs. Raise it where epochs are short; 0 never tests,
    for instance because the test images must stay unseen until the end."""

    def __post_init__(self) -> None:
        if self.online_every < 0:
            raise UserError(f"--online-every {self.online_every} must be 0 (never) or a number of epochs.")


@dataclass
class State:
    """All that survives a kill: weights, optimiser, step, and the seconds spent so far (for the record only)."""

    learner: Learner
    optimiser: torch.optim.Optimizer
    parts: Parts
    step: int = 0
    seconds: float = 0.0

    def shard(self, run: Pretrain, runtime: Runtime) -> None:
        """Leave this process its part of what stands above the backbone, values as they are (`sharding`)."""
        moments = self.optimiser.state_dict()
        sharding.shard(self.learner.above(), runtime.device, bf16=runtime.bf16)
        self.parts = Parts(self.learner.parameters())
        self.optimiser = optim.build(run.optim, self.parts.own, self.parts.norms)
        self.optimiser.load_state_dict(self.parts.cut(moments, self.optimiser))

    def whole(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Weights and optimiser as one process has them, for the first process to save. All processes must call it."""
        held = {name: sharding.joined(value).contiguous() for name, value in self.learner.state_dict().items()}
        return held, self.parts.join(self.optimiser.state_dict(), self.optimiser)

    def save(self, folder: RunFolder, identity: str, beside: Mapping[str, Any] | None = None, whole: Any = None) -> Path:
        """Write a checkpoint that is either complete or absent. `beside` is what others keep in it: NAME -> NAME.pt; `whole`:
        what `whole` gave, when other processes had to be asked, too."""
        final = folder.checkpoint(self.step)
        if final.exists():
            return final
        tensors, moments = whole or self.whole()
        kept = {"optimiser": moments, **(beside or {})}
        with folder.new_checkpoint(self.step, _bytes([tensors, kept])) as place:
            try:
                safetensors.torch.save_file(tensors, place / "learner.safetensors")
                for name, value in kept.items():
                    torch.save(value, place / f"{name}.pt")
            except (RuntimeError, safetensors.SafetensorError) as error:  # what the two make of a full disk
                raise OSError(f"{error} (is the disk full?)") from error
            facts = {"step": self.step, "seconds": self.seconds, "fingerprint": identity}
            (place / "state.json").write_text(json.dumps(facts))
        return final

    def restore(self, checkpoint: Path, identity: str) -> None:
        """Take over the checkpoint `checkpoint`, or, where it is damaged, the newest before it that is whole, with a warning.

        For whoever holds the folder's lock. Raises UserError when nothing can be gone on from, and as `read` does.
        """
        return RunFolder(checkpoint.parents[1]).restore(lambda each: self.read(each, identity), checkpoint)

    def read(self, checkpoint: Path, identity: str) -> None:
        """Take over this checkpoint. Raises DamagedError when a file of it is cut, overwritten or gone, and UserError when it
        belongs to other settings, or could run code."""
        facts = check_identity(checkpoint, identity)
        held = weights.opened(checkpoint / "learner.safetensors")
        moments = weights.opened(checkpoint / "optimiser.pt")
        try:
            self.learner.load_state_dict(held)
            self.optimiser.load_state_dict(moments)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{checkpoint} holds other weights than this run's: {error}") from error
        self.step, self.seconds = facts["step"], facts.get("seconds", 0.0)


def _bytes(value: Any) -> int:
    """What the tensors take, at any depth of lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def check_identity(checkpoint: Path, identity: str) -> dict[str, Any]:
    """A checkpoint's facts. Raises DamagedError where there are none, UserError when a run with other settings wrote it."""
    facts: dict[str, Any] = read_json(checkpoint / "state.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("step"), int) or "fingerprint" not in facts:
        raise DamagedError(f"{checkpoint / 'state.json'} is damaged: step and fingerprint expected.")
    if facts["fingerprint"] != identity:
        raise UserError(
            f"{checkpoint} was written by a run with other settings (fingerprint {facts['fingerprint']}, this run's is "
            f"{identity}): put it back where it belongs, or begin anew with another --out."
        )
    return facts


def prepare(run: Pretrain, images: ImageSet, runtime: Runtime) -> State:
    """Fresh weights and optimiser for a run. Raises UserError when run and images do not fit together."""
    classes = 0
    if run.objective.supervised:
        classes = len(images.task()[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(run.seed, "init"))
        learner = Learner(run.backbone, run.projector_text, run.objective, classes)
    if run.start.frozen:
        learner.backbone.requires_grad_(False)
    learner = learner.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = Parts(learner.parameters())
    return State(learner, optim.build(run.optim, parts.own, parts.norms), parts)


def load_run(folder: RunFolder) -> Pretrain:
    """The run that a folder holds. Raises UserError when it holds none."""
    value = read_json(folder.spec)
    if not isinstance(value, dict):
        raise UserError(f"{folder.spec} is damaged: an object with the settings of a run expected.")
    written = value.pop("fingerprint", None)
    run = spec.from_json(Pretrain, value, str(folder.spec))
    given = spec.fingerprint(run)
    if written not in (None, given):
        raise UserError(
            f"{folder.spec} was edited, or written by another version of Wingspan (fingerprint {written}, these settings give "
            f"{given}). A run's settings cannot change: put them back, or begin anew with another --out."
        )
    return run
