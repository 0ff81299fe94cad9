"""A run's folder: old or new but never half, one process at a time, complete checkpoints only."""

from __future__ import annotations

import errno
import os

import pytest

from wingspan import runs
from wingspan.errors import UserError
from wingspan.runs import RunFolder, read_json, write_atomic, write_json


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def checkpoint(folder: RunFolder, step: int) -> None:
    with folder.new_checkpoint(step) as place:
        (place / "state.json").write_text(str(step))


def names(folder: RunFolder) -> list[str]:
    return sorted(each.name for each in (folder.path / "checkpoints").iterdir())


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "facts.json"
    write_json(file, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=f"cannot write {file}: No space left on device.*intact"):
            write_json(file, {"step": 2})
    assert read_json(file) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["facts.json"]


def test_a_write_replaces_the_whole_file(tmp_path):
    write_atomic(tmp_path / "new" / "file", "long before")
    write_atomic(tmp_path / "new" / "file", b"after")
    assert (tmp_path / "new" / "file").read_text() == "after"


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "cut.json").write_text('{"step": ')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name, told in (
        ("none.json", "does not exist"),
        ("cut.json", "damaged"),
        ("binary.json", "damaged"),
        ("", "cannot read"),
    ):
        with pytest.raises(UserError, match=told):
            read_json(tmp_path / name)


def test_a_folder_has_one_user_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock(), pytest.raises(UserError, match="in use by another process"), RunFolder(tmp_path / "run").lock():
        pass
    with folder.lock():  # and is free again afterwards
        pass


def test_only_complete_checkpoints_are_listed(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.checkpoints() == []
    for step in (9, 10, 100):
        checkpoint(folder, step)
    (tmp_path / "checkpoints" / ".step-000000101.part").mkdir()
    assert [each.name for each in folder.checkpoints()] == ["step-000000009", "step-000000010", "step-000000100"]


def test_a_checkpoint_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    checkpoint(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "flush", full)
        with pytest.raises(UserError, match="step-000000002: No space left"):
            checkpoint(folder, 2)
    assert names(folder) == ["step-000000001"]


def test_a_half_written_checkpoint_is_written_anew(tmp_path):
    folder = RunFolder(tmp_path)
    half = tmp_path / "checkpoints" / ".step-000000003.part"
    half.mkdir(parents=True)
    (half / "rest of a kill").write_text("")
    checkpoint(folder, 3)
    assert [each.name for each in folder.checkpoints()[0].iterdir()] == ["state.json"]


def test_forgetting_keeps_the_newest_two_the_named_and_no_leftovers(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (10, 20, 30, 40, 50):
        checkpoint(folder, step)
    for left in (".step-000000005.gone", ".step-000000035.part"):
        (tmp_path / "checkpoints" / left).mkdir()
    folder.forget_checkpoints({"step-000000020"})
    assert names(folder) == ["step-000000020", "step-000000040", "step-000000050"]
    folder.forget_checkpoints(set(), newest=1)
    assert names(folder) == ["step-000000050"]


def test_a_log_line_cut_by_a_kill_is_made_again(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3]
    with folder.open_metrics(2) as log:  # the last checkpoint was of step 2
        assert [line["step"] for line in folder.read_metrics()] == [1, 2]
        log.write(b'{"step": 3}\n')
        assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3]  # written at once


def test_every_sitting_leaves_its_provenance(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_provenance()
    folder.add_provenance()
    first, second = read_json(tmp_path / "provenance.json")
    assert {"command", "torch", "python", "revision", "machine"} <= set(first) and first.keys() == second.keys()
