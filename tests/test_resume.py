"""Six steps are three steps, a stop, a new process and three more: to the last bit, for every objective."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_runs import assert_equal_runs, cut, tiny

from wingspan import spec
from wingspan.loop import pretrain
from wingspan.objectives.base import Objective
from wingspan.runs import RunFolder

RUNS = {
    **{name: tiny(objective=name) for name in spec.files(Objective)},
    "accumulated": tiny(accumulate=2),
    "lars": tiny(optim__name="lars", optim__lr=0.5),
    "sgd": tiny(optim__name="sgd", optim__lr=0.1),
    "bf16": tiny(precision="bf16"),
}
RESUME = """
import sys
from wingspan.cli import run
sys.exit(max(run(["pretrain", "--resume", folder]) for folder in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders a run: one trained at a stretch, one stopped half-way and finished by another process."""
    base = tmp_path_factory.mktemp("resume")
    whole, halved = base / "whole", base / "halved"
    with pytest.MonkeyPatch.context() as patch:
        for name, run in RUNS.items():
            pretrain(run, whole / name)
            stopped = cut(run, halved / name, 3, patch)
            assert [each.name for each in stopped.checkpoints()] == ["step-000000003"] and not stopped.done()
    subprocess.run([sys.executable, "-c", RESUME, *(str(halved / name) for name in RUNS)], check=True, capture_output=True)
    return whole, halved


@pytest.mark.parametrize("name", RUNS)
def test_six_steps_are_three_a_stop_and_three(name, folders):
    whole, halved = folders
    assert_equal_runs(RunFolder(whole / name), RunFolder(halved / name))
    assert len(RunFolder(whole / name).read_metrics()) == 6


def test_every_sitting_is_recorded(folders):
    _, halved = folders
    assert (halved / "simclr" / "provenance.json").read_text().count('"command"') == 2
