"""Words of a command that stand for image sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import command, said

from wingspan.data.cifar import Cifar
from wingspan.data.clevr import Clevr
from wingspan.data.hub import Hub
from wingspan.data.imagenet9 import ImageNet9
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.verbs._sets import data_set


def test_paths_hub_ids_and_published_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "flowers"
    here.mkdir()
    assert data_set(str(here), 32) == Hub(path=str(here), size=32)
    assert data_set(f"{here},fit=squash,limit_test=5", 32) == Hub(path=str(here), size=32, fit="squash", limit_test=5)
    assert data_set("./nowhere", 32) == Hub(path="./nowhere", size=32)
    assert data_set("uoft-cs/cifar10", 64) == Hub(name="uoft-cs/cifar10", size=64)
    assert data_set("scenes", 16) == Scenes(size=16)
    assert data_set("imagenet9=bg_challenge", 64) == ImageNet9(folder="bg_challenge", size=64)
    assert data_set("cifar=a/cifar-100-binary,classes=100", 32) == Cifar(folder="a/cifar-100-binary", classes=100, size=32)
    assert data_set("clevr=CLEVR_v1.0", 64).fit == Clevr().fit == "squash"  # type: ignore[attr-defined]
    (tmp_path / "clevr").mkdir()
    assert data_set("clevr", 32) == Hub(path="clevr", size=32), "what lies here goes before a name"
    (tmp_path / "a,b=c").mkdir()
    assert data_set("a,b=c", 32) == Hub(path="a,b=c", size=32), "a folder may be called anything"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("eurosad=x", "'eurosad=x': no image set is called 'eurosad'. Did you mean 'eurosat'?"),
        ("scenes=x", "scenes is not read from a folder"),
        ("eurosat=x,sise=8", "'sise=8' sets no field of this image set. Did you mean 'size'?"),
        ("eurosat=x,classes", "'classes' sets no field of this image set"),
        ("eurosat=x,size=big", "size"),
    ],
)
def test_a_mistake_is_quoted(text: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        data_set(text, 32)
    assert told in str(error.value)


def test_a_published_set_that_is_not_there_is_named_and_the_rest_is_measured(tmp_path: Path, capsys) -> None:
    words = ("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16")
    words += ("--epochs", "1", "--batch", "32", "--seeds", "0", "--jobs", "1", "--objectives", "supervised", "--widths", "8")
    assert command(*words, "--transfers", f"eurosat={tmp_path / 'gone'}", "--out", tmp_path / "study") == 2
    told = said(capsys)
    assert "eurosat" in told and "gone" in told and "report.html" in told
