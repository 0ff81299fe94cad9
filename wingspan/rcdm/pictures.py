"""The pictures whose representations are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """P pictures: some of the data set's test images (`rows`), some from outside (row -1).

    pixels (P, 3, side, side) uint8, at the side that encoders take, Subject.encoder_side or larger by the margin that the data
    set keeps; names: what the figure calls them; rows (P,) int64 of the test split; shown (P, 3, S, S) uint8, the same at the
    side that is drawn, showing the part that encoders see.
    """

    pixels: Tensor
    names: tuple[str, ...]
    rows: Tensor
    shown: Tensor
