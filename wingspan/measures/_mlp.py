"""The two trained probes that are compared, linear and MLP: their settings, the MLP's training, the gap between two answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank
from wingspan.inputs import Inputs
from wingspan.measures import _choice
from wingspan.measures._heads import Recipe, fit
from wingspan.measures._tasks import Task
from wingspan.measures.base import Measure, Number
from wingspan.progress import bar
from wingspan.runtime import Runtime


@dataclass(frozen=True)
class Probes(Measure):
    """Settings that a linear probe and an MLP probe share; they differ in depth and rate only."""

    hidden: int = 2048
    """Width of the MLP's two hidden layers. The paper does not give it; lower it where time matters."""
    lr: float = 1e-4
    """Learning rate of the MLP."""
    linear_lr: float = 1e-4
    """Learning rate of the linear probe, which bears a higher one than the MLP where training is short."""
    weight_decay: float = 0.04
    """Decoupled weight decay of every matrix; biases do not decay."""
    batch: int = 1024
    """Images a step."""
    epochs: int = 100
    """Passes over the training features."""
    standardise: bool = False
    """Give every dimension mean 0 and variance 1 over the training split first; dead dimensions stay 0."""
    cosine: bool = False
    """Let the rates fall to 0 on a cosine, in place of constant ones."""
    grid: tuple[float, ...] = ()
    """Factors of both rates to choose from, for every probe and task by itself, on a tenth of the training split. Without a
    choice a rate that suits continuous features can overfit binary ones, and the loss measured is the recipe's."""

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        for field in ("hidden", "lr", "linear_lr", "batch", "epochs"):
            if not 0 < getattr(self, field) < math.inf:
                raise UserError(f"{name} probe: {field} {getattr(self, field)} must be positive.")
        if not all(0 < factor < math.inf for factor in self.grid):
            raise UserError(f"{name} probe: grid {self.grid} must be positive factors of the rates, such as 0.1,0.3,1.")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"{name} probe: weight decay {self.weight_decay} must not be negative.")

    def answers(self, kind: str, bank: Bank, tasks: Sequence[Task], seed: int, binary: bool = False) -> list[Tensor]:
        """Answers (M, outputs) on the test split for every task, each as if it were probed alone. kind: "linear" or "mlp"."""
        train = Inputs.of(bank.train, binary)
        train = train.standardised() if self.standardise else train
        test, label = train.like(bank.test.h), f"{kind} probe"
        recipes = self._recipes(self.linear_lr if kind == "linear" else self.lr)
        if kind == "linear":
            chosen, _ = _choice.linear(train, tasks, recipes, seed, label)
            once = list(dict.fromkeys(chosen))
            scores = dict(zip(once, (heads.scores(test) for heads in fit(train, tasks, once, seed, label=label)), strict=True))
            return [scores[recipe][task.name] for recipe, task in zip(chosen, tasks, strict=True)]
        runtime = bank.network.runtime if bank.network is not None else Runtime()
        found = []
        for task in tasks:

            def tried(kept: Tensor, held: Tensor, task: Task = task) -> _choice.Answers:
                return [[mlp(task, train, train, each, self.hidden, seed, runtime, kept, held)] for each in recipes]

            ((recipe,), _) = _choice.choose([task], recipes, len(train), seed, label, tried)
            found.append(mlp(task, train, test, recipe, self.hidden, seed, runtime))
        return found

    def _recipes(self, lr: float) -> list[Recipe]:
        rates = [lr * factor for factor in self.grid or (1.0,)]
        return [Recipe(rate, self.weight_decay, self.batch, self.epochs, self.cosine) for rate in rates]


def gap(task: Task, first: Tensor, second: Tensor, metric: str, series: str = "") -> Number:
    """How much better `first` answers than `second`, both (M, outputs): difference of the accuracies, or of the r2.

    Both answer the same images, so its standard error is that of the differences image by image: far smaller than those of
    the two values where the probes fail on the same images.
    """
    if task.classes:
        right = [(answers.argmax(1) == task.test).double() for answers in (first, second)]
        each, scale, spread = right[0] - right[1], 1.0, torch.ones(len(task.test), dtype=torch.float64)
    else:
        truth = task.test.double()
        spread = (truth - truth.mean()).square()
        wrong = [(truth - answers[:, 0].double()).square() for answers in (first, second)]
        each, scale = wrong[1] - wrong[0], float(spread.mean())
    value = float(each.mean()) / scale
    error = float((each - value * spread).std(correction=0)) / scale / math.sqrt(len(each))  # delta method, as r2's own
    return Number(metric, task.name, value, len(each), task.classes, None, series, error)


def mlp(
    task: Task,
    train: Inputs,
    test: Inputs,
    recipe: Recipe,
    hidden: int,
    seed: int,
    runtime: Runtime,
    kept: Tensor | None = None,
    asked: Tensor | None = None,
) -> Tensor:
    """Train D-hidden-hidden-outputs on one task, on the training rows `kept` or all; its answers (M, outputs) to the test rows
    `asked` or all, fp32 on the CPU.

    Linear, ReLU, linear, ReLU, linear, without batch norm: the linear probe has none, so that what the MLP answers better is
    owed to its depth alone. Classes are learnt by cross entropy, a quantity by squared error after standardising it. Weights
    and order depend on the seed and not on the task. Trained in the runtime's precision, scored in fp32: bf16 makes ties.
    """
    known = torch.arange(len(train)) if kept is None else kept
    N, device, target, spread, centre = len(known), runtime.device, task.train, 1.0, 0.0
    if not task.classes:
        spread, centre = float(target[known].std(correction=0)) or 1.0, float(target[known].mean())
        target = (target - centre) / spread
    net = _build((train.D, hidden, hidden, task.outputs), seed).to(device)
    decays = [{"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay}]
    biases = [{"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([*decays, *biases], recipe.lr, fused=True)
    steps = math.ceil(N / recipe.batch)
    with bar(f"mlp probe of {task.name}", recipe.epochs, per_unit=N, things="images") as shown:
        for epoch in range(recipe.epochs):
            order = torch.randperm(N, generator=generator(seed, "mlp order", epoch))
            for at, rows in enumerate(known[order].split(recipe.batch)):
                progress = (epoch * steps + at) / (recipe.epochs * steps)
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr * (1 + math.cos(math.pi * progress)) / 2 if recipe.cosine else recipe.lr
                with runtime.autocast():
                    scores = net(train.rows(rows).to(device))
                y, scores = target[rows].to(device), scores.float()
                loss = F.cross_entropy(scores, y) if task.classes else F.mse_loss(scores[:, 0], y)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            shown.advance()
    with torch.no_grad():
        places = test.slices() if asked is None else asked.split(test.part)
        parts = [net(test.rows(at).to(device)).cpu() for at in places]
    return torch.cat(parts) * spread + centre


def _build(widths: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers with ReLU between them: nn.Linear's own initial weights, biases 0."""
    draw = generator(seed, "mlp")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, before, after)
        bound = 1 / math.sqrt(before)
        with torch.no_grad():
            linear.weight.copy_((torch.rand(after, before, generator=draw) * 2 - 1) * bound)
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
