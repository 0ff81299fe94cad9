"""What a width costs, against closed forms, a run's own record and the forecast."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import tiny

from wingspan.forecast import forecast
from wingspan.prices import Price, price, step_seconds
from wingspan.runs import RunFolder


def copy(run: RunFolder, to: Path, **facts: object) -> RunFolder:
    """A run's folder without its checkpoints, with some of its facts replaced."""
    shutil.copytree(run.path, to, ignore=shutil.ignore_patterns("checkpoints"))
    found = RunFolder(to)
    if found.done():
        found.finished.write_text(json.dumps({**json.loads(found.finished.read_text()), **facts}))
    return found


def test_what_a_vector_takes_follows_from_its_width_alone() -> None:
    for width, half, bits in ((8, 16, 1), (12, 24, 2), (32768, 65536, 4096)):
        found = price(width, [])
        assert (found.vector_bytes, found.bit_bytes) == (half, bits)
        assert (found.parameters, found.training_bytes, found.step_seconds) == (None, None, None)
        assert found.spoken == {"bytes a vector": half}


def test_parameters_are_those_the_run_wrote_down_and_memory_the_forecast_s(finished: RunFolder) -> None:
    found, cost = price(16, [finished]), forecast(tiny(), 16)
    assert found.parameters == json.loads(finished.finished.read_text())["backbone_parameters"]
    assert found.training_bytes == cost.weight_bytes + cost.activation_bytes and found.precision == "fp32"


def test_the_side_that_training_sees_counts(finished: RunFolder, tmp_path: Path) -> None:
    larger = copy(finished, tmp_path / "larger")
    settings = json.loads(larger.spec.read_text())
    settings["augment"]["size"] = 32
    del settings["fingerprint"]
    larger.spec.write_text(json.dumps(settings))
    assert (price(16, [larger]).training_bytes or 0) > (price(16, [finished]).training_bytes or 0)


def test_a_step_takes_the_mean_over_the_runs_that_are_finished(finished: RunFolder, begun: RunFolder, tmp_path: Path) -> None:
    slow = copy(finished, tmp_path / "slow", seconds=12.0, steps=6)
    fast = copy(finished, tmp_path / "fast", seconds=3.0, steps=6)
    assert (step_seconds(slow), step_seconds(begun)) == (2.0, None)
    assert price(16, [slow, fast, begun]).step_seconds == pytest.approx(1.25)
    assert price(16, [begun]).step_seconds is None and price(16, [begun]).parameters
    assert step_seconds(copy(finished, tmp_path / "unknown", steps=0)) is None


def test_a_run_that_cannot_be_read_leaves_the_price_to_the_other_seeds(finished: RunFolder, tmp_path: Path) -> None:
    broken = copy(finished, tmp_path / "broken", seconds=6.0, steps=6)
    broken.spec.write_text('{"batch": "many"}')
    assert price(16, [broken]) == Price(16, step_seconds=1.0)
    assert price(16, [broken, finished]).parameters == price(16, [finished]).parameters


def test_what_is_known_is_told_in_round_units() -> None:
    assert Price(64, 1000, 3 * 2**20, "fp32", 0.25).spoken == {
        "parameters": 1000, "MiB in training": 3.0, "ms a step": 250.0, "bytes a vector": 128,
    }  # fmt: skip
