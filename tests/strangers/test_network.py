"""Nothing is fetched and nobody is told anything, unless the user names a hub id: no command tries to connect anywhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_runs import WORDS

UNCONNECTED = Path(__file__).with_name("unconnected")
COMMANDS = """
import sys, json
from wingspan import cli
from wingspan.data import _source
_source.IN_MEMORY = 1e4  # so that a small table takes the way of a large one
for words in json.loads(sys.argv[1]):
    try:
        status = cli.run(words)
    except SystemExit as left:
        status = int(left.code or 0)
    print("status", status, words)
"""


def carry_out(commands: Sequence[Sequence[object]], tmp: Path) -> tuple[list[int], str, str]:
    """Statuses of commands in one process that may not connect, what it tried all the same, and what was printed."""
    import json

    words = json.dumps([[str(word) for word in each] for each in commands])
    attempts = tmp / "attempts"
    attempts.touch()
    cleared = {
        name: held for name, held in os.environ.items() if not name.startswith(("HF_", "DISABLE_TELEMETRY", "DO_NOT_TRACK"))
    }
    environment = cleared | {"PYTHONPATH": str(UNCONNECTED), "ATTEMPTS": str(attempts), "HF_HOME": str(tmp / "hf")}
    line = [sys.executable, "-c", COMMANDS, words]
    told = subprocess.run(line, env=environment, cwd=tmp, capture_output=True, text=True, check=False)
    found = [int(each.split()[1]) for each in told.stdout.splitlines() if each.startswith("status ")]
    return found, attempts.read_text(), told.stdout + told.stderr


def picture(seed: int) -> bytes:
    held = io.BytesIO()
    Image.effect_noise((24, 24), 50 + seed).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """The same pictures as a folder, a table and an archive."""
    place = tmp_path_factory.mktemp("sets")
    cells = [picture(at) for at in range(40)]
    for at, cell in enumerate(cells):
        folder = place / "photos" / ("cat", "dog")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.png").write_bytes(cell)
    pq.write_table(pa.table({"image": cells, "label": [at % 2 for at in range(40)]}), place / "table.parquet")
    with tarfile.open(place / "archive.tar", "w") as tar:
        for at, cell in enumerate(cells):
            for kind, data in (("png", cell), ("cls", str(at % 2).encode())):
                info = tarfile.TarInfo(f"{at:03}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return place


def test_no_command_connects_anywhere(sets, tmp_path):
    run, codes = tmp_path / "scenes", tmp_path / "codes"
    local = [["show", "--data.path", place, "--out", tmp_path / f"{place.name}.png"] for place in sorted(sets.iterdir())]
    scenes = ["--scale", "smoke", "--widths", "8", "--objectives", "simclr", "--data.train", "48", "--data.test", "40"]
    commands: list[Sequence[object]] = [
        ["pretrain", *WORDS, "--out", run],
        *local,
        ["features", run, "--out", codes, "--format", "packed"],
        ["export", run, "--to", "safetensors"],
        ["study", "scenes", *scenes, "--batch", "16", "--epochs", "1", "--projector", "16", "--jobs", "1", "--out", "study"],
    ]
    statuses, attempts, told = carry_out(commands, tmp_path)
    assert statuses == [0] * len(commands), told
    assert attempts == ""


def test_the_watch_sees_what_connects(tmp_path, monkeypatch):
    """Else the test above would show nothing."""
    asks = "import contextlib, urllib.request\nwith contextlib.suppress(OSError): urllib.request.urlopen('http://example.org')"
    monkeypatch.setitem(globals(), "COMMANDS", asks)
    assert "example.org" in carry_out([], tmp_path)[1]


def test_a_load_is_counted_nowhere(monkeypatch):
    """A hub id is fetched from the hub and nothing is told to anyone else; what was set before is set again."""
    import datasets

    from wingspan.data.hub import Hub
    from wingspan.errors import UserError

    seen = []

    def load(*given: object, **named: object) -> None:
        seen.append(datasets.config.HF_UPDATE_DOWNLOAD_COUNTS)
        raise OSError("no such set")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    with pytest.raises(UserError, match="no such set"):
        Hub(name="somebody/pictures").load("train")
    assert seen == [False] and datasets.config.HF_UPDATE_DOWNLOAD_COUNTS is True
