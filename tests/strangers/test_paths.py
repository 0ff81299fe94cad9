"""Names in files from strangers that lead out of the folder they lie in, or to code that is not meant."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import WORDS, command, contents, cut, said, tiny

from wingspan.data.hub import Hub
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder, write_atomic


@pytest.fixture(scope="module")
def store(begun, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "store"
    assert command("features", begun.path, "--out", path, "--format", "packed") == 0
    return path


OUT = ["../outside", "/tmp/outside", "..", ".", "a/../../outside", "train/../../outside", ".hidden", "a\nb", ""]


@pytest.mark.parametrize("split", OUT)
def test_a_store_whose_splits_lie_elsewhere_is_refused(split, store, tmp_path, capsys):
    """Else their files would be read as if they were the store's, whatever they are."""
    path = shutil.copytree(store, tmp_path / "a" / "store")
    shutil.copytree(store / "train", tmp_path / "a" / "outside")
    about = json.loads((path / "store.json").read_text())
    about["splits"][split] = about["splits"].pop("train")
    (path / "store.json").write_text(json.dumps(about))
    for words in (["features", path], ["features", path, "--check"], ["search", path], ["measure", path, "--measures", "knn"]):
        assert command(*words) == 2
        assert "cannot be the name of a split" in said(capsys)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "sub/secret", "../train/00000.bits"])
def test_a_list_of_checksums_names_files_of_its_own_folder(name, store, tmp_path, capsys):
    """Else whether a file elsewhere has some content could be told from the answer."""
    path = shutil.copytree(store, tmp_path / "a" / "store")
    secret = tmp_path / "a" / "secret"
    secret.write_text("known")
    with (path / "train" / "SHA256SUMS").open("a") as file:
        file.write(f"{hashlib.sha256(b'known').hexdigest()}  {name}\n")
    assert command("features", path, "--check") == 2
    assert f"SHA256SUMS is damaged: '{hashlib.sha256(b'known').hexdigest()}"[:60] in said(capsys)


KINDS = ["../../evil", "..evil", "evil", "os", "base", "simclr.os", "/tmp/evil", ""]


@pytest.mark.parametrize(
    ("field", "kind"), [*(("objective", kind) for kind in KINDS), ("backbone", "../../evil"), ("data", "_mat")]
)
def test_a_run_names_only_what_wingspan_has(field, kind, begun, tmp_path, monkeypatch, capsys):
    path = shutil.copytree(begun.path, tmp_path / "run")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = json.loads((path / "run.json").read_text())
    run[field]["kind"] = kind
    (path / "run.json").write_text(json.dumps(run))
    before = contents(path)
    assert command("pretrain", "--resume", path) == 2
    assert "run.json" in (told := said(capsys)) and "Traceback" not in told
    assert contents(path) == before and not (tmp_path / "was run").exists() and "evil" not in sys.modules


# ---------------------------------------------------------------------------------------------------------------------- links


@pytest.fixture
def outside(tmp_path) -> Path:
    """What a run's folder has no business with; unchanged when the test ends."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "thesis.tex").write_text("important")
    yield place
    assert contents(place) == {"thesis.tex": b"important"}


@pytest.mark.parametrize("end", ["gone", "part", "damaged"])
def test_links_in_place_of_leftovers_are_not_followed(end, begun, outside, tmp_path, capsys):
    """What is cleared away is cleared away with all that is in it."""
    path = shutil.copytree(begun.path, tmp_path / "run")
    for step in (4, 5, 6):
        (path / "checkpoints" / f".step-{step:09d}.{end}").symlink_to(outside)
    status = command("pretrain", "--resume", path, "--save-seconds", "0")
    assert status == (2 if end == "part" else 0)
    assert end != "part" or f"cannot write {path}/checkpoints/step-000000004: File exists" in said(capsys)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "provenance.json", "done.json", "results/linked.json"])
def test_links_in_place_of_files_are_replaced_not_written_through(name, outside, tmp_path, monkeypatch):
    folder = cut(tiny(), tmp_path / "run", 3, monkeypatch, Sitting(online=False))
    file = folder.path / name
    file.parent.mkdir(exist_ok=True)
    if name in ("done.json", "results/linked.json"):
        file.symlink_to(outside / "thesis.tex")
        write_atomic(file, "{}")
        assert not file.is_symlink() and file.read_text() == "{}"
    else:
        held = file.read_bytes()
        (outside / "thesis.tex").write_bytes(held)
        file.unlink()
        file.symlink_to(outside / "thesis.tex")
        assert command("pretrain", "--resume", folder.path) == 0
        assert not file.is_symlink() and (outside / "thesis.tex").read_bytes() == held
        (outside / "thesis.tex").write_text("important")


def test_links_in_place_of_parts_are_not_written_through(outside, tmp_path):
    """The name of a part can be foreseen: whoever made the folder could have made all of them."""
    (tmp_path / f".facts.json.{os.getpid()}.part").symlink_to(outside / "thesis.tex")
    write_atomic(tmp_path / "facts.json", "{}")
    assert (tmp_path / "facts.json").read_text() == "{}" and not (tmp_path / "facts.json").is_symlink()


def test_a_link_in_place_of_the_lock_is_refused(begun, outside, tmp_path, capsys):
    path = shutil.copytree(begun.path, tmp_path / "run")
    (path / ".lock").unlink()
    (path / ".lock").symlink_to(outside / "made")
    assert command("pretrain", "--resume", path) == 2 and f"cannot write {path}" in said(capsys)
    with pytest.raises(FileNotFoundError):
        (outside / "made").stat()


def test_a_checkpoint_that_is_a_link_is_read_and_never_emptied(begun, finished, outside, tmp_path):
    """Some keep checkpoints on another disk; what lies there is not ours to remove."""
    path = shutil.copytree(begun.path, tmp_path / "run")
    [last] = RunFolder(path).checkpoints()
    elsewhere = tmp_path / "elsewhere"
    last.rename(elsewhere)
    last.symlink_to(elsewhere)
    held = contents(elsewhere)
    assert command("pretrain", "--resume", path, "--save-seconds", "0") == 0
    assert contents(elsewhere) == held


# -------------------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil-of-an-archive", "a/../../../evil", "link"])
def test_an_archive_is_read_and_never_unpacked(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WINGSPAN_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "a" / "b" / "set"
    place.mkdir(parents=True)
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "PNG")
    with tarfile.open(place / "train.tar", "w") as tar:
        if name == "link":
            link = tarfile.TarInfo("0.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        for at in range(12):
            info = tarfile.TarInfo(f"{name}{at}.png")
            info.size = len(held.getvalue())
            tar.addfile(info, io.BytesIO(held.getvalue()))
    before = {name for name in contents(tmp_path) if not name.startswith("cache/")}
    assert len(Hub(path=str(place), size=8).load("train")) >= 10
    assert {name for name in contents(tmp_path) if not name.startswith("cache/")} == before
    assert not Path("/tmp/evil-of-an-archive0.png").exists()


def test_names_of_models_do_not_become_paths(tmp_path, monkeypatch, capsys):
    """A run's folder is named after its backbone, where none is given."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert command("pretrain", *WORDS, "--backbone.timm", "../../../evil") == 2
    assert "evil" in said(capsys) and not contents(tmp_path)
