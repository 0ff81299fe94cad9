"""Everything with weights: backbone, projector, the objective's heads, and their moving average where one is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wingspan import projector
from wingspan.backbones.base import Backbone
from wingspan.objectives.base import Batch, Objective
from wingspan.runtime import Peers, full_precision
from wingspan.sharding import local


class Learner(nn.Module):
    """Images to loss terms.

    All views go through the networks in one pass, so batch norm sees them together (as FFCV-SSL's train_ssl.py does, unlike
    facebookresearch/vicreg's one pass a view).
    """

    def __init__(self, backbone: Backbone, projector_text: str, objective: Objective, classes: int) -> None:
        super().__init__()
        self.objective = objective
        self.backbone = backbone.build()
        self.projector = projector.build(projector_text, backbone.D)
        K = projector.output_width(projector_text, backbone.D)
        self.heads = nn.ModuleDict(objective.heads(K, classes))
        self.average: nn.Sequential | None = None
        if objective.momentum(0.0) is not None:
            self.average = nn.Sequential(backbone.build(), projector.build(projector_text, backbone.D)).requires_grad_(False)
            self.average.load_state_dict(nn.Sequential(self.backbone, self.projector).state_dict())

    def forward(self, images: Tensor, labels: Tensor | None, peers: Peers = Peers()) -> dict[str, Tensor]:
        """images (V*B, 3, H, W), view after view; labels (B,) -> the objective's terms."""
        views = self.objective.views

        def split(x: Tensor) -> Tensor:  # (V*B, ...) -> (V, B, ...) in fp32, or better where the network is
            return x.to(torch.promote_types(x.dtype, torch.float32)).reshape(views, -1, *x.shape[1:])

        z = self.projector(self.backbone(images))
        outputs = {name: split(head(z)) for name, head in self.heads.items()}
        averaged = None
        if self.average is not None:
            with torch.no_grad():
                averaged = split(self.average(images))
        with full_precision(images.device):
            return self.objective.terms(Batch(split(z), outputs, averaged, labels, peers))

    def above(self) -> list[nn.Module]:
        """What stands above the backbone, and above its moving average."""
        return [self.projector, *self.heads.values(), *([] if self.average is None else [self.average[1]])]

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the average toward the network in training; does nothing where none is kept.

        Parameters are averaged. Buffers (batch-norm statistics) are copied: an average of running averages lags the weights it
        is used with, and the statistics that the average's own training passes leave would belong to neither network. This is
        decided here and nowhere else; facebookresearch and solo-learn leave the latter.
        """
        momentum = self.objective.momentum(progress)
        if self.average is None or momentum is None:
            return
        online = (self.backbone, self.projector)
        kept = [local(p) for p in self.average.parameters()]
        trained = [local(p) for module in online for p in module.parameters()]
        torch._foreach_lerp_(kept, trained, 1 - momentum)
        for old, new in zip(_buffers(self.average), _buffers(*online), strict=True):
            old.copy_(new)


def _buffers(*modules: nn.Module) -> Iterable[Tensor]:
    return (buffer for module in modules for buffer in module.buffers())
