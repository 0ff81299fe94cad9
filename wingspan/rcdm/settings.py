"""How large a decoder is and how long it learns: the settings of a drawing, and presets for what machine is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wingspan.errors import UserError, nearest

_SAMPLED = ("sampling_steps", "evaluated")


@dataclass(frozen=True)
class Settings:
    """A drawing's decoders. The defaults are the preset cpu32."""

    side: int = 32
    """Pixels a side that are drawn; images are shrunk to it. A multiple of 8."""
    channels: tuple[int, ...] = (64, 128)
    """Channels of the denoiser's levels; each level has half the side of the one before."""
    layers: int = 1
    """Residual blocks a level."""
    attention: int = 0
    """So many of the lowest levels have self-attention. Worth it from 64 pixels on."""
    unshuffle: int = 2
    """The denoiser works on blocks of so many pixels a side, folded into channels: at 2 it is four times as fast. 1 is the
    published network."""
    resnet_sampling: bool = False
    """Change the side between levels by residual blocks, as the published network does, and not by a convolution."""
    groups: int = 8
    """Groups of every GroupNorm."""
    conditioning: int = 1024
    """Width that h is brought to, the same for every D, so that no D is narrowed more than another."""
    ridge: Literal["residual", "channels", "none"] = "residual"
    """What is done with the ridge picture, which closed form predicts from h. residual: it enters as channels, and what is
    denoised is the image less that picture, so that even a short training is calibrated. channels: it enters only. none: the
    published way, for long trainings. The ridge picture holds nothing that h does not."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How fast noise grows over the 1,000 steps. linear is the published one; it needs far longer."""
    prediction: Literal["v", "epsilon"] = "v"
    """What the denoiser gives. epsilon is the published one; it needs far longer."""
    steps: int = 300
    """Training steps of the denoiser for the first encoder. Raise it when the figure says under-trained."""
    steps_more: int = 70
    """Further steps for every further encoder: the trunk is shared."""
    decoder_steps: int = 400
    """Training steps of the deterministic decoder for the first encoder."""
    decoder_steps_more: int = 100
    """Further steps of it for every further encoder."""
    reader_steps: int = 500
    """Training steps, of 128 images, of the network that reads true factors off pictures, where a data set tells some."""
    batch: int = 64
    """Images a step, dealt to the encoders in turn."""
    lr: float = 1.5e-3
    """Peak learning rate (AdamW); it rises over the first twentieth and falls to 0 on a cosine."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of matrices."""
    ema: float = 0.99
    """Decay of the weights' average, which is what draws; less at the beginning. 0.9999 for a hundred thousand steps."""
    sampling_steps: int = 12
    """Denoising steps a sample (DPM-Solver++, second order)."""
    evaluated: int = 256
    """Test images that retention is measured on. More narrow the intervals."""
    evaluated_samples: int = 2
    """Samples of each of them; at least 2."""
    retrieved: bool = True
    """Put samples through the encoder again, and rank their source among the test images."""

    def __post_init__(self) -> None:
        for name in (
            "channels",
            "steps",
            "decoder_steps",
            "reader_steps",
            "batch",
            "sampling_steps",
            "evaluated",
            "layers",
            "unshuffle",
        ):
            value = getattr(self, name)
            if (min(value, default=0) if isinstance(value, tuple) else value) < 1:
                raise UserError(f"{name} {value} must be at least 1.")
        if self.evaluated_samples < 2:
            raise UserError(f"evaluated_samples {self.evaluated_samples}: at least 2, or nothing can vary.")
        if self.side < 16 or self.side % 8 or self.side % (fold := self.unshuffle * 2 ** (len(self.channels) - 1)):
            fold = self.unshuffle * 2 ** (len(self.channels) - 1)
            raise UserError(
                f"side {self.side}: pictures are drawn at 16 pixels or more, at a multiple of 8"
                + (f", and with these levels of {fold}." if fold > 8 else ".")
            )
        if not 0 <= self.ema < 1:
            raise UserError(f"ema {self.ema} must lie in 0..1.")
        if not self.lr > 0:
            raise UserError(f"lr {self.lr} must be positive.")

    @property
    def ridge_side(self) -> int:
        """The side of the ridge picture; it is enlarged to what is drawn."""
        return min(self.side, 32)

    def total(self, encoders: int) -> int:
        """Training steps of the denoiser for so many encoders."""
        return self.steps + self.steps_more * (encoders - 1)

    def decoder_total(self, encoders: int) -> int:
        """Training steps of the deterministic decoder."""
        return self.decoder_steps + self.decoder_steps_more * (encoders - 1)


PRESETS = {
    "smoke": Settings(
        side=16, channels=(8, 16), groups=4, conditioning=32, steps=4, steps_more=1, decoder_steps=4, decoder_steps_more=1,
        reader_steps=8, batch=16, sampling_steps=2, evaluated=8,
    ),
    "cpu32": Settings(),
    "gpu64": Settings(
        side=64, channels=(128, 256, 384), layers=2, attention=2, groups=32, steps=20_000, steps_more=8_000,
        decoder_steps=4_000, decoder_steps_more=1_000, reader_steps=4_000, batch=128, lr=4e-4, ema=0.999, sampling_steps=20,
        evaluated=1024,
    ),
    "gpu128": Settings(
        side=128, channels=(128, 256, 384, 512), layers=2, attention=2, groups=32, steps=60_000, steps_more=20_000,
        decoder_steps=8_000, decoder_steps_more=2_000, reader_steps=4_000, batch=128, lr=3e-4, ema=0.9995, sampling_steps=30,
        evaluated=1024,
    ),
    "paper128": Settings(
        side=128, channels=(256, 256, 512, 768, 1024), layers=2, attention=3, unshuffle=1, resnet_sampling=True, groups=32,
        ridge="none", schedule="linear", prediction="epsilon", steps=50_000, steps_more=50_000, decoder_steps=20_000,
        decoder_steps_more=20_000, batch=256, lr=1e-4, weight_decay=0.0, ema=0.9999, sampling_steps=100, evaluated=1024,
    ),
}  # fmt: skip
"""smoke: shows that everything runs, in seconds. cpu32: minutes on two cores. gpu64, gpu128: one GPU. paper128: the published
network (Bordes et al. 2022), 422.6 M parameters; the number of its steps is not published."""


def preset(name: str) -> Settings:
    """A preset by name. Raises UserError naming the nearest."""
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is not known.{nearest(name, PRESETS)}")
    return PRESETS[name]
