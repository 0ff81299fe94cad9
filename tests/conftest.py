"""One thread, no colour, wide messages: what tests compare must not depend on the machine or its terminal."""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}  # for subprocesses too

import pytest
import torch
from tiny_runs import cut, tiny

from wingspan.loop import pretrain
from wingspan.runs import RunFolder

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or leaves decoded images in the user's cache."""
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def begun(tmp_path_factory) -> RunFolder:
    """A run that was stopped after three of its six steps. To be copied, not changed; `finished` too."""
    with pytest.MonkeyPatch.context() as patch:
        return cut(tiny(), tmp_path_factory.mktemp("begun") / "run", 3, patch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> RunFolder:
    """The same run, trained at a stretch."""
    return pretrain(tiny(), tmp_path_factory.mktemp("finished") / "run")
