"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary version: the exact pixels, and nothing that runs code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wingspan.data._listed import Listed, Listing, read_lines
from wingspan.data.base import Split
from wingspan.errors import UserError

PIXELS = 3 * 32 * 32
NAMES = {
    10: {"label": "batches.meta.txt"},
    100: {"coarse_label": "coarse_label_names.txt", "fine_label": "fine_label_names.txt"},
}
TARGET = {10: "label", 100: "fine_label"}
FOLDER = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}
FILES: dict[tuple[int, Split], tuple[str, ...]] = {
    (10, "train"): tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    (10, "test"): ("test_batch.bin",),
    (100, "train"): ("train.bin",),
    (100, "test"): ("test.bin",),
}


@dataclass(frozen=True)
class Cifar(Listed):
    """The binary version as unpacked: cifar-10-batches-bin or cifar-100-binary, or the folder that holds it.

    CIFAR-10 has the task `label`; CIFAR-100 `fine_label` (100, the target) and `coarse_label` (20). The Python version is
    pickles, which run code when they are read: it is not read.
    """

    title: ClassVar[str] = "CIFAR-10 or CIFAR-100 in the publisher's binary version"
    shipped: ClassVar[str] = (
        "https://www.cs.toronto.edu/~kriz/cifar.html ships the binary versions cifar-10-binary.tar.gz and"
        f" cifar-100-binary.tar.gz, which unpack to {FOLDER[10]} and {FOLDER[100]}."
    )

    classes: int = 10  # 10 or 100: which of the two
    size: int = 32  # side in pixels that training sees

    @property
    def label_name(self) -> str:
        return f"cifar{self.classes}"

    def listing(self, split: Split) -> Listing:
        if self.classes not in FOLDER:
            raise UserError(f"--data.classes {self.classes}: there are CIFAR-10 and CIFAR-100; give 10 or 100.")
        folder = self._folder()
        names = {task: tuple(read_lines(self._inside(folder, name))) for task, name in NAMES[self.classes].items()}
        parts = [self._records(self._inside(folder, name), len(names)) for name in FILES[self.classes, split]]
        records = np.concatenate(parts)
        labels = {task: records[:, column].astype(np.int64) for column, task in enumerate(names)}
        for task, values in labels.items():
            if values.max() >= len(names[task]):
                raise UserError(
                    f"'{folder}' holds label {values.max()} of '{task}' and {len(names[task])} names: not CIFAR-{self.classes}."
                )
        images = records[:, len(names) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        pictures = [b"P6 32 32 255\n" + image.tobytes() for image in images]  # PPM: uncompressed, one decoder for every set
        return Listing(pictures, labels, names, TARGET[self.classes])

    def _folder(self) -> Path:
        root, first = self.root(), FILES[self.classes, "train"][0]
        for folder in (root, root / FOLDER[self.classes]):
            if (folder / first).is_file():
                return folder
        python = "data_batch_1" if self.classes == 10 else "train"
        pickled = [
            folder
            for folder in (root, *(root / name for name in ("cifar-10-batches-py", "cifar-100-python")))
            if (folder / python).is_file()
        ]
        if pickled:
            raise UserError(
                f"'{pickled[0]}' is the Python version of CIFAR-{self.classes}: pickles, which can run any code when they are"
                f" read, and are not read here. Take the binary version. {self.shipped}"
            )
        raise UserError(f"cifar: '{first}' expected in '{root}' or '{root / FOLDER[self.classes]}': not there. {self.shipped}")

    def _inside(self, folder: Path, name: str) -> Path:
        if not (folder / name).is_file():
            raise UserError(f"cifar: '{folder / name}' is missing. {self.shipped}")
        return folder / name

    def _records(self, file: Path, labels: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """(N, labels + 3072): the labels, then the red, green and blue planes, row by row."""
        data = np.fromfile(file, np.uint8)
        if not len(data) or len(data) % (labels + PIXELS):
            raise UserError(
                f"'{file}' holds {len(data)} bytes, not whole records of {labels + PIXELS}: cut short, or not"
                f" CIFAR-{self.classes}'s."
            )
        return data.reshape(-1, labels + PIXELS)
