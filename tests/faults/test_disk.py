"""A disk that fills and a folder that cannot be written: the message says what is missing, nothing saved is lost, and the same
command goes on once there is room. On real file systems of a few megabytes, which only root may mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import WORDS, assert_equal_runs, command, contents, cut, said, tiny

from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder

MB = 1_000_000


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.path)], check=True, capture_output=True)

    def resize(self, size: int) -> None:
        self.mount("-o", f"remount,size={size}")

    def fill(self, free: int) -> Path:
        """Take all but `free` bytes."""
        filler = self.path / "filler"
        with filler.open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.path).free - free)))
        return filler


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Disk]]:
    made: list[Disk] = []

    def of(size: int) -> Disk:
        path = tmp_path / "disk"
        path.mkdir()
        try:
            Disk(path).mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a file system can be mounted by root only ({error})")
        made.append(Disk(path))
        return made[0]

    yield of
    for each in made:
        subprocess.run(["umount", "--lazy", str(each.path)], check=True)


def size(folder: Path) -> int:
    return sum(len(held) for held in contents(folder).values())


def test_a_disk_that_fills_while_saving(disk, finished, tmp_path, capsys):
    """Two checkpoints fit, the third does not."""
    small, one = disk(int(2.6 * size(finished.checkpoints()[-1]))), size(finished.checkpoints()[-1])
    folder = RunFolder(small.path / "run")
    assert command("pretrain", *WORDS, "--save-seconds", "0", "--out", folder.path) == 2
    told = said(capsys)
    assert f"cannot write {folder.path}/checkpoints/step-000000003" in told and "what was saved before is intact" in told
    needed, free = (float(words.split()[-2]) for words in told.split(" MB ")[-3:-1] for words in [words + " MB"])
    assert 0.9 * one < needed * MB < 1.1 * one and free * MB < 0.7 * one, told
    assert [each.name for each in folder.checkpoints()] == ["step-000000001", "step-000000002"]
    assert not [*(folder.path / "checkpoints").glob(".*")], "what was not finished takes no room"
    small.resize(4 * one)
    assert command("pretrain", "--resume", folder.path, "--save-seconds", "0") == 0, said(capsys)
    assert_equal_runs(folder, finished)


def test_a_disk_that_fills_while_logging(disk, finished, tmp_path, monkeypatch, capsys):
    """The message tells what the next checkpoint will need, too: room for a line alone would not help."""
    one = size(finished.checkpoints()[-1])
    small = disk(4 * one)
    folder = cut(tiny(), small.path / "run", 3, monkeypatch)
    filler, saved = small.fill(8192), contents(folder.path / "checkpoints")
    monkeypatch.setattr(RunFolder, "add_provenance", lambda folder: None)  # so that the log is what takes the last page
    with monkeypatch.context() as patch:
        logged = RunFolder.open_metrics

        def full(folder, step):
            opened = logged(folder, step)
            small.fill(0)
            opened.write(b" " * (-folder.metrics.stat().st_size % 4096))  # to the end of its last page
            return opened

        patch.setattr(RunFolder, "open_metrics", full)
        assert command("pretrain", "--resume", folder.path) == 2
    told = said(capsys)
    assert f"cannot write {folder.path}/metrics.jsonl: No space left on device" in told
    assert f"{one / MB:.1f} MB are needed" in told and "0 bytes are free" in told
    assert contents(folder.path / "checkpoints") == saved
    filler.unlink()
    assert command("pretrain", "--resume", folder.path) == 0, said(capsys)
    assert_equal_runs(folder, finished)


def test_a_disk_that_is_full_from_the_start(disk, finished, capsys):
    small = disk(4 * size(finished.checkpoints()[-1]))
    filler = small.fill(0)
    words = ["pretrain", *WORDS, "--out", small.path / "run"]
    assert command(*words) == 2
    assert "cannot write" in (told := said(capsys)) and "No space left" in told and "bytes are needed" in told
    filler.unlink()
    assert command(*words) == 0, said(capsys)
    assert_equal_runs(RunFolder(small.path / "run"), finished)


@pytest.mark.parametrize("form", ["sparse", "fp16"])
def test_a_disk_that_fills_while_features_are_stored(form, disk, begun, tmp_path, capsys):
    """Sparse features take more than can be told beforehand; of the others, someone else takes the room."""
    data = ["--data", "scenes", "--data.train", "3000", "--data.test", "200", "--data.size", "16", "--batch", "128"]
    words = ["features", begun.path, *data, "--format", form, "--out"]
    assert command(*words, tmp_path / "whole") == 0, said(capsys)
    whole = stored(tmp_path / "whole")
    bare = sum(map(len, whole.values())) if form == "fp16" else 3200 * 2
    small = disk(int(0.9 * bare) if form == "fp16" else bare + 40_960)
    said(capsys)
    assert command(*words, small.path / "store") == 2
    told = said(capsys)
    assert "No space left on device" in told and " are needed there" in told and " are free" in told
    small.resize(4 * MB)
    assert command(*words, small.path / "store") == 0, said(capsys)
    assert stored(small.path / "store") == whole


def stored(folder: Path) -> dict[str, bytes]:
    return {name: held for name, held in contents(folder).items() if not Path(name).name.startswith(".")}


# --------------------------------------------------------------------------------------------------------- a read-only folder


ON_IT = [
    "pretrain --resume {at}/run",
    "measure {at}/run --measures knn",
    "features {at}/run --out {at}/f",
    "export {at}/run --to safetensors",
    "study scenes --scale smoke --out {at}/study",
]


@pytest.mark.parametrize("words", ON_IT)
def test_a_file_system_that_is_read_only(words, disk, begun, capsys):
    place = disk(64 * MB)
    shutil.copytree(begun.path, place.path / "run")
    before = contents(place.path)
    place.mount("-o", "remount,ro")
    assert command(*words.format(at=place.path).split()) == 2
    told = said(capsys)
    assert str(place.path) in told and "Read-only file system" in told and "Traceback" not in told
    place.mount("-o", "remount,rw")
    assert contents(place.path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(begun, tmp_path, capsys):
    path = shutil.copytree(begun.path, tmp_path / "run")
    path.chmod(0o500)
    try:
        assert command("pretrain", "--resume", path) == 2 and "Permission denied" in said(capsys)
    finally:
        path.chmod(0o700)


def test_often_saved_leaves_two(tmp_path, monkeypatch):
    """What the disk must hold: two checkpoints, and a third while it is written."""
    most, new = [], RunFolder.forget_checkpoints

    def counted(folder, *given, **named):
        most.append(len(folder.checkpoints()))
        new(folder, *given, **named)

    monkeypatch.setattr(RunFolder, "forget_checkpoints", counted)
    folder = cut(tiny(), tmp_path / "run", 5, monkeypatch, Sitting(save_seconds=0))
    assert most[:5] == [1, 2, 3, 3, 3] and [each.name[-1] for each in folder.checkpoints()] == ["4", "5"]
