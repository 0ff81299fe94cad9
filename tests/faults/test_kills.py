"""SIGKILL in training, checkpointing, extraction and a study's bookkeeping: nothing that was whole is lost, and the end is
bitwise that of an undisturbed command.

A few kills by default; WINGSPAN_KILLS=50 makes that many, all through the lifetime of every command.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import KILLED, PRETRAIN, STUDY, WIDE, Kill, Server, Subject, features, kill_and_go_on, moments, operations

KILLS = int(os.environ.get("WINGSPAN_KILLS", "0"))
SHARES = {"pretrain": 0.5, "features": 0.3, "study": 0.2}

PLACES = {
    "pretrain": [
        Kill(r"fsync .*step-000000001\.part/learner"),  # written, and nothing of it on the disk for certain
        Kill(r"rename .*\.part -> .*step-000000003"),  # between write and rename
        Kill(r"rename .*\.part -> .*step-000000004", when="after"),  # between rename and removal of the old
        Kill(r"rename .* -> .*\.gone", when="after"),
        Kill(r"unlink .*\.gone/", when="after"),  # half removed
        Kill(r"replace .*metrics\.jsonl"),
        Kill(r"replace .*done\.json"),
    ],
    "features": [
        Kill(r"replace .*store\.json", when="after"),
        Kill(r"replace .*train/00001\.bits", when="after"),  # named, not listed
        Kill(r"replace .*train/SHA256SUMS"),
    ],
    "study": [
        Kill(r"replace .*results/linear", when="after"),
        Kill(r"replace .*study\.json"),
    ],
}
WHEN_FEW = {"pretrain": 5, "features": 2, "study": 1}  # of these places, when few kills were asked for


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("server")
    with Server(place, {"WINGSPAN_CACHE": str(place / "cache")}) as made:
        yield made


@pytest.fixture(scope="module")
def wide(server, tmp_path_factory) -> Path:
    """A run whose features are worth more than a shard."""
    path = tmp_path_factory.mktemp("wide") / "run"
    assert server.run([*WIDE, "--out", path])[0] == 0, server.log
    return path


class Whole:
    """Undisturbed, and how long it takes in time and in operations on the disk."""

    def __init__(self, server: Server, subject: Subject, path: Path) -> None:
        self.subject, self.path = subject, path
        status, self.seconds = server.run(subject.begin(path), under=path)
        assert status == 0, server.log
        self.operations = len(server.operations)


@pytest.fixture(scope="module")
def whole(server, wide, tmp_path_factory):
    made: dict[str, Whole] = {}

    def of(name: str) -> Whole:
        if name not in made:
            subject = {"pretrain": PRETRAIN, "features": features(wide), "study": STUDY}[name]
            made[name] = Whole(server, subject, tmp_path_factory.mktemp(name) / "whole")
        return made[name]

    return of


@pytest.mark.parametrize("name", PLACES)
def test_killed_where_it_matters_most(name, server, whole, tmp_path):
    """All in one folder, one after the other."""
    reference, far = whole(name), 0
    subject, folder = reference.subject, tmp_path / "killed"
    places = PLACES[name] if KILLS else random.Random(name).sample(PLACES[name], WHEN_FEW[name])
    for kill in sorted(places, key=PLACES[name].index):
        status, _ = server.run(subject.words(folder), under=folder, kill=kill)
        assert status == KILLED, f"{kill} was not reached: {server.log}"
        far, before = subject.check(folder), far
        assert far >= before, "a kill took something away"
    assert server.run(subject.words(folder))[0] == 0, server.log
    subject.compare(reference.path, folder)


@pytest.mark.parametrize("name", PLACES)
def test_killed_at_any_operation_on_the_disk(name, server, whole, tmp_path):
    if not KILLS and name != "pretrain":
        pytest.skip("WINGSPAN_KILLS=50 for all")
    reference, chance = whole(name), random.Random(f"{name} operations")
    count = round(KILLS * SHARES[name] / 2) or 1
    tally = kill_and_go_on(server, reference.subject, tmp_path, reference.path, operations(chance, reference.operations), count)
    print(f"{name}: {tally.kills} kills at operations on the disk, {tally.finished} times to the end")


@pytest.mark.parametrize("name", PLACES)
def test_killed_at_any_moment(name, server, whole, tmp_path):
    if not KILLS and name != "features":  # tests/test_kill.py has a few in training
        pytest.skip("WINGSPAN_KILLS=50 for all")
    reference, chance = whole(name), random.Random(f"{name} moments")
    count = round(KILLS * SHARES[name] / 2) or 1
    tally = kill_and_go_on(server, reference.subject, tmp_path, reference.path, moments(chance, reference.seconds), count)
    print(f"{name}: {tally.kills} kills at random moments, {tally.finished} times to the end")
