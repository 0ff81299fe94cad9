"""Whatever a user can get wrong ends with status 2, a message that quotes it and says what to do, and nothing lost."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_runs import WORDS, command, contents, said, tiny

from wingspan import spec
from wingspan.pretrain import Pretrain, prepare
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

TINY = " ".join(WORDS)
PHOTOS = "pretrain --recipe small --width 16 --projector 32-16 --batch 4 --epochs 1 --out {tmp}/new --data.path {tmp}/photos"
TABLE = "pretrain --recipe small --width 16 --batch 4 --data.path {tmp}/table.parquet"


# ------------------------------------------------------------------------------------------- what is wrong before a command


def picture(seed: int, kind: str = "JPEG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(held, kind)
    return held.getvalue()


def photos(*classes: str, count: int = 10) -> Callable[[Path], None]:
    """A folder of pictures for each class; '.' for no class folders."""

    def make(tmp: Path) -> None:
        for number, name in enumerate(classes):
            (tmp / "photos" / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (tmp / "photos" / name / f"{index}.jpg").write_bytes(picture(100 * number + index))

    return make


def truncated_photo(tmp: Path) -> None:
    photos("cat", "dog")(tmp)
    file = tmp / "photos" / "cat" / "3.jpg"
    file.write_bytes(file.read_bytes()[:200])


def empty_folder(tmp: Path) -> None:
    (tmp / "photos").mkdir()


def no_image_column(tmp: Path) -> None:
    pq.write_table(pa.table({"pixels": [1.0, 2.0], "label": [0, 1]}), tmp / "table.parquet")


def one_class(tmp: Path) -> None:
    pq.write_table(pa.table({"image": [picture(seed) for seed in range(8)], "label": ["cat"] * 8}), tmp / "table.parquet")


def a_file(tmp: Path) -> None:
    (tmp / "file").write_text("kept")


def edited(path: str, value: object) -> Callable[[Path], None]:
    """run.json with one setting changed by hand."""

    def edit(tmp: Path) -> None:
        file = tmp / "run" / "run.json"
        run = json.loads(file.read_text())
        *above, last = path.split(".")
        place = run
        for key in above:
            place = place[key]
        place[last] = value
        file.write_text(json.dumps(run))

    return edit


def foreign(run: Pretrain) -> Callable[[Path], None]:
    """The checkpoint of another run in place of the run's own."""

    def swap(tmp: Path) -> None:
        shutil.rmtree(tmp / "run" / "checkpoints")
        prepare(run, run.data.load("train"), Runtime("cpu", "fp32")).save(RunFolder(tmp / "run"), spec.fingerprint(run))

    return swap


def cut_to(name: str, share: float) -> Callable[[Path], None]:
    """A file of the run that ends too early."""

    def shorten(tmp: Path) -> None:
        (file,) = (tmp / "run").rglob(name)
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    return shorten


def nothing(tmp: Path) -> None:
    pass


# --------------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    name: str
    words: str  # {tmp}, {run}: a begun run, {done}: a finished one
    told: tuple[str, ...]
    before: Callable[[Path], None] = nothing


