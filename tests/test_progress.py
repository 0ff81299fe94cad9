"""What long work says while it goes on."""

from __future__ import annotations

import pytest

from wingspan import progress
from wingspan.progress import bar, clock, tell


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_time_reads_as_a_person_says_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_log_gets_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar("simclr", 100, done=20, per_unit=10, things="views") as shown:
        for _ in range(4):
            now[0] += 20.0
            shown.advance("loss 1.5")
    lines = capsys.readouterr().err.splitlines()
    # 10 views each 20 s; a line at most every 30 s, so after 40 s and after 80 s.
    assert lines == [
        "simclr: 22/100, 0 views/s loss 1.5, 26 min 00 s left",
        "simclr: 24/100, 0 views/s loss 1.5, 25 min 20 s left",
    ]


def test_the_rate_leaves_out_what_an_earlier_sitting_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar("run", 100, done=90, per_unit=256, things="views") as shown:
        now[0] = 2.0
        shown.advance()
        assert shown.rate == 128.0


def test_a_note_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell(["3 of 10 images cannot be decoded", "3 of 10 images cannot be decoded"])
    tell(["3 of 10 images cannot be decoded"])
    assert capsys.readouterr().err.count("3 of 10 images") == 1
