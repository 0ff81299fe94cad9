"""What an objective is: numbers, the heads it asks for, and a pure function from embeddings to loss terms.

A file in this folder defines one frozen dataclass deriving from `Objective`. Objectives own no weights: `heads` makes modules
that the learner keeps and applies to the embedding, and `terms` is given what came out. The loss is the sum of the terms.
Supervised training is one more objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from wingspan.runtime import Peers


@dataclass(frozen=True)
class Batch:
    """What the networks gave for one batch of B images in V views, in fp32."""

    z: Tensor  # (V, B, K) embeddings of the network in training
    heads: Mapping[str, Tensor] = field(default_factory=dict)  # (V, B, ...) what each head gave for z
    average: Tensor | None = None  # (V, B, K) embeddings of its moving average, without gradient; None where none is kept
    labels: Tensor | None = None  # (B,) int64
    peers: Peers = Peers()


@dataclass(frozen=True)
class Objective(ABC):
    """A pretraining loss. Subclasses are frozen dataclasses whose fields are the command line's `--objective.*`."""

    title: ClassVar[str]
    views: ClassVar[int]  # V, the augmented views an image is seen in
    projector: ClassVar[str]  # the projector used when the run does not name one
    supervised: ClassVar[bool]  # whether `terms` needs labels

    @abstractmethod
    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        """Modules (n, K) -> (n, ...) on top of the embedding, trained with it: a predictor, a classifier; none for most."""

    @abstractmethod
    def momentum(self, progress: float) -> float | None:
        """How much of the moving average is kept at progress 0..1; None when the objective keeps no average."""

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms, weights included; their sum is the loss. Averaged over processes it is the whole batch's loss."""