NAMES = [
    Case("verb", "pretrian", ("'pretrian'", "'pretrain'", "wingspan --help")),
    Case("flag", f"pretrain {TINY} --epohcs 3 --out {{tmp}}/new", ("--epohcs", "--epochs", "wingspan pretrain --help")),
    Case(
        "flag of an objective",
        f"pretrain {TINY} --objective.temprature 1",
        ("--objective.temprature", "--objective.temperature"),
    ),
    Case("flag of hub data", "describe --data hub --data.pth x", ("--data.pth", "--data.path")),
    Case("stray word", f"pretrain {TINY} stray", ("stray", "wingspan pretrain --help")),
    Case("study", "study scnes", ("'scnes'", "'scenes'", "wingspan study --list")),
    Case("scale", "study scenes --scale smal", ("'smal'", "'small'")),
    Case("scale without value", "study scenes --scale", ("--scale needs a value",)),
    Case("recipe", "pretrain --recipe smal", ("'smal'", "'small'")),
    Case("objective", f"pretrain {TINY} --objective simclrr", ("'simclrr'", "'simclr'")),
    Case("objective without value", f"pretrain {TINY} --objective --epochs 3", ("--objective needs a value", "'--epochs'")),
    Case("backbone", "describe --backbone resnet51", ("'resnet51'", "'resnet50'")),
    Case("architecture", "describe --backbone.arch resnet51", ("'resnet51'", "'resnet50'", "--backbone.arch")),
    Case("data", "show --data scense", ("'scense'", "'scenes'")),
    Case("data options of two sets", f"pretrain {TINY} --data.path x", ("--data.path is of hub", "--data.train is of scenes")),
    Case("augmentations", "show --augment smal", ("'smal'", "'small'")),
    Case("measure", "measure {done} --measures liner", ("'liner'", "'linear'")),
    Case("no run to measure", "measure --measures linear", ("which run?", "wingspan measure RUN")),
    Case("study's objective", "study scenes --objectives simclrr --dry-run", ("'simclrr'", "'simclr'")),
    Case("study's seed by flag", "study scenes --seed 3 --dry-run", ("seed", "--seeds", "would be lost")),
    Case("study's width by flag", "study scenes --width 7 --dry-run", ("backbone.width", "--widths", "would be lost")),
    Case("study's loss", "study scenes --objectives supervised --objective supervised", ("objective", "would be lost")),
    Case(
        "study's objective by flag", "study scenes --objective vicreg --dry-run", ("objective", "--objectives", "would be lost")
    ),
]
NUMBERS = [
    Case("width 0", "describe --width 0", ("width 0 ", "positive integer", "--width 2048")),
    Case("width negative", "describe --width -3", ("width -3 ", "positive integer")),
    Case("width in words", "describe --width wide", ("'wide'", "positive integer")),
    Case("width broken", "describe --width=2.5", ("'2.5'", "positive integer")),
    Case("width of a study", "study scenes --widths 8 0 --dry-run", ("width 0 ", "positive integer")),
    Case("widths in words", "study scenes --widths wide --dry-run", ("--widths", "'wide'", "INT")),
    Case("projector cut", f"pretrain {TINY} --projector 8192-", ("'8192-'", "'8192-8192-8192'")),
    Case("projector in letters", f"pretrain {TINY} --projector a-b", ("'a-b'", "positive integers")),
    Case("projector 0", f"pretrain {TINY} --projector 0", ("'0'", "positive integers")),
    Case(
        "batch above the data", f"pretrain {TINY} --batch 49 --out {{tmp}}/new", ("--batch 49", "48 training images", "smaller")
    ),
    Case("epochs 0", f"pretrain {TINY} --epochs 0", ("--epochs 0", "at least 1")),
    Case("epochs in words", f"pretrain {TINY} --epochs two", ("--epochs", "'two'", "INT")),
    Case("accumulate", f"pretrain {TINY} --accumulate 5", ("--accumulate 5", "--batch 16")),
    Case("one image at a time", f"pretrain {TINY} --accumulate 16", ("at least 2 images", "--batch", "--accumulate")),
    Case("learning rate", f"pretrain {TINY} --optim.lr -1", ("-1.0", "not positive", "--optim.lr")),
    Case("learning rate nan", f"pretrain {TINY} --optim.lr nan", ("nan", "not positive", "--optim.lr")),
    Case("temperature", f"pretrain {TINY} --objective.temperature 0", ("temperature 0.0", "--objective.temperature 0.15")),
    Case("precision", f"pretrain {TINY} --precision fp16", ("'fp16'", "'bf16'", "--precision")),
    Case("optimiser", f"pretrain {TINY} --optim.name adam", ("'adam'", "'adamw'", "--optim.name")),
    Case("device", f"pretrain {TINY} --device gpu --out {{tmp}}/new", ("'gpu'", "auto, cpu or cuda")),
    Case("rows of a sheet", "show --rows 0 --out {tmp}/views.png", ("0", "at least one")),
]
IMAGES = [
    Case("missing folder", PHOTOS, ("{tmp}/photos",)),
    Case("empty folder", PHOTOS, ("{tmp}/photos",), empty_folder),
    Case("neither name nor path", "show --data hub --out {tmp}/v.png", ("--data.name", "--data.path", "neither")),
    Case("name and path", "show --data.name a/b --data.path c --out {tmp}/v.png", ("'a/b'", "'c'", "one of them")),
    Case("one class", f"{TABLE} --objective supervised --out {{tmp}}/new", ("two classes", "has 1", "simclr"), one_class),
    Case("one class folder", f"{PHOTOS} --objective supervised", ("no labels", "a folder of class folders"), photos("cat")),
    Case("no labels", f"{PHOTOS} --objective supervised", ("no labels", "--data.label"), photos(".")),
    Case("no image column", "show --data.path {tmp}/table.parquet", ("no image column", "pixels", "label"), no_image_column),
    Case("truncated JPEG", PHOTOS, ("1 of ", "3.jpg' (Truncated", "--data.on-bad skip"), truncated_photo),
]
FOLDERS = [
    Case("misspelt key", "pretrain --resume {run}", ("run.json", "'epohcs'", "'epochs'"), edited("epohcs", 3)),
    Case("wrong type in run.json", "pretrain --resume {run}", ("run.json", "'two'", "int"), edited("epochs", "two")),
    Case("width edited", "measure {done}", ("run.json", "edited", "put them back", "--out"), edited("backbone.width", 24)),
    Case("objective edited", "pretrain --resume {run}", ("run.json", "edited"), edited("objective", {"kind": "vicreg"})),
    Case("run.json cut", "pretrain --resume {run}", ("run.json", "damaged"), cut_to("run.json", 0.5)),
    Case("checkpoint of another width", "measure {run}", ("24", "16", "width"), foreign(tiny(backbone__width=24))),
    Case(
        "foreign checkpoint", "pretrain --resume {run}", ("step-", "other settings", "--out"), foreign(tiny(objective="vicreg"))
    ),
    Case("weights cut", "pretrain --resume {run}", ("step-000000003", "damaged", "Remove"), cut_to("learner.safetensors", 0.5)),
    Case("weights cut, measured", "measure {run}", ("learner.safetensors",), cut_to("learner.safetensors", 0.5)),
    Case("optimiser cut", "pretrain --resume {run}", ("step-000000003", "damaged", "Remove"), cut_to("optimiser.pt", 0.5)),
    Case("state cut", "pretrain --resume {run}", ("state.json", "damaged"), cut_to("state.json", 0.5)),
    Case(
        "measured too early",
        "measure {tmp}/run",
        ("no checkpoint", "--resume"),
        lambda tmp: shutil.rmtree(tmp / "run/checkpoints"),
    ),
    Case("resume with other epochs", "pretrain --resume {run} --epochs 9", ("epochs: 2 -> 9", "--out")),
    Case("resume elsewhere", "pretrain --resume {run} --out {tmp}/new", ("--resume {run}", "--out {tmp}/new")),
    Case("resume and recipe", "pretrain --resume {run} --recipe small", ("--recipe small", "leave out")),
    Case("resume nothing", "pretrain --resume {tmp}", ("{tmp}/run.json", "a run's folder?")),
    Case("resume a file", "pretrain --resume {tmp}/file", ("{tmp}/file", "a run's folder?"), a_file),
    Case(
        "folder of another run",
        f"pretrain {TINY} --epochs 9 --out {{run}}",
        ("epochs: 2 -> 9", "--resume {run}", "another --out"),
    ),
    Case("folder of a begun run", f"pretrain {TINY} --out {{run}}", ("begun before", "wingspan pretrain --resume {run}")),
    Case("measured with other epochs", "measure {done} --epochs 5", ("Unrecognized options", "--epochs")),
    Case("run below a file", f"pretrain {TINY} --out {{tmp}}/file/run", ("{tmp}/file/run", "--out"), a_file),
    Case("picture below a file", "show --recipe small --data.train 20 --out {tmp}/file/v.png", ("{tmp}/file/v.png",), a_file),
    Case("study below a file", "study scenes --scale smoke --out {tmp}/file/s", ("{tmp}/file/s", "--out"), a_file),
]


