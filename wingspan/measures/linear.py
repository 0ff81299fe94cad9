"""The linear probe: a linear classifier on frozen features (for a quantity a linear regression), scored on the test split.

Defaults are the paper's (appendix A): AdamW, rate 1e-4, weight decay 0.04, batch 1024, 100 epochs, on features of centre crops
as they are. Presets are for small budgets: features standardised, a higher rate on a cosine, 30 epochs; their numbers are
compared with each other, not with the paper's. `layers` probes the projector's layers too, as figure 12 does; `augmented`
trains on random crops and flips; a grid chooses rate and weight decay without a look at the test split. `linear_quick` is for
very wide features: three passes at a rate chosen for each width (benchmarks/probe.py compares it with L-BFGS).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.chance import key
from wingspan.data.base import Images
from wingspan.errors import UserError
from wingspan.features import Bank, Need, Split, room
from wingspan.inputs import Inputs
from wingspan.measures import _choice
from wingspan.measures._heads import Heads, Recipe, Training, fit
from wingspan.measures._tasks import Task, tasks
from wingspan.measures.base import Measure, Measured, NotApplicableError
from wingspan.network import Network
from wingspan.progress import bar

_IMAGES = 512  # through the network at a time

Fitted = dict[str, tuple[Inputs, list[Heads]]]  # per layer: how its features are read, and every task's heads


@dataclass(frozen=True)
class Linear(Measure):
    """Accuracy of a linear classifier on frozen features; r2 of a linear regression where images carry a quantity."""

    title: ClassVar[str] = "accuracy of a linear classifier on frozen features"
    reads_bits: ClassVar[bool] = True
    source: ClassVar[str] = "appendix A, Table 4, Figure 12"
    reading: ClassVar[str] = (
        "What a line through the features can tell. Higher is better; compare with chance, and differences with the standard "
        "error. A layer further from h that answers worse has dropped what the task needs."
    )

    lr: float = 1e-4
    """Learning rate."""
    weight_decay: float = 0.04
    """Decoupled weight decay of the classifier's matrix."""
    batch: int = 1024
    """Images a step."""
    epochs: int = 100
    """Passes over the training features."""
    standardise: bool = False
    """Give every dimension mean 0 and variance 1 over the training split first; dead dimensions stay 0."""
    cosine: bool = False
    """Let the rate fall to 0 on a cosine, in place of a constant one."""
    layers: bool = False
    """Probe every layer of the projector beside h, a series each: where along the way is what the task needs lost?"""
    augmented: bool = False
    """Train on a random crop and flip of every image, anew each epoch. The network then runs over all images every epoch."""
    grid_lr: tuple[float, ...] = ()
    """Learning rates to choose from, each task its own, on a tenth of the training split; then trained on all of it."""
    grid_weight_decay: tuple[float, ...] = ()
    """Weight decays to choose from likewise; all combinations with the rates are trained at once."""

    def __post_init__(self) -> None:
        for name, values in (("lr", (self.lr, *self.grid_lr)), ("batch", (self.batch,)), ("epochs", (self.epochs,))):
            for value in values:
                if not 0 < value < math.inf:
                    raise UserError(f"linear probe: {name} {value} must be positive.")
        for value in (self.weight_decay, *self.grid_weight_decay):
            if not 0 <= value < math.inf:
                raise UserError(f"linear probe: weight decay {value} must not be negative.")
        if self.augmented and len(self._recipes()) > 1:
            raise UserError(
                "linear probe: a grid chooses on stored features, augmented training has none. "
                "Choose with linear_grid first, then give its rate and weight decay with augmented."
            )

    @property
    def needs(self) -> frozenset[Need]:
        train: set[Need] = {"network"} if self.augmented else {"train"}
        return frozenset({*train, "test", *({"layers"} if self.layers else ())})

    def measure(self, bank: Bank, seed: int) -> Measured:
        posed = tasks(bank)
        fitted, notes = self._fit_augmented(bank, posed, seed) if self.augmented else self._fit_stored(bank, posed, seed)
        numbers = []
        for name, h in self._layers(bank.test).items():
            inputs, chosen = fitted[name]
            asked = inputs.like(h)
            scores = {id(heads): heads.scores(asked) for heads in chosen}
            for task, heads in zip(posed, chosen, strict=True):
                found = scores[id(heads)][task.name]
                if not found.isfinite().all():
                    raise UserError(f"linear probe of '{task.name}' on {name}: training diverged; lower lr {self.lr}.")
                numbers.append(task.score(found, name if self.layers else ""))
        return Measured(tuple(numbers), notes=tuple(notes))

    def _layers(self, split: Split) -> Mapping[str, Tensor]:
        """What is probed; features from a file have no layers but h."""
        return (self.layers and split.layers) or {"h": split.h}

    def _recipes(self) -> list[Recipe]:
        grid = itertools.product(self.grid_lr or (self.lr,), self.grid_weight_decay or (self.weight_decay,))
        return [Recipe(lr, decay, self.batch, self.epochs, self.cosine) for lr, decay in grid]

    def _inputs(self, h: Tensor, width: int = 0) -> Inputs:
        inputs = Inputs(h, width=width)
        return inputs.standardised() if self.standardise else inputs

    def _fit_stored(self, bank: Bank, posed: Sequence[Task], seed: int) -> tuple[Fitted, list[str]]:
        fitted: Fitted = {}
        notes = []
        for name, h in self._layers(bank.train).items():
            inputs, label = self._inputs(h, bank.train.width), f"probe of {name} on {bank.data}"
            recipes, told = _choice.linear(inputs, posed, self._recipes(), seed, label)
            once = list(dict.fromkeys(recipes))
            heads = dict(zip(once, fit(inputs, posed, once, seed, label=label), strict=True))
            fitted[name] = inputs, [heads[recipe] for recipe in recipes]
            notes += [f"{name}, {note}" if self.layers else note for note in told]
        return fitted, notes

    def _fit_augmented(self, bank: Bank, posed: Sequence[Task], seed: int) -> tuple[Fitted, list[str]]:
        """Features are scaled as the first epoch's views ask, in every epoch and at the test."""
        if bank.network is None:
            raise NotApplicableError(f"'{bank.data}' is features without a network, which cannot see new views.")
        training: dict[str, tuple[Inputs, Training]] = {}
        store: dict[str, Tensor] = {}
        images = bank.train.images.images
        with bar(f"augmented probe on {bank.data}", self.epochs, per_unit=len(images), things="images") as shown:
            for epoch in range(self.epochs):
                _views(bank.network, images, seed, epoch, self.layers, store)
                for name, h in store.items():
                    if epoch == 0:
                        begun = Training(posed, self._recipes(), h.shape[1], seed, torch.arange(len(h)))
                        training[name] = self._inputs(h), begun
                    inputs, begun = training[name]
                    begun.epoch(inputs, epoch)
                shown.advance()
        return {name: (inputs, each.heads() * len(posed)) for name, (inputs, each) in training.items()}, []


