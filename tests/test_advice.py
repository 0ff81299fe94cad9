"""Width advice against tables whose answer can be worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import scipy.stats

from wingspan.advice import advise
from wingspan.errors import UserError

WHERE = {"objective": "simclr", "measure": "linear", "metric": "accuracy"}
COSTS = {width: {"parameters": 1000.0 * width, "bytes a vector": width / 8} for width in (32, 64, 128, 256)}


def measured(values: dict[int, list[float]], task: str = "kind", error: float = 0.01, **more: object) -> pd.DataFrame:
    """A row a width and seed; `values` are in points."""
    rows = [
        {**WHERE, "width": width, "seed": seed, "task": task, "error": error, "value": value / 100, **more}
        for width, found in values.items()
        for seed, value in enumerate(found)
    ]
    return pd.DataFrame(rows)


FOUND = {32: [40.0, 43.0, 46.0], 64: [68.0, 71.0, 71.0], 128: [69.0, 71.0, 74.0], 256: [68.0, 71.5, 73.0]}


def test_the_narrowest_width_within_one_standard_error_of_the_best_over_seeds_is_advised() -> None:
    found = advise(measured(FOUND), WHERE, COSTS)
    assert found.error == pytest.approx(scipy.stats.sem(FOUND[128]))  # 1.45
    assert (found.width, found.best, found.n, found.costs) == (64, 128, 3, COSTS[64])  # 70.0 >= 71.33 - 1.45
    assert found.means == pytest.approx({width: sum(values) / 3 for width, values in FOUND.items()})
    assert found.errors == pytest.approx({width: scipy.stats.sem(values) for width, values in FOUND.items()})
    assert found.sentence == (
        "D=64: 70.0 points, within one standard error (1.5 points, n = 3 seeds) of the best, 71.3 at D=128; "
        "parameters 64,000 instead of 128,000, bytes a vector 8 instead of 16."
    )
    just_out = advise(measured({**FOUND, 64: [67.5, 71.0, 71.0]}), WHERE, {})
    assert (just_out.width, just_out.costs) == (128, {})
    assert "D=128: 71.3 points, the best; no narrower one comes within one standard error" in just_out.sentence


def test_with_one_seed_the_standard_error_is_that_of_the_mean_of_the_measurements() -> None:
    easy, hard = measured({32: [78.0], 64: [80.0]}, "easy", 0.03), measured({32: [38.0], 64: [40.0]}, "hard", 0.04)
    found = advise(pd.concat([easy, hard]), WHERE, {})
    assert (found.error, found.width, found.n) == (pytest.approx(100 * math.hypot(0.03, 0.04) / 2), 32, 1)
    assert "n = 1 seed, each the mean of 2 tasks" in found.sentence
    assert advise(pd.concat([easy, hard]).assign(error=0.01), WHERE, {}).width == 64
    with pytest.raises(UserError, match="run a second seed"):
        advise(pd.concat([easy, hard.assign(error=math.nan)]), WHERE, {})
    with pytest.raises(UserError, match="run a second seed"):
        advise(easy.drop(columns="error"), WHERE, {})


def test_only_the_tasks_asked_for_count() -> None:
    table = pd.concat(
        [measured({32: [80.0, 81.0], 256: [70.0, 71.0]}, "own"), measured({32: [20.0, 21.0], 256: [60.0, 61.0]}, "other")]
    )
    assert [advise(table, {**WHERE, "task": task}, {}).width for task in ("own", "other")] == [32, 256]
    assert (
        "the best and the narrowest (n = 2 seeds); no narrower one was measured"
        in advise(table, {**WHERE, "task": "own"}, {}).sentence
    )
    assert "no wider one was measured" in advise(table, {**WHERE, "task": "other"}, {}).sentence


def test_only_seeds_with_every_width_count() -> None:
    table = measured({32: [50.0, 90.0, 50.0], 64: [60.0, math.nan, 60.5]})
    found = advise(table, WHERE, {})
    assert (found.n, found.means) == (2, pytest.approx({32: 50.0, 64: 60.25}))
    alone = advise(measured({32: [59.5, math.nan], 64: [60.0, 65.0]}).assign(error=[0.01, 9.0, 0.006, 9.0]), WHERE, {})
    assert (alone.n, alone.error, alone.width) == (1, pytest.approx(0.6), 32)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (measured({32: [50.0]}), "no second width beside D=32"),
        (measured({32: [50.0, math.nan], 64: [math.nan, 50.0]}), "no seed has a value at every width: 32, 64"),
        (measured(FOUND, measure="knn"), "no number with objective simclr, measure linear"),
        (pd.concat([measured(FOUND), measured({32: [1.0]}, "hard")]), "no number for task hard at width 64"),
    ],
)
def test_what_is_missing_is_named_and_no_width_is_guessed(table: pd.DataFrame, named: str) -> None:
    with pytest.raises(UserError, match=f"No width can be advised: {named}"):
        advise(table, WHERE, {})


def test_numbers_that_are_no_accuracies_have_no_unit() -> None:
    table = measured({32: [100.0, 110.0], 64: [200.0, 230.0]}).assign(metric="rank")
    assert advise(table, {**WHERE, "metric": "rank"}, {}).sentence.startswith("D=64: 2.15, the best")
