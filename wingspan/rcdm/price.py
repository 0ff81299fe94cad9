"""What a drawing will cost, counted on tensors without storage: weights, operations, memory for weights, and time if a rate is
known or timed here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from wingspan.rcdm import denoiser
from wingspan.rcdm.settings import Settings
from wingspan.runtime import Runtime

_TIMED_FLOPS = 2e11  # of a step that is timed here: a second or so


@dataclass(frozen=True)
class Price:
    """Counts of one company's diffusion model. FLOPs count a multiply-add as two."""

    parameters: int
    picture_flops: int  # one forward pass of one picture
    steps: int
    batch: int
    samples: int  # that are measured, for all encoders
    sampling_steps: int

    @property
    def training_flops(self) -> float:
        """Forward, and twice that backward, for every picture of every step."""
        return 3.0 * self.picture_flops * self.batch * self.steps

    @property
    def sampling_flops(self) -> float:
        return float(self.picture_flops) * self.samples * self.sampling_steps

    @property
    def weight_bytes(self) -> int:
        """Weights, gradients, two moments and the average, in fp32."""
        return 4 * 5 * self.parameters

    def seconds(self, flops_a_second: float) -> float:
        """Training and sampling at a sustained rate."""
        return (self.training_flops + self.sampling_flops) / flops_a_second


def price(settings: Settings, widths: Sequence[int]) -> Price:
    """Count a drawing of encoders of these widths D. Needs diffusers."""
    denoiser.require()
    K, S = settings.conditioning, settings.side
    with FakeTensorMode(), torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as flops:
        net = denoiser.Denoiser(settings)
        picture = torch.zeros(1, 3, S, S)
        net(picture, torch.zeros(1), torch.zeros(1, K), None if settings.ridge == "none" else picture)
    mean = sum(widths) / len(widths)
    return Price(
        parameters=sum(p.numel() for p in net.parameters()) + sum((D + 1) * K for D in widths),
        picture_flops=int(flops.get_total_flops() + 2 * mean * K),
        steps=settings.total(len(widths)),
        batch=settings.batch,
        samples=settings.evaluated * settings.evaluated_samples * len(widths),
        sampling_steps=settings.sampling_steps,
    )


def rate(settings: Settings, runtime: Runtime) -> float:
    """FLOPs a second that training sustains here, from two steps of as many pictures as make them worth timing; of a network
    of half the channels at a time where the settings' own is too large to be timed in moments."""
    small = settings
    while small.channels[0] > 2 * small.groups and price(small, [64]).training_flops / small.steps / small.batch > _TIMED_FLOPS:
        small = dataclasses.replace(small, channels=tuple(max(small.groups, c // 2) for c in small.channels))
    cost = price(small, [64])
    a_picture = cost.training_flops / cost.steps / cost.batch
    count = int(min(settings.batch, max(1, _TIMED_FLOPS // a_picture)))
    net = denoiser.Denoiser(small).to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture = torch.randn(count, 3, small.side, small.side, device=runtime.device)
    times, condition = torch.zeros(count, device=runtime.device), torch.randn(count, small.conditioning, device=runtime.device)
    took = []
    for _ in range(3):
        began = time.monotonic()
        with runtime.autocast():
            loss = net(picture, times, condition, None if small.ridge == "none" else picture).float().square().mean()
        loss.backward()
        float(loss.detach())
        took.append(time.monotonic() - began)
    return a_picture * count / min(took[1:])
