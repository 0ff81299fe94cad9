"""docs/handover.md taken apart: its commands, snippets and sizes, and what its snippets must find."""

from __future__ import annotations

import re
import shlex
from importlib import util
from pathlib import Path

import numpy as np
import torch
from small_stores import features, store

from wingspan import bits
from wingspan.handover import hand_over

DOCS = Path(__file__).parent.parent / "docs" / "handover.md"
BLOCKS = re.findall(r"```(python|sql)\n(.*?)```", DOCS.read_text(), re.DOTALL)
COMMANDS = re.findall(r"^    wingspan features (STORE|VALUES) (.*--to.*)$", DOCS.read_text(), re.MULTILINE)
N, D = 300, 256


def hamming(codes: torch.Tensor, row: int) -> np.ndarray:
    return bits.hamming(codes[row : row + 1], codes)[0].numpy()


def given(words: str) -> dict[str, str]:
    """--name value -> {name: value}."""
    parts = shlex.split(words)
    return {name.removeprefix("--"): value for name, value in zip(parts[::2], parts[1::2], strict=True)}


def carry_out(place: Path) -> Path:
    """What the document's commands do, given in a folder."""
    known = {
        "labels": {"label": (torch.arange(N) % 5, ("ant", "bee", "cow", "doe", "eel"))},
        "paths": [f"images/{row}.png" for row in range(N)],
    }
    h = features(N, D)
    stores = {"STORE": store(place / "store", h, **known), "VALUES": store(place / "values", h, "fp16", **known)}
    for which, words in COMMANDS:
        options = given(words)
        if options["to"] == "faiss" and util.find_spec("faiss") is None:
            continue
        made, column = stores[which], options.get("column", "binary")
        hand_over(made.part(options["split"]), made.manifest, options["to"], place / options["out"], column=column)
    return place


def assert_nearest(found: list[int], text: str) -> None:
    """Ten different rows as near to row 7 as the ten nearest; which of several at one distance is the tool's choice."""
    h = features(N, D)
    if "h.parquet" in text or "h.faiss" in text:
        unit = torch.nn.functional.normalize(h.double(), dim=1)
        far = 1 - (unit @ unit[7]).numpy()
    else:
        far = hamming(bits.pack(h), 7)
    assert len(set(found)) == 10 and found[0] == 7
    assert np.allclose(far[found], np.sort(far)[:10], atol=1e-3)


def sizes() -> dict[str, tuple[str, dict[int, int]]]:
    """Rows of the document's table: what -> formula, {D: bytes}."""
    rows = re.findall(r"^\| (\w+: .*?) \| `(.*?)` \| ([\d,]+) \| ([\d,]+|beyond.*?) \|$", DOCS.read_text(), re.MULTILINE)
    told = {what: (formula, dict(zip((2048, 32768), given, strict=True))) for what, formula, *given in rows}
    return {
        what: (formula, {width: int(text.replace(",", "")) for width, text in given.items() if text[0].isdigit()})
        for what, (formula, given) in told.items()
    }
