"""The projector g: R^D -> R^K between representation and objective, written as its layer widths.

"8192-8192-8192" is an MLP, "32" a linear map without bias, "" the identity (paper, section 3.1 and appendix A; the notation is
that of facebookresearch/vicreg, main_vicreg.py).
"""

from __future__ import annotations

import itertools

from torch import nn

from wingspan.errors import UserError
from wingspan.streaming.linear import linear


def widths(text: str) -> tuple[int, ...]:
    """The layer widths a projector's text stands for: "512-128" -> (512, 128), "" -> ().

    Raises UserError for anything but positive integers joined by hyphens.
    """
    if not text:
        return ()
    parts = text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(
            f"projector '{text}' is not a list of widths: write positive integers joined by hyphens, as '8192-8192-8192', "
            "one integer for a linear projector, or '' for none."
        )
    return tuple(int(part) for part in parts)


def output_width(text: str, D: int) -> int:
    """K, the width of the embedding that a projector gives for a representation of width D."""
    return (D, *widths(text))[-1]


def build(text: str, D: int) -> nn.Module:
    """(B, D) -> (B, K). Hidden layers are linear (with bias), batch norm, ReLU; the last layer is linear without bias."""
    sizes = (D, *widths(text))
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes[:-1]):
        layers += [linear(before, after, bias=True), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    if len(sizes) > 1:
        layers.append(linear(sizes[-2], sizes[-1], bias=False))
    return nn.Sequential(*layers) if layers else nn.Identity()
