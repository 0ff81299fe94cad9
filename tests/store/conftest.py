from __future__ import annotations

import pytest

from wingspan import spec
from wingspan.data.base import Data
from wingspan.store import manifest


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards as small as pages allow, so that a few hundred rows fill several."""
    monkeypatch.setattr(manifest, "_ROWS", 1)
    monkeypatch.setattr(manifest, "PAGE", 4096)


@pytest.fixture(autouse=True)
def known_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let manifests name the images of these tests, which are no file of wingspan/data."""
    from made_stores import Made

    whole = spec.file_class

    def file_class(base: type, name: str) -> type:
        return Made if (base, name) == (Data, "made_stores") else whole(base, name)

    monkeypatch.setattr(spec, "file_class", file_class)
