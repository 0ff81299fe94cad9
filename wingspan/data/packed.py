"""Images that `wingspan pack` decoded beforehand, read by memory map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wingspan.data._decode import Fit
from wingspan.data._pages import Packing, is_packed, read_manifest
from wingspan.data.base import Data, ImageSet, Split
from wingspan.data.hub import Hub
from wingspan.errors import UserError


@dataclass(frozen=True)
class Packed(Data):
    """The folder that `wingspan pack` wrote: the same images, classes, numbers and names as the set it was made from."""

    title: ClassVar[str] = "images that wingspan pack decoded into a folder, read by memory map"

    folder: str = ""  # what wingspan pack wrote
    size: int = 0  # side in pixels that training sees; 0: 7/8 of the packed side above 64 pixels, else all of it
    label: str = ""  # task of the target; the one of the set that was packed when empty
    limit_train: int = 0  # use only so many training images, stratified; 0: all
    limit_test: int = 0  # use only so many test images, stratified; 0: all

    @property
    def side(self) -> int:
        if self.size or not self.folder:
            return self.size or 224
        packed = self.stored
        return packed if packed <= 64 else round(packed * 7 / 8)

    @property
    def label_name(self) -> str:
        return self._about().name if self.folder else "packed"

    @property
    def stored(self) -> int:
        """The side in pixels of the images that `load` gives."""
        return self._about().side

    @property
    def fit(self) -> Fit:
        """What was done about pictures that are not square."""
        return self._about().fit

    def load(self, split: Split) -> ImageSet:
        """Map one split: pixels are read when they are asked for. Raises UserError for whatever the user can mend."""
        hub = Hub(
            path=str(self._root()),
            size=self.side,
            label=self.label,
            limit_train=self.limit_train,
            limit_test=self.limit_test,
            fit=self.fit,
        )
        return hub.load(split)

    def _about(self) -> Packing:
        return read_manifest(self._root()).packing

    def _root(self) -> Path:
        """The folder that the user gave. Raises UserError when no packed set lies there."""
        if not self.folder:
            raise UserError("packed: say where it lies with --data.folder, the folder that wingspan pack wrote.")
        path = Path(self.folder).expanduser()
        if not is_packed(path):
            raise UserError(f"--data.folder '{self.folder}' holds no packed.json, which wingspan pack DATA --out DIR writes.")
        return path
