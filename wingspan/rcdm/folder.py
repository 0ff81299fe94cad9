"""A folder of decoders, and whose it is.

FOLDER/company.json         which encoders, images and settings; a folder is one company's for good
FOLDER/ridge/               the closed form, a file an encoder
FOLDER/decoder/, denoiser/  checkpoints of the two decoders, as a run has them
FOLDER/reader.safetensors   what reads true factors off pictures, where the images have any
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from wingspan import spec
from wingspan.errors import UserError
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.settings import Settings
from wingspan.runs import read_json, write_json

_LATER = ("sampling_steps", "evaluated", "evaluated_samples", "retrieved")  # settings that no weight depends on


@dataclass(frozen=True)
class Folder:
    """Encoders that are drawn together in a folder."""

    subject: Subject
    encoders: tuple[Encoder, ...]
    settings: Settings
    path: Path
    seed: int

    @property
    def identity(self) -> str:
        """A hash of all that weights depend on."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:16]

    def facts(self) -> dict[str, object]:
        """What company.json holds."""
        settings = {name: value for name, value in spec.to_json(self.settings).items() if name not in _LATER}
        return {
            "images": self.subject.name,
            "seed": self.seed,
            "settings": settings,
            "encoders": {encoder.name: encoder.identity for encoder in self.encoders},
        }

    def claim(self) -> None:
        """Take the folder, or find that it is this company's. Raises UserError saying what differs."""
        file, mine = self.path / "company.json", self.facts()
        if not file.exists():
            write_json(file, mine)
            return
        held = read_json(file)
        mine = json.loads(json.dumps(mine))  # tuples become lists
        differing = [name for name in mine if held.get(name) != mine[name]]
        if differing:
            told = "; ".join(_difference(name, held.get(name), mine[name]) for name in differing)
            raise UserError(
                f"{self.path} holds a decoder of something else ({told}). A decoder reads the features it learnt from and no "
                "others: give another --out, or remove the folder."
            )


def _difference(name: str, held: object, mine: object) -> str:
    if not (isinstance(held, dict) and isinstance(mine, dict)):
        return f"{name} {held} there, {mine} asked for"
    keys = [key for key in {**held, **mine} if held.get(key) != mine.get(key)]
    shown = ", ".join(f"{key} {held.get(key, 'absent')} there, {mine.get(key, 'absent')} asked for" for key in keys[:3])
    return f"{name}: {shown}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
