"""Which image set a word of a command stands for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from wingspan import spec
from wingspan.data.base import Data
from wingspan.data.hub import Hub
from wingspan.errors import UserError, nearest


def data_set(text: str, side: int) -> Data:
    """The image set that a word stands for, its images at a side of `side` pixels.

    A path of what is here; a file of `wingspan/data` by its name, with the publisher's folder behind "="; else a hub id. Fields
    may follow: "clevr=CLEVR_v1.0", "cifar=cifar-100-binary,classes=100", "flowers/,fit=squash".

    Raises UserError for a field that the set does not have, and for a value of a wrong type.
    """
    source, *changes = [text] if Path(text).exists() else text.split(",")
    name, equals, folder = source.partition("=")
    if not Path(source).exists() and name in spec.files(Data) and name != "hub":
        found: Data = spec.named(Data, name)
        found = spec.override(found, {"size": side}) if hasattr(found, "size") else found
        if equals and not hasattr(found, "folder"):
            raise UserError(f"'{text}': {name} is not read from a folder, so nothing can follow its '='.")
        found = spec.override(found, {"folder": folder}) if equals else found
    elif Path(source).exists() or source.startswith((".", "/", "~")):
        found = Hub(path=source, size=side)
    elif equals:
        raise UserError(f"'{text}': no image set is called '{name}'.{nearest(name, spec.files(Data))}")
    else:
        found = Hub(name=source, size=side)
    return spec.override(found, dict(_change(text, each, found) for each in changes))


def _change(text: str, change: str, data: Data) -> tuple[str, object]:
    name, equals, value = change.partition("=")
    known = [field.name for field in dataclasses.fields(data)]  # type: ignore[arg-type]
    if not equals or name not in known:
        raise UserError(f"'{text}': '{change}' sets no field of this image set.{nearest(name, known)} Write FIELD=VALUE.")
    with contextlib.suppress(ValueError):
        return name, json.loads(value)
    return name, value
