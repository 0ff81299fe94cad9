"""SimCLR: pull the two views of an image together, push all other images away.

Chen et al. 2020, arXiv:2002.05709, equation 1 (NT-Xent); temperature 0.15 as in the paper's appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan.errors import UserError
from wingspan.objectives._tiled import contrast, large
from wingspan.objectives.base import Batch, Objective
from wingspan.runtime import Peers

# Bytes of scores above which they are computed in tiles. A process alone saves time at every size, by symmetry: 0.65 to 0.9 of
# the plain form's at 1024 images and K = 256, 0.5 at 4096; up to 512 the plain form stays, to the bit what it always gave. With
# peers a fourth product is added to three: 0.7 of the time at 2048 images and K = 256, at most 4/3 where K is thousands,
# which is paid only where the three or four copies of the scores come to more than 200 MB.
ALONE, TOGETHER = 4 * 2**20, 64 * 2**20


def nt_xent(z: Tensor, temperature: float, peers: Peers = Peers()) -> Tensor:
    """Normalised-temperature cross entropy of z (2, B, K): the mean over 2B anchors of
    -s(i, pair(i)) + log sum_{k != i} exp s(i, k), with s the cosine over the temperature. The sum has 2N - 1 terms, N being the
    images of all processes: the positive is among them, the anchor itself is not. This process's anchors meet everybody's
    candidates, which costs (2B)(2N) instead of (2N)^2 and has the same gradient once averaged over processes. Large batches
    go through `contrast`, which never holds these scores.
    """
    _, B, _ = z.shape
    z = F.normalize(z, dim=-1)
    candidates = peers.gather(z, dim=1)  # (2, N, K)
    N = candidates.shape[1]
    if large(2 * B, 2 * N, z, ALONE if peers.world == 1 else TOGETHER):
        return contrast(z, None if peers.world == 1 else candidates, peers.rank * B, temperature)
    scores = z.flatten(0, 1) @ candidates.flatten(0, 1).T / temperature  # (2B, 2N)
    own = peers.rank * B + torch.arange(B, device=z.device)
    itself = torch.cat([own, own + N])
    pair = torch.cat([own + N, own])
    scores = scores.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(scores, pair)


@dataclass(frozen=True)
class SimCLR(Objective):
    """Contrast each image with all others of the batch."""

    title: ClassVar[str] = "contrastive: two views of an image against all other images of the batch"
    views: ClassVar[int] = 2
    projector: ClassVar[str] = "8192-8192-8192"
    supervised: ClassVar[bool] = False

    temperature: float = 0.15
    """Sharpness of the softmax. Lower looks at the hardest negatives; higher gives less sparse features (paper, figure 13)."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature {self.temperature} is not positive: try --objective.temperature 0.15.")

    def heads(self, K: int, classes: int) -> dict[str, nn.Module]:
        return {}

    def momentum(self, progress: float) -> float | None:
        return None

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"contrastive": nt_xent(batch.z, self.temperature, batch.peers)}
