"""Files that would run code if they were unpickled, wherever Wingspan reads weights: nothing in them is carried out."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import WORDS, command, contents, cut, learner, said, same, tiny

import wingspan
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder


class Payload:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def malicious(how: str, mark: Path) -> bytes:
    if how.startswith("protocol"):
        return pickle.dumps({"state_dict": Payload(mark)}, protocol=int(how[-1]))
    held = io.BytesIO()
    torch.save({"state_dict": Payload(mark)}, held, _use_new_zipfile_serialization=how == "archive")
    return held.getvalue()


HOW = ["protocol 0", "protocol 4", "archive", "legacy"]


@pytest.fixture
def mark(tmp_path):
    """Gone when the test ends, or something was run."""
    file = tmp_path / "was run"
    yield tmp_path / "was\\ run"
    assert not file.exists(), "code of the file was run"


@pytest.mark.parametrize("how", HOW)
def test_the_payload_would_run(how, tmp_path):
    """Else the other tests would show nothing."""
    with contextlib.suppress(RuntimeError):  # a bare pickle is run, then found not to be torch's
        torch.load(io.BytesIO(malicious(how, tmp_path / "mark")), weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> RunFolder:
    """Stopped after four of six steps, with two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        return cut(tiny(), tmp_path_factory.mktemp("two") / "run", 4, patch, Sitting(save_seconds=0))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["optimiser.pt", "learner.safetensors"])
def test_in_place_of_a_checkpoint_it_is_refused(name, how, two, mark, tmp_path, capsys):
    """Not gone round, either: the checkpoint before is whole, but someone has been here."""
    path = shutil.copytree(two.path, tmp_path / "run")
    file = RunFolder(path).checkpoints()[-1] / name
    file.write_bytes(malicious(how, mark))
    before = contents(path)
    status = command("pretrain", "--resume", path)
    told = said(capsys)
    if name == "learner.safetensors" and how == "protocol 0":  # text, which looks like nothing in particular: damaged
        assert status == 0 and f"{file} is damaged" in told
        return
    assert status == 2 and f"{file} holds more than tensors and is not opened, since that could run code" in told
    assert "weights_only" not in told and contents(path) == before


@pytest.mark.parametrize("how", HOW)
def test_in_place_of_the_online_probe_it_is_left_out(how, two, finished, mark, tmp_path, capsys):
    path = shutil.copytree(two.path, tmp_path / "run")
    (RunFolder(path).checkpoints()[-1] / "online.pt").write_bytes(malicious(how, mark))
    assert command("pretrain", "--resume", path) == 0
    told = said(capsys)
    assert "it holds more than tensors" in told and "weights_only" not in told
    assert same(learner(RunFolder(path)), learner(finished))


@pytest.mark.parametrize(
    "words", ["measure {run} --measures knn", "features {run} --out {tmp}/f", "export {run} --to safetensors"]
)
def test_readers_of_a_run_refuse_it(words, two, mark, tmp_path, capsys):
    path = shutil.copytree(two.path, tmp_path / "run")
    file = RunFolder(path).checkpoints()[-1] / "learner.safetensors"
    file.write_bytes(malicious("archive", mark))
    assert command(*words.format(run=path, tmp=tmp_path).split()) == 2
    assert str(file) in said(capsys)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_as_first_weights_it_is_refused(suffix, how, mark, tmp_path, capsys):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(malicious(how, mark))
    words = ["pretrain", *WORDS, "--start.weights", file, "--out", tmp_path / "run"]
    assert command(*words) == 2 and str(file) in said(capsys)
    assert not (tmp_path / "run" / "run.json").exists()


def test_beside_the_pictures_of_an_archive_it_is_not_opened(mark, tmp_path):
    """WebDataset archives may hold anything under a picture's name, arrays of objects and pickles among it."""
    from PIL import Image

    from wingspan.data.hub import Hub
    from wingspan.errors import UserError

    evil, objects = malicious("protocol 4", mark), io.BytesIO()
    np.save(objects, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for at in range(4):
            for kind, data in (("png", picture.getvalue()), ("npy", objects.getvalue()), ("pyd", evil), ("pth", evil),
                               ("pkl", evil), ("pickle", evil), ("cls", b"1")):  # fmt: skip
                info = tarfile.TarInfo(f"{at}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    try:
        Hub(path=str(tmp_path), size=8).load("train")
    except UserError as error:
        assert "train.tar" in str(error)


HOUSE = Path(wingspan.__file__).parent


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    calls = [
        node for file in HOUSE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)
    ]
    assert len(calls) > 1000
    for node in calls:
        call, text = ast.unparse(node.func), ast.unparse(node)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert call not in ("eval", "exec", "pickle.load", "pickle.loads", "os.system", "os.popen"), text
        assert not (call.endswith("torch.load") and given.get("weights_only") != "True"), text
        for word in ("allow_pickle", "shell", "trust_remote_code"):
            assert given.get(word, "False") == "False", text
