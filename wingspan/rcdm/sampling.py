"""From h to pictures: what the deterministic decoder gives, and samples of the diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan.chance import generator
from wingspan.rcdm import denoiser
from wingspan.rcdm.decoder import Decoder
from wingspan.rcdm.material import Batch, Material
from wingspan.rcdm.settings import Settings
from wingspan.rcdm.training import Conditioned, Course
from wingspan.runtime import Runtime

_AT_ONCE = 128


def decoding(settings: Settings, encoders: int) -> Course:
    """The course of the deterministic decoder: mean squared error of what lies between picture and ridge picture."""

    def loss(model: Conditioned, batch: Batch, step: int) -> Tensor:
        found = model.trunk(model.condition(batch.h)).float()
        return F.mse_loss(found, (batch.picture - batch.ridge) / batch.size)

    return Course("decoder", settings.decoder_total(encoders), loss)


def denoising(settings: Settings, encoders: int, seed: int) -> Course:
    """The course of the diffusion model: mean squared error of v = alpha noise - sigma x (Salimans and Ho 2022, appendix D),
    or of the noise. Times lie evenly over the batch, so that a step's loss varies less with its draw."""
    alphas, sigmas = denoiser.signal_and_noise(settings)

    def loss(model: Conditioned, batch: Batch, step: int) -> Tensor:
        x, device = start(batch.picture, batch.ridge, batch.size, settings), batch.picture.device
        draws, B = generator(seed, "rcdm noise", step), len(batch.picture)
        even = (torch.randperm(B, generator=draws) + torch.rand(1, generator=draws)) / B
        times = (even * denoiser.STEPS).long().clamp_(max=denoiser.STEPS - 1)
        noise = torch.randn(batch.picture.shape, generator=draws).to(device)
        alpha, sigma = (each[times].view(-1, 1, 1, 1).to(device) for each in (alphas, sigmas))
        target = alpha * noise - sigma * x if settings.prediction == "v" else noise
        ridge = None if settings.ridge == "none" else batch.ridge
        found = model.trunk(alpha * x + sigma * noise, times.to(device), model.condition(batch.h), ridge)
        return F.mse_loss(found.float(), target)

    return Course("denoiser", settings.total(encoders), loss)


def start(picture: Tensor, ridge: Tensor, size: Tensor, settings: Settings) -> Tensor:
    """What noise is added to: the picture, or what lies between it and the ridge picture, brought to size 1."""
    return (picture - ridge) / size if settings.ridge == "residual" else picture


class Sampler:
    """A trained company, ready to draw: `decoded` by the decoder, `samples` by the diffusion model."""

    def __init__(self, material: Material, decoder: Conditioned | None, model: Conditioned | None, runtime: Runtime) -> None:
        self.material, self.decoder, self.model, self.runtime = material, decoder, model, runtime

    @torch.inference_mode()
    def decoded(self, encoder: int, h: Tensor) -> Tensor:
        """Standardised h (n, D) -> the decoder's pictures (n, 3, S, S) in -1..1, on the CPU."""
        assert self.decoder is not None
        found = []
        for part in h.split(_AT_ONCE):
            ridge, on = self.material.predicted(encoder, part).to(self.runtime.device), part.to(self.runtime.device)
            with self.runtime.autocast():
                added = self.decoder.trunk(self.decoder.conditions[encoder](on)).float()
            found.append((ridge + added * float(self.material.sizes[encoder])).clamp_(-1, 1).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def drawn(self, encoder: int, h: Tensor, noise: Tensor) -> Tensor:
        """Standardised h (n, D) and the noise to begin with (n, 3, S, S) -> samples (n, 3, S, S) in -1..1, on the CPU."""
        parts = zip(h.split(_AT_ONCE), noise.split(_AT_ONCE), strict=True)
        return torch.cat([self._drawn(encoder, part, begun) for part, begun in parts])

    def _drawn(self, encoder: int, h: Tensor, noise: Tensor) -> Tensor:
        assert self.model is not None
        settings, device = self.material.settings, self.runtime.device
        ridge = self.material.predicted(encoder, h).to(device)
        shown = None if settings.ridge == "none" else ridge
        solver, x = denoiser.schedule(settings), noise.to(device)
        solver.set_timesteps(timesteps=denoiser.times(settings, settings.sampling_steps), device=device)
        with self.runtime.autocast():
            condition = self.model.conditions[encoder](h.to(device))
        for time in solver.timesteps:
            with self.runtime.autocast():
                found = self.model.trunk(x, time.expand(len(x)), condition, shown).float()
            x = solver.step(found, time, x).prev_sample
        if settings.ridge == "residual":
            x = ridge + x * float(self.material.sizes[encoder])
        return x.clamp_(-1, 1).cpu()

    def samples(self, encoder: int, h: Tensor, count: int, seed: int) -> Tensor:
        """Standardised h (n, D) -> `count` samples of each, (n, count, 3, S, S) in -1..1.

        Sample k begins with the same noise for every h and every encoder, so that what differs is due to h.
        """
        side = self.material.settings.side
        made = [self.drawn(encoder, h, noise(seed, k, 1, side).expand(len(h), -1, -1, -1)) for k in range(count)]
        return torch.stack(made, 1)


def noise(seed: int, column: int, n: int, side: int, purpose: str = "figure") -> Tensor:
    """(n, 3, side, side): what sample number `column` begins with."""
    return torch.randn(n, 3, side, side, generator=generator(seed, f"rcdm sample {purpose}", column))


def trunk_of(kind: str, settings: Settings) -> Decoder | denoiser.Denoiser:
    """A decoder's shared part, untrained."""
    return Decoder(settings.conditioning, settings.side) if kind == "decoder" else denoiser.Denoiser(settings)
