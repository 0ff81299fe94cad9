"""LARS, AdamW and SGD; which parameters decay; the rate as a function of progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wingspan.errors import UserError


@dataclass(frozen=True)
class Optim:
    """How weights follow gradients."""

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """lars: large batches, the paper's choice; adamw: small nets and short runs; sgd: with Nesterov-free momentum."""
    lr: float = 0.5
    """Base learning rate; the peak is lr x batch / 256. For adamw try 1e-3."""
    weight_decay: float = 1e-6
    """Decay of matrices and convolutions; biases and norms never decay. The paper: 1e-6, VICReg 1e-4; adamw: 0.01 to 0.05."""
    momentum: float = 0.9
    """Momentum of lars and sgd; first beta of adamw."""
    warmup: float = 0.1
    """Share of the run in which the rate rises linearly; then it falls on a cosine. The paper: 10 of 100 epochs."""
    floor: float = 0.001
    """The rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.name == "adamw" and self.momentum == 1:
            raise UserError("--optim.momentum 1.0 never forgets the first gradient: adamw needs less than 1, usually 0.9.")
        if not 0 < self.lr < math.inf:
            raise UserError(f"learning rate {self.lr} is not positive: try --optim.lr 0.5 with lars, 1e-3 with adamw.")
        for field in ("weight_decay", "momentum", "warmup", "floor"):
            value = getattr(self, field)
            if not value >= 0 or (field != "weight_decay" and value > 1):
                bound = "must not be negative" if field == "weight_decay" else "must lie in 0..1"
                raise UserError(f"--optim.{field.replace('_', '-')} {value} {bound}.")


def rate(optim: Optim, progress: float, batch: int) -> float:
    """The learning rate at progress 0..1 of the run, for a global batch of that many images.

    Linear warm-up, then peak q + floor peak (1 - q) with q = (1 + cos(pi t)) / 2, t from 0 to 1 over the rest
    (facebookresearch/vicreg, adjust_learning_rate).
    """
    peak = optim.lr * batch / 256
    if progress < optim.warmup:
        return peak * progress / optim.warmup
    q = (1 + math.cos(math.pi * (progress - optim.warmup) / max(1 - optim.warmup, 1e-9))) / 2
    return peak * q + optim.floor * peak * (1 - q)


Norms = Callable[[list[Tensor], list[Tensor]], Sequence[Tensor]]


def _norms(tensors: list[Tensor], of: list[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_norm(tensors)


def build(optim: Optim, parameters: Iterable[nn.Parameter], norms: Norms = _norms) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters; vectors (biases, batch-norm gains and offsets) do not decay.

    norms: of tensors that belong to the parameters `of`, where a process has a part of each only (`sharding.Parts`).
    """
    trained = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": optim.weight_decay, "adapt": True},
        {"params": vectors, "weight_decay": 0.0, "adapt": False},
    ]
    peak = optim.lr  # replaced before every step by `rate`
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=(optim.momentum, 0.999), fused=True)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=peak, momentum=optim.momentum, fused=True)
    return LARS(groups, lr=peak, momentum=optim.momentum, norms=norms)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al. 2017, arXiv:1708.03888), as facebookresearch/vicreg writes it.

    For a matrix w with gradient g: u = g + decay w, scaled by eta |w| / |u| where both norms are positive; a group with
    `adapt=False` takes u = g. Then m <- momentum m + u, w <- w - lr m. No epsilon, clipping or Nesterov step.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, eta: float = 0.001, norms: Norms = _norms
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True}
        super().__init__(params, defaults)
        self._norms = norms

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = [p.grad for p in weights if p.grad is not None]
            if group["adapt"]:
                updates = list(torch._foreach_add(updates, weights, alpha=group["weight_decay"]))
                torch._foreach_mul_(updates, self._trust(weights, updates, group["eta"]))
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            averages = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(averages, group["momentum"])
            torch._foreach_add_(averages, updates)
            torch._foreach_add_(weights, averages, alpha=-group["lr"])
        return loss

    def _trust(self, weights: list[Tensor], updates: list[Tensor], eta: float) -> list[Tensor]:
        ratios = []
        for w, u in zip(self._norms(weights, weights), self._norms(updates, weights), strict=True):
            usable = (w > 0) & (u > 0)
            ratios.append(torch.where(usable, eta * w / torch.where(usable, u, 1.0), 1.0))
        return ratios