@pytest.mark.parametrize("case", [*NAMES, *NUMBERS, *IMAGES, *FOLDERS], ids=lambda case: case.name)
def test_a_mistake_is_explained(case, begun, finished, tmp_path, capsys):
    source = finished if "{done}" in case.words else begun
    shutil.copytree(source.path, tmp_path / "run")
    case.before(tmp_path)
    before = contents(tmp_path)
    places = {"tmp": tmp_path, "run": tmp_path / "run", "done": tmp_path / "run"}
    status = command(*case.words.format(**places).split())
    told = said(capsys)
    assert status == 2, told
    for fragment in case.told:
        assert fragment.format(**places) in told
    assert "Traceback" not in told
    after = contents(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert not (tmp_path / "new" / "run.json").exists()  # what could not begin leaves its folder free


def test_broken_images_are_skipped_when_asked(tmp_path, capsys):
    truncated_photo(tmp_path)
    assert command(*PHOTOS.format(tmp=tmp_path).split(), "--data.on-bad", "skip") == 0, said(capsys)
    assert RunFolder(tmp_path / "new").done()


def test_settings_can_be_mended_in_the_same_folder(tmp_path, capsys):
    out = ["--out", tmp_path / "run"]
    assert command("pretrain", *WORDS, "--batch", "49", *out) == 2
    assert command("pretrain", *WORDS, "--optim.lr", "1e30", *out) == 2
    assert command("pretrain", *WORDS, *out) == 0, said(capsys)
