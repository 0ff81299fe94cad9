"""What a width costs: to hold, to train, to store. Counted from a run's settings, and read from runs that were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wingspan.errors import UserError
from wingspan.forecast import forecast
from wingspan.pretrain import load_run
from wingspan.runs import RunFolder, read_json


@dataclass(frozen=True)
class Price:
    """What one width costs; None is not known."""

    width: int
    parameters: int | None = None  # of the backbone; the projector is thrown away after training
    training_bytes: int | None = None  # weights, gradients, optimiser and activations of one part of a batch
    precision: str = ""  # that activations are counted in
    step_seconds: float | None = None  # as timed in training, whatever else the machine did

    @property
    def vector_bytes(self) -> int:
        """One representation in fp16."""
        return 2 * self.width

    @property
    def bit_bytes(self) -> int:
        """One representation in packed bits, h > 0."""
        return -(-self.width // 8)

    @property
    def spoken(self) -> Mapping[str, float]:
        """What is known, for `wingspan.advice`."""
        known: dict[str, float | None] = {
            "parameters": self.parameters,
            "MiB in training": None if self.training_bytes is None else self.training_bytes / 2**20,
            "ms a step": None if self.step_seconds is None else self.step_seconds * 1e3,
            "bytes a vector": self.vector_bytes,
        }
        return {name: value for name, value in known.items() if value is not None}


def price(width: int, folders: Sequence[RunFolder]) -> Price:
    """What a width costs by its runs, which differ in their seed alone. Without a run only what follows from D is known."""
    timed = [seconds for folder in folders if (seconds := step_seconds(folder)) is not None]
    mean = sum(timed) / len(timed) if timed else None
    for folder in folders:
        try:
            run = load_run(folder)
        except UserError:  # of a version with other settings; another seed's may be readable
            continue
        cost = forecast(run, run.views.size)
        return Price(width, cost.backbone_parameters, cost.weight_bytes + cost.activation_bytes, cost.precision, mean)
    return Price(width, step_seconds=mean)


def step_seconds(folder: RunFolder) -> float | None:
    """Seconds a step took, the mean over a finished run; None where that is not known."""
    if not folder.done():
        return None
    facts = read_json(folder.finished)
    steps, seconds = facts.get("steps"), facts.get("seconds")
    return seconds / steps if steps and seconds is not None else None
