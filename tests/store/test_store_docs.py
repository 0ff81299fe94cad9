from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_stores import made, truth

from wingspan import bits

DOCS = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_on_stores_shows_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = (part.partition("```")[0] for part in DOCS.read_text().split("```python\n")[1:])
    made(tmp_path / "codes", 256)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(snippet.replace('"label"', '"kind"').replace("    ...", "    last = h"), found)  # what these images are told apart by
    h = truth(256, "test")
    assert torch.equal(found["part"].bits, bits.pack(h))  # type: ignore[attr-defined]
    assert torch.equal(found["last"], (h > 0).half()), "90 images are one batch"  # type: ignore[arg-type]
