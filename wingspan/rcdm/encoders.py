"""What is drawn: the pictures that decoders learn, and the representations that are compared on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from wingspan.data.base import Images, ImageSet
from wingspan.inputs import Inputs


@dataclass(frozen=True)
class Encoder:
    """One representation: its features of the training and the test images, standardised by the training images'.

    name: unique among those compared, as 'simclr D=64'. group: what is compared along D, as 'simclr'; the references are
    'untrained' and 'no information'. identity: hash of what the features depend on; a decoder is tied to it. encode: uint8
    images of the data set's own side (n, 3, side, side) -> h (n, D) fp32, as they come; None where there is no network.
    """

    name: str
    group: str
    identity: str
    train: Inputs  # (N, D)
    test: Inputs  # (M, D)
    encode: Callable[[Tensor], Tensor] | None = None
    seed: int = 0
    run: str = ""  # the run's folder name, where it is one
    reference: bool = False  # untrained, or no information: shown beside, compared with nothing

    @property
    def D(self) -> int:
        return self.train.D

    def read(self, h: Tensor) -> Tensor:
        """h (n, D) as `encode` gives it -> standardised as the training images' (n, D) fp32."""
        return self.train.like(h).rows(slice(None))


@dataclass(frozen=True)
class Subject:
    """The images of one data set at the side S that is drawn, and what is known of each.

    train, test: uint8 (n, 3, S, S) by index. masks: where a test image's foreground lies, (M, 1, S, S) bool; None where not
    known. `splits` are the data set's own, for labels and for images at the side that encoders see.
    """

    name: str
    side: int
    train: Images
    test: Images
    splits: Mapping[str, ImageSet] = field(default_factory=dict)  # "train", "test"
    masks: Tensor | None = None
    encoder_side: int = 0  # pixels of the images that encoders take
