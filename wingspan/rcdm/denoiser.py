"""The U-Net that denoises, and the schedules of noise: all that comes from `diffusers`, and the only file that imports it.

How h enters is the published network's (facebookresearch/RCDM, guided_diffusion/unet.py): one linear layer brings h to the
width of the time embedding, to which it is added, and every residual block scales and shifts its second GroupNorm by that sum.
Ours differs in what PRESETS of `settings` say: pixels folded into channels, cosine schedule, v as target, the ridge picture.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingspan.errors import UserError
from wingspan.rcdm.settings import Settings

STEPS = 1000  # of noise
_NOISIEST, _CLEANEST = 60.0, 0.03  # sigma / alpha at which sampling begins and takes its last step


def require() -> None:
    """Raise UserError unless `diffusers` is installed; it takes two seconds to import and so is only looked for."""
    if importlib.util.find_spec("diffusers") is None:
        raise UserError(
            "samples are drawn by a diffusion model, for which the library diffusers is needed: pip install 'wingspan[rcdm]'. "
            "--rung ridge and --rung decoder do without."
        )


class Denoiser(nn.Module):
    """Noisy pictures (B, 3, S, S) at times (B,), conditions (B, K) and ridge pictures -> what was asked to be predicted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        levels, fold = len(settings.channels), settings.unshuffle
        with_attention = [level >= levels - settings.attention for level in range(levels)]
        plain = "Resnet{}sampleBlock2D" if settings.resnet_sampling else "{}Block2D"
        names = {way: plain.format(way) for way in ("Down", "Up")}
        self.fold, self.with_ridge = fold, settings.ridge != "none"
        planes = 3 * fold**2
        self.unet = UNet2DModel(
            sample_size=settings.side // fold,
            in_channels=planes * (2 if self.with_ridge else 1),
            out_channels=planes,
            block_out_channels=settings.channels,
            layers_per_block=settings.layers,
            down_block_types=tuple("AttnDownBlock2D" if has else names["Down"] for has in with_attention),
            up_block_types=tuple("AttnUpBlock2D" if has else names["Up"] for has in reversed(with_attention)),
            downsample_type="resnet" if settings.resnet_sampling else "conv",
            upsample_type="resnet" if settings.resnet_sampling else "conv",
            time_embedding_dim=settings.conditioning,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=settings.groups,
            attn_norm_num_groups=settings.groups,
            attention_head_dim=min(64, settings.channels[-1]),
            add_attention=settings.attention > 0,
        )
        for weight in self.unet.conv_out.parameters():
            nn.init.zeros_(weight)  # as the published network begins: it predicts 0

    def forward(self, noisy: Tensor, times: Tensor, condition: Tensor, ridge: Tensor | None) -> Tensor:
        """The prediction (B, 3, S, S), in the precision that autocast gives."""
        shown = noisy if ridge is None else torch.cat([noisy, ridge], 1)
        folded = F.pixel_unshuffle(shown, self.fold).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.unet(folded, times, class_labels=condition).sample
        return F.pixel_shuffle(found, self.fold)


def schedule(settings: Settings) -> Any:
    """DPM-Solver++ (Lu et al. 2022) over the settings' schedule; `alphas_cumprod` (1000,) is the schedule itself."""
    from diffusers import DPMSolverMultistepScheduler

    kind, target = ("squaredcos_cap_v2" if settings.schedule == "cosine" else "linear"), settings.prediction
    return DPMSolverMultistepScheduler(
        STEPS, beta_schedule=kind, prediction_type="v_prediction" if target == "v" else "epsilon"
    )


def signal_and_noise(settings: Settings) -> tuple[Tensor, Tensor]:
    """What of the picture and what of the noise is there at each of 1,000 times: alpha and sigma, (1000,) each."""
    kept: Tensor = schedule(settings).alphas_cumprod.float()
    return kept.sqrt(), (1 - kept).sqrt()


def times(settings: Settings, steps: int) -> list[int]:
    """The times at which a sample is denoised, evenly spaced in log(sigma / alpha), from 60 to 0.03.

    Evenly spaced in time, as usual, the large shapes of a picture would be decided within the first step or two: their
    amplitudes are tens of times a pixel's, so noise hides them only where it is that much larger. With 12 to 20 such steps they
    came out too alike (kappa 1.3 to 1.6 where this spacing gives 1.1 to 1.2).
    """
    alpha, sigma = signal_and_noise(settings)
    wanted = torch.linspace(math.log(_NOISIEST), math.log(_CLEANEST), steps)
    nearest = ((sigma / alpha).log()[None] - wanted[:, None]).abs().argmin(1)
    return list(dict.fromkeys(nearest.tolist()))


def parameters(settings: Settings, widths: list[int]) -> int:
    """Weights of the trunk and of one linear layer for each width D, counted without storage."""
    with torch.device("meta"):
        trunk = sum(p.numel() for p in Denoiser(settings).parameters())
    return trunk + sum((D + 1) * settings.conditioning for D in widths)