def _views(network: Network, images: Images, seed: int, epoch: int, layers: bool, store: dict[str, Tensor]) -> None:
    """Fill `store` with features (N, D) in fp16 of a random crop and flip of every image, with `layers` the projector's too."""
    only = replace(network.augment, jitter=(0.0,), grey=(0.0,), blur=(0.0,), solarise=(0.0,))
    looking = replace(network, augment=only)
    starts = range(0, len(images), _IMAGES)
    for at, start in enumerate(starts):
        pixels = images.batch(torch.arange(start, min(start + _IMAGES, len(images))))
        (views,) = looking.views(pixels, 1, key(seed, "augmented probe"), epoch * len(starts) + at)
        for name, values in (looking.layers(views) if layers else {"h": looking.h(views)}).items():
            if name not in store:
                store[name] = room(len(images), values.shape[1])
            store[name][start : start + len(pixels)] = values.to("cpu", torch.float16)


_FAST = Linear(lr=1e-2, weight_decay=1e-2, batch=512, epochs=30, standardise=True, cosine=True)
PRESETS = {
    "linear_fast": _FAST,
    # Time to an accuracy: wide features need few passes and ask for a lower rate the wider they are, hence the choice.
    "linear_quick": replace(_FAST, epochs=3, grid_lr=(3e-4, 1e-3, 3e-3, 1e-2)),
    "linear_layers": replace(_FAST, layers=True),
    "linear_grid": replace(_FAST, grid_lr=(1e-3, 3e-3, 1e-2), grid_weight_decay=(1e-2, 0.1, 1.0)),
    "linear_augmented": replace(_FAST, augmented=True),
}
