"""A sheet of pixels and text: both stand where they are put, counted in pixels from the left and top."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from wingspan.canvas import INK, context
from wingspan.runs import write_atomic

MARGIN, NARROWEST = 24, 1120  # pixels around all, and of width at least, for the title
_DPI = 160

Pixels = npt.NDArray[np.uint8]


def rgb(colour: str) -> Pixels:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def letters(pixels: float, size: float) -> int:
    """How many letters of so many points stand in so many pixels, about."""
    return max(3, int(pixels / (1.34 * size)))


@dataclass
class Sheet:
    """Pixels and text at places counted from the left and top, which make a picture once all is there."""

    pixels: list[tuple[int, int, Pixels]] = field(default_factory=list)
    texts: list[tuple[float, float, str, dict[str, object]]] = field(default_factory=list)

    def image(self, left: int, top: int, image: Tensor, zoom: int) -> None:
        """(3, S, S) uint8, enlarged pixel by pixel."""
        self.paste(left, top, image.movedim(0, -1).numpy().repeat(zoom, 0).repeat(zoom, 1))

    def paste(self, left: int, top: int, pixels: Pixels) -> None:
        self.pixels.append((left, top, pixels))

    def frame(self, left: int, top: int, width: int, height: int, colour: str, thick: int = 3) -> None:
        self.paste(left, top, np.broadcast_to(rgb(colour), (height, width, 3)))
        inside = np.broadcast_to(np.uint8(255), (height - 2 * thick, width - 2 * thick, 3))
        self.paste(left + thick, top + thick, inside)

    def write(
        self, x: float, y: float, text: str, size: float, colour: str = INK, ha: str = "left", weight: str = "normal"
    ) -> None:
        self.texts.append((x, y, text, {"fontsize": size, "color": colour, "ha": ha, "fontweight": weight}))

    def lines(self, x: int, y: int, text: str, size: float, room: int, weight: str = "normal") -> int:
        """Text over as many lines as it needs up to `room` from the left; returns where it ends."""
        pitch = int(2.6 * size + 6)
        wrapped = textwrap.wrap(text, letters(room - x, size)) or [""]
        for at, line in enumerate(wrapped):
            self.write(x, y + at * pitch, line, size, weight=weight)
        return y + len(wrapped) * pitch

    def save(self, file: Path) -> None:
        width = max([NARROWEST, *(left + part.shape[1] + MARGIN for left, _, part in self.pixels)])
        height = MARGIN + max(
            [top + part.shape[0] for _, top, part in self.pixels] + [int(y) + 20 for _, y, _, _ in self.texts]
        )
        sheet = np.full((height, width, 3), 255, np.uint8)
        for left, top, part in self.pixels:
            sheet[top : top + part.shape[0], left : left + part.shape[1]] = part
        with context():
            # a hundredth of a pixel more, so that rounding never takes one away
            figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI, facecolor="white")
            for x, y, text, how in self.texts:
                figure.text(x / width, 1 - y / height, text, va="top", **how)  # type: ignore[arg-type]
            figure.figimage(sheet, zorder=-1)
            held = io.BytesIO()
            figure.savefig(held, format="png", dpi=_DPI, metadata={"Software": None})
        write_atomic(file, held.getvalue())
