"""Training a decoder for several encoders at once: one linear layer each, a trunk that they share.

Batches, noise and rate are functions of (seed, step), so a state is weights, their average, optimiser and step; training that
was cut goes on bitwise where it was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from wingspan.chance import key
from wingspan.errors import UserError
from wingspan.pretrain import check_identity
from wingspan.progress import bar
from wingspan.rcdm.material import Batch, Material
from wingspan.rcdm.settings import Settings
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.stopping import Interrupted, stop_on_signals
from wingspan.weights import opened

_SAVE_SECONDS = 60.0


class Conditioned(nn.Module):
    """A trunk, and one linear layer D -> K with bias for every encoder, as the published network has for its one."""

    def __init__(self, widths: Sequence[int], conditioning: int, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.conditions = nn.ModuleList(nn.Linear(D, conditioning) for D in widths)

    def condition(self, h: Sequence[Tensor]) -> Tensor:
        """Standardised h, (n, D) an encoder in their order -> conditions (sum of n, K)."""
        return torch.cat([layer(part) for layer, part in zip(self.conditions, h, strict=True)])


@dataclass(frozen=True)
class Course:
    """What is learnt: how the folder and the bar call it, its steps, and the loss of a batch at a step."""

    name: str
    steps: int
    loss: Callable[[Conditioned, Batch, int], Tensor]


def build(
    trunk: Callable[[], nn.Module], widths: Sequence[int], settings: Settings, seed: int, runtime: Runtime
) -> Conditioned:
    """A model with its first weights, on the runtime's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "rcdm init"))
        made = Conditioned(widths, settings.conditioning, trunk())
    return made.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(model: Conditioned, course: Course, material: Material, folder: Path, identity: str, runtime: Runtime) -> None:
    """Train a model to the end of its course, in a folder; afterwards it holds the average of its weights.

    Goes on from the folder's last checkpoint. Raises UserError when that is another company's, or when the loss is not finite,
    and Interrupted after a signal (state saved).
    """
    settings, place = material.settings, RunFolder(folder)
    state = _State(model, settings)
    if place.checkpoints():
        place.restore(lambda checkpoint: state.restore(checkpoint, identity), place.checkpoints()[-1])
    if state.step < course.steps:
        with stop_on_signals() as stop, place.lock():
            saved = time.monotonic()
            label = f"{course.name}, {len(material.encoders)} encoder{'s' * (len(material.encoders) > 1)}"
            with bar(label, course.steps, done=state.step, per_unit=settings.batch, things="images") as shown:
                for batch in _batches(material, course, state.step, runtime):
                    loss = step(state, course, batch.to(runtime.device), runtime)
                    shown.advance(f"loss {loss:.3f}")
                    if stop.signum or state.step == course.steps or time.monotonic() - saved > _SAVE_SECONDS:
                        state.save(place, identity)
                        saved = time.monotonic()
                    if stop.signum:
                        raise Interrupted(
                            f"Stopped at step {state.step} of {course.steps} of the {course.name}, saved in {folder}. "
                            "To go on, give the same command again.",
                            stop.signum,
                        )
            place.forget_checkpoints(set(), newest=1)
    state.settle()


def step(state: _State, course: Course, batch: Batch, runtime: Runtime) -> float:
    """One optimiser step; gives the loss."""
    rate = _rate(state.step, course.steps, state.settings.lr)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    with runtime.autocast():
        loss = course.loss(state.model, batch, state.step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise UserError(
            f"{course.name}: the loss is not finite at step {state.step + 1} with learning rate {rate:.3g}. No weight was "
            "changed by this step. Try a lower lr (--set lr=...)."
        )
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    state.step += 1
    kept = min(state.settings.ema, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(state.average, [p.detach() for p in state.model.parameters()], 1 - kept)
    return value


def _rate(done: int, total: int, peak: float) -> float:
    warm = max(1, total // 20)
    return (
        peak * (done + 1) / warm if done < warm else peak * (1 + math.cos(math.pi * (done - warm) / max(1, total - warm))) / 2
    )


def _batches(material: Material, course: Course, start: int, runtime: Runtime) -> Iterator[Batch]:
    """Every step's batch; for a GPU the next one is made meanwhile, while on a CPU that would take from the same cores."""
    if runtime.device.type == "cpu":
        yield from (material.batch(at, course.name) for at in range(start, course.steps))
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(material.batch, start, course.name)
        for at in range(start, course.steps):
            made = ahead.result()
            if at + 1 < course.steps:
                ahead = pool.submit(material.batch, at + 1, course.name)
            yield made


class _State:
    """All that survives a kill."""

    def __init__(self, model: Conditioned, settings: Settings) -> None:
        self.model, self.settings, self.step = model, settings, 0
        weights = list(model.parameters())
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.99), fused=True)
        self.average = [p.detach().clone() for p in weights]

    def save(self, place: RunFolder, identity: str) -> None:
        with place.new_checkpoint(self.step) as folder:
            names = [name for name, _ in self.model.named_parameters()]
            try:
                for file, values in (("weights", [p.detach() for p in self.model.parameters()]), ("average", self.average)):
                    tensors = {name: value.contiguous() for name, value in zip(names, values, strict=True)}
                    safetensors.torch.save_file(tensors, folder / f"{file}.safetensors")
                torch.save(self.optimiser.state_dict(), folder / "optimiser.pt")
            except (RuntimeError, safetensors.SafetensorError) as error:  # what the two make of a full disk
                raise OSError(f"{error} (is the disk full?)") from error
            (folder / "state.json").write_text(json.dumps({"step": self.step, "fingerprint": identity}))
        place.forget_checkpoints(set())

    def restore(self, checkpoint: Path, identity: str) -> None:
        facts = check_identity(checkpoint, identity)
        held, average = (opened(checkpoint / f"{name}.safetensors") for name in ("weights", "average"))
        moments = opened(checkpoint / "optimiser.pt")
        try:
            self.model.load_state_dict(held)
            self.optimiser.load_state_dict(moments)
            for name, kept in zip((name for name, _ in self.model.named_parameters()), self.average, strict=True):
                kept.copy_(average[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{checkpoint} is of another model: {error}. Remove {checkpoint.parents[1]} to train it anew."
            ) from error
        self.step = int(facts["step"])

    @torch.no_grad()
    def settle(self) -> None:
        """The average takes the weights' place, for use."""
        for weight, kept in zip(self.model.parameters(), self.average, strict=True):
            weight.copy_(kept)
        self.model.eval().requires_grad_(False)
