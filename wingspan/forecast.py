"""What a run will cost, before anyone pays: counted on tensors without storage, in a moment, at any width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from wingspan.learner import Learner
from wingspan.pretrain import Pretrain
from wingspan.runtime import Runtime

_CLASSES = 1000  # only the supervised classifier depends on it; it is counted as a head, not as backbone or projector


@dataclass(frozen=True)
class Forecast:
    """Counts of one run. FLOPs count a multiply-add as two; bytes are those kept for the backward pass of one batch part."""

    backbone_parameters: int
    projector_parameters: int
    head_parameters: int
    forward_flops: int  # of one view, through backbone, projector and heads
    views: int  # in the part of a batch that is in memory at once
    activation_bytes: int
    weight_bytes: int  # weights, gradients, optimiser, moving average, in fp32
    precision: str


def forecast(run: Pretrain, side: int, precision: str | None = None) -> Forecast:
    """Count parameters, FLOPs and memory of a run on images of `side` pixels.

    The last block is counted as the plain one unless the run says `streamed` on: auto depends on the machine.

    precision: "bf16" or "fp32"; None asks this machine.
    """
    bf16 = (precision or Runtime("auto", run.precision).precision) == "bf16"
    views = run.objective.views
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        learner = Learner(run.backbone, run.projector_text, run.objective, _CLASSES if run.objective.supervised else 0)
        images = _probe_batch(learner)
        inputs = torch.zeros(images * views, 3, side, side).to(memory_format=torch.channels_last)
        labels = torch.zeros(images, dtype=torch.int64)
        part = run.batch // run.accumulate
        own = {value.untyped_storage()._cdata for value in (*learner.parameters(), *learner.buffers())}
        held: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()  # views share theirs, which counts once
            if storage._cdata not in own:
                grows = tensor.ndim > 0 and tensor.shape[0] in (images * views, images)
                held[storage._cdata] = storage.nbytes() * (part if grows else images) // images
            return tensor

        with FlopCounterMode(display=False) as flops:
            z = learner.projector(learner.backbone(inputs))
            for head in learner.heads.values():
                head(z)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = learner(inputs, labels)  # kept alive until counted, so that no storage's address is used twice
        copies = {"lars": 3, "sgd": 3, "adamw": 4}[run.optim.name]
        count = _count(learner.backbone) + _count(learner.projector) + _count(learner.heads)
        average = 0 if learner.average is None else _count(learner.average)
        total = sum(held.values())
        del terms
    return Forecast(
        backbone_parameters=_count(learner.backbone),
        projector_parameters=_count(learner.projector),
        head_parameters=_count(learner.heads),
        forward_flops=flops.get_total_flops() // (images * views),
        views=part * views,
        activation_bytes=total,
        weight_bytes=4 * (count * copies + average),
        precision="bf16" if bf16 else "fp32",
    )


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _probe_batch(learner: Learner) -> int:
    """A small number of images that no parameter's first dimension equals, alone or times the views."""
    taken = {p.shape[0] for p in learner.parameters() if p.ndim}
    views = learner.objective.views
    return next(n for n in range(3, 1000) if n not in taken and n * views not in taken)
