"""wingspan search: neighbours against brute force, what may be searched for, and every refusal."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_stores
import torch
from PIL import Image
from tiny_runs import command, said
from torch import Tensor, nn

from wingspan import augment, retrieval
from wingspan.backbones.resnet import ResNet
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.loop import pretrain
from wingspan.network import Network
from wingspan.optim import Optim
from wingspan.pictures import network_of
from wingspan.pretrain import Pretrain, Sitting
from wingspan.retrieval import Query, drawn, queries, relocated, search
from wingspan.runtime import Runtime
from wingspan.store.store import Part, Store, open_store

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (210, 50, 40)}
COUNTS = {"train": 12, "test": 4}  # pictures a class


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, a run trained on them, and stores of its features: packed/, fp16/ and sparse/."""
    folder = tmp_path_factory.mktemp("search")
    draw = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for name, colour in COLOURS.items():
            (folder / "photos" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + draw.normal(0, 60, (20, 26, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{index:02}.png")
    train(folder, "run")
    for kind in ("packed", "fp16", "sparse"):
        assert command("features", folder / "run", "--out", folder / kind, "--format", kind) == 0
    return folder


def train(folder: Path, name: str, width: int = 37, seed: int = 0) -> None:
    run = Pretrain(
        data=Hub(path=str(folder / "photos"), size=16, cache=str(folder / "cache")), augment=augment.PRESETS["small"],
        backbone=ResNet(arch="small", width=width, stem="half"), projector="16-8", optim=Optim("adamw", lr=1e-3), epochs=1,
        batch=12, precision="fp32", seed=seed,
    )  # fmt: skip
    pretrain(run, folder / name, Sitting(device="cpu"))


def opened(place: Path, kind: str = "packed") -> Store:
    return open_store(place / kind)


def distances(part: Part, rows: Tensor, by: str) -> Tensor:
    """(N, n) in float64, the slow and obvious way."""
    h = torch.cat([h for h, _ in part.batches(5)]).double()
    if by == "hamming":
        above = h > 0
        return torch.stack([(above != above[row]).sum(1).double() for row in rows.tolist()], 1)
    return 1 - torch.stack([torch.cosine_similarity(h, h[row].expand_as(h), dim=1) for row in rows.tolist()], 1)


# ----------------------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize(("kind", "by"), [("packed", "hamming"), ("fp16", "hamming"), ("fp16", "cosine"), ("sparse", "cosine")])
def test_neighbours_are_those_of_brute_force_without_the_row_itself(place: Path, kind: str, by: str) -> None:
    store = opened(place, kind)
    found = search(store, ["train:0-35"], top=7, by=by)
    far = distances(store.part("train"), torch.arange(36), by)
    far.fill_diagonal_(torch.inf)
    wanted = far.sort(dim=0, stable=True)
    assert torch.allclose(found.neighbours.distances.double(), wanted.values[:7].T, atol=1e-5)
    assert not (found.neighbours.indices == torch.arange(36).unsqueeze(1)).any()
    if by == "hamming":  # of equally near rows the first
        assert torch.equal(found.neighbours.indices, wanted.indices[:7].T)


def test_auto_takes_bits_of_a_packed_store_and_values_of_others(place: Path) -> None:
    assert search(opened(place), ["test:0"]).by == "hamming"
    assert search(opened(place, "fp16"), ["test:0"]).by == "cosine"


def test_a_row_is_left_out_though_many_twins_come_before_it(tmp_path: Path) -> None:
    twins = small_stores.store(tmp_path / "twins", torch.ones(9, 24).half())
    assert search(twins, ["test:7", "test:1"], top=3).neighbours.indices.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_more_than_there_are_gives_all_and_says_so(place: Path) -> None:
    found = search(opened(place), ["test:0-2"], top=50, split="test")
    assert [sorted([row, *rows]) for row, rows in enumerate(found.neighbours.indices.tolist())] == [list(range(12))] * 3
    assert found.notes == ("--top 50: split 'test' holds 12 rows; all 11 that can be neighbours are given.",)
    assert search(opened(place), ["test:0"], top=36).notes == ()


def test_a_picture_finds_the_row_that_was_made_of_it_and_stands_beside_rows_in_order(place: Path) -> None:
    store = opened(place)
    train = place / "photos" / "train"
    row = next(at for at, path in enumerate(store.part("train").paths or ()) if path.endswith("green/05.png"))
    found = search(store, ["test:3", train / "green" / "05.png", "train:2"], top=2)
    assert [query.split for query in found.queries] == ["test", "", "train"]
    assert int(found.neighbours.indices[1, 0]) == row
    assert int(found.neighbours.distances[1, 0]) <= 1  # a sum over another batch may round otherwise
    for at, alone in ((0, "test:3"), (2, "train:2")):
        assert torch.equal(found.neighbours.indices[at], search(store, [alone], top=2).neighbours.indices[0])


def test_many_queries_are_searched_a_few_at_a_time_and_alike(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [place / "photos" / "test" / name / "01.png" for name in COLOURS]
    asked = [pictures[0], "test:0-3", pictures[1], "train:5-9", pictures[2]]
    whole = search(opened(place), asked, top=4)
    monkeypatch.setattr(retrieval, "_AT_ONCE", 3 * 5)  # three codes
    parts = search(opened(place), asked, top=4)
    assert len(parts.queries) == 12 and torch.equal(parts.neighbours.indices, whole.neighbours.indices)
    assert torch.equal(parts.neighbours.distances, whole.neighbours.distances)


def test_agreement_is_counted_by_hand_and_chance_is_the_classes_share(tmp_path: Path) -> None:
    h = torch.zeros(6, 16).half()
    h[:, 0] = 1
    h[3:, 1:9] = 1
    kinds = torch.tensor([0, 0, 1, 1, 1, 1])
    store = small_stores.store(tmp_path / "s", h, labels={"kind": (kinds, ("a", "b"))})
    found = search(store, ["test:0", "test:3"], top=2)  # neighbours 1, 2 of class a, b; and 4, 5 of class b, b
    agreement = found.agreement()
    assert agreement is not None
    assert (agreement.same, agreement.of, agreement.chance) == (3, 4, pytest.approx((1 / 5 + 3 / 5) / 2))
    assert [found.same(0, 0), found.same(0, 1)] == [True, False]


def test_without_labels_nothing_is_said_of_classes(tmp_path: Path) -> None:
    found = search(small_stores.store(tmp_path / "s", small_stores.features(20, 16)), ["test:0"])
    assert found.task is None and found.agreement() is None and found.same(0, 0) is None


# ------------------------------------------------------------------------------------------------------- what is searched for


def test_rows_are_read_as_written(place: Path) -> None:
    def rows(word: str) -> list[tuple[str, int]]:
        return [(query.split, query.row) for query in queries(opened(place), [word])]

    assert rows("test:7") == [("test", 7)]
    assert rows("test:2-4") == [("test", 2), ("test", 3), ("test", 4)]
    assert rows("train:3,9-10,1") == [("train", 3), ("train", 9), ("train", 10), ("train", 1)]
    assert rows("test:" + ",".join(["1"] * 300)) == [("test", 1)] * 300  # longer than a file's name may be


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("test:", "'' is no row"), ("test:a", "'a' is no row"), ("test:-1", "'-1' is no row"), ("test:1-", "'1-' is no row"),
        ("test:1,,2", "'' is no row"), ("test:1--2", "'1--2' is no row"), ("test:1-2-3", "'1-2-3' is no row"),
        ("test:1.5", "'1.5' is no row"), ("test:²", "'²' is no row"), ("test:5-3", "write 3-5"),
        ("test:12", "rows 0 to 11"), ("test:3-99", "rows 0 to 11"), ("valid:3", "no split 'valid'. Known: test, train."),
        ("photo.jpg", "'photo.jpg' is no file"), ("a/b:3", "'a/b:3' is no file"), ("17", "written test:17"),
    ],
)  # fmt: skip
def test_what_is_neither_a_file_nor_rows_is_quoted(place: Path, word: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        queries(opened(place), [word])
    assert word[:8] in str(refused.value) and told in str(refused.value)


def test_a_file_wins_over_rows_of_its_name(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert queries(opened(place), ["test:1"]) == (Query("test:1", "test", 1),)
    Path("test:1").write_bytes(b"")
    assert queries(opened(place), ["test:1"]) == (Query("test:1"),)
    with pytest.raises(UserError, match="is a folder"):
        queries(opened(place), ["."])


def test_rows_drawn_are_of_the_test_split_and_a_function_of_the_seed(place: Path) -> None:
    store = opened(place)
    assert drawn(store, 1) == drawn(store, 1) != drawn(store, 2)
    assert len(set(drawn(store))) == 8 and {query.split for query in drawn(store)} == {"test"}


# ------------------------------------------------------------------------------------------------------------------- refusals


def test_what_is_no_picture_is_named_all_at_once(place: Path, tmp_path: Path) -> None:
    good = (place / "photos" / "train" / "red" / "00.png").read_bytes()
    for name, data in (("note.txt", b"hello"), ("cut.png", good[:300]), ("empty.jpg", b""), ("fine.png", good)):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as refused:
        search(opened(place), sorted(tmp_path.iterdir()))
    told = str(refused.value)
    assert "3 of 4 pictures" in told and "note.txt (not an image of a known format)" in told
    assert "empty.jpg (no bytes)" in told and "cut.png (" in told and "fine.png" not in told


def test_cosine_on_packed_bits_and_what_a_store_lacks_are_refused(place: Path) -> None:
    store = opened(place)
    for settings, told in (
        ({"by": "cosine"}, "--format fp16"), ({"top": 0}, "--top 0"), ({"task": "colour"}, "--task 'colour'"),
        ({"split": "valid"}, "no split 'valid'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            search(store, ["test:0"], **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing to search for"):
        search(store, [])


def test_another_model_is_refused(place: Path) -> None:
    store = opened(place)
    assert network_of(store).name == "run"
    train(place, "other", seed=1, width=21)
    with pytest.raises(UserError, match=r"another model.*fingerprint .* width 37 in the store, 21 there"):
        network_of(store, place / "other")
    later = place / "later"
    shutil.copytree(place / "run", later)
    last = next((later / "checkpoints").iterdir())
    further = last.rename(last.with_name("step-000000009"))
    with pytest.raises(UserError, match=r"another model.*: step 3 in the store, 9 there\."):
        network_of(store, later)
    further.rename(last)
    assert network_of(store, later).name == "later"
    weights = last / "learner.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(UserError, match=r"another model.*: weights \w{12} in the store, \w{12} there\."):
        network_of(store, later)


def test_a_module_of_another_width_or_without_the_layer_is_refused(place: Path) -> None:
    picture = place / "photos" / "test" / "red" / "00.png"
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    other = Network(module, augment.PRESETS["small"], Runtime("cpu", "fp32"), name="five")
    with pytest.raises(UserError, match="holds h of width 37, and five gives 5"):
        search(opened(place), [picture], network=other)
    store = opened(place)
    of_layer = replace(store, manifest=replace(store.manifest, layer="projector 1"))
    with pytest.raises(UserError, match="five has no layer 'projector 1'"):
        search(of_layer, [picture], network=other)


def test_a_run_that_is_gone_is_asked_for(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "packed", tmp_path / "codes")
    text = (tmp_path / "codes" / "store.json").read_text()
    (tmp_path / "codes" / "store.json").write_text(text.replace(str(place / "run"), str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"gone' holds no run any more: say with --run"):
        network_of(open_store(tmp_path / "codes"))
    assert network_of(open_store(tmp_path / "codes"), place / "run").name == "run"
    nowhere = small_stores.store(tmp_path / "s", small_stores.features(9, 16))
    with pytest.raises(UserError, match="lie in no folder"):
        relocated(nowhere, "x")


# ---------------------------------------------------------------------------------------------------------------- the command


def test_one_command_prints_neighbours_and_draws_them(place: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "seen.png"
    picture = place / "photos" / "test" / "red" / "00.png"
    capsys.readouterr()
    assert command("search", place / "packed", "test:0,5", picture, "--top", "3", "--out", out) == 0
    told = said(capsys)
    found = search(opened(place), ["test:0,5", picture], top=3)
    assert f"{found.agreement().same} of 6 neighbours share their query's class" in told
    assert f"train:{int(found.neighbours.indices[0, 0])}" in told and found.distance(2, 2) in told and f"Wrote {out}" in told
    assert Image.open(out).format == "PNG"


def test_json_on_stdout_is_what_the_api_gives_and_nothing_else(place: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    words = ("search", place / "packed", "test:1-2", "--in", "test", "--top", "4", "--json", "--out", tmp_path / "n.png")
    assert command(*words) == 0
    found = search(opened(place), ["test:1-2"], split="test", top=4)
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(json.dumps(found.to_json()))
    first = value["queries"][0]
    assert (first["query"], first["row"], value["by"], value["width"]) == ("test:1", 1, "hamming", 37)
    assert first["path"].endswith(".png") and first["labels"]["label"] in COLOURS
    for rank, neighbour in enumerate(first["neighbours"]):
        assert neighbour["rank"] == rank + 1 and neighbour["row"] == int(found.neighbours.indices[0, rank])
        assert neighbour["share"] == pytest.approx(neighbour["bits"] / 37)
        assert neighbour["bits"] == int(found.neighbours.distances[0, rank])


def test_without_a_query_rows_are_drawn_and_named(place: Path, capsys) -> None:
    capsys.readouterr()
    assert command("search", place / "packed", "--out", "", "--seed", "3") == 0
    rows = ",".join(str(query.row) for query in drawn(opened(place), 3))
    assert f"8 rows drawn with --seed 3, test:{rows}" in said(capsys)


def test_when_images_are_gone_neighbours_are_printed_and_the_picture_is_said_to_lack(
    place: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(place / "packed", tmp_path / "codes")
    text = (tmp_path / "codes" / "store.json").read_text()
    (tmp_path / "codes" / "store.json").write_text(text.replace(str(place / "photos"), str(tmp_path / "gone")))
    capsys.readouterr()
    words = ("search", tmp_path / "codes", "test:0", "--top", "2", "--out", tmp_path / "n.png")
    assert command(*words) == 2
    told = said(capsys)
    assert "of 2 neighbours share" in told and "the picture was not made" in told and "gone" in told and "--data" in told
    assert not (tmp_path / "n.png").exists()
    assert command(*words, "--data", place / "photos") == 0 and (tmp_path / "n.png").exists()


def test_what_stands_in_the_way_ends_with_status_2(place: Path, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "neighbours.png"
    shutil.copy(place / "photos" / "test" / "red" / "00.png", picture)
    shutil.copytree(place / "packed", tmp_path / "short")
    shard = tmp_path / "short" / "test" / "00000.bits"
    shard.write_bytes(shard.read_bytes()[:-1])
    before = picture.read_bytes()
    for words, told in (
        ((), "which store?"), ((tmp_path / "none",), "is no store of features"), ((tmp_path / "short",), "truncated"),
        ((place / "packed", picture, "--out", picture), "one of the pictures"),
        ((place / "packed", "test:0", "--out", tmp_path / "n.jpg"), "end in .png"),
        ((place / "packed", "test:0", "--out", picture / "n.png"), "cannot write"),
        ((place / "packed", "test:0", "--by", "cosine"), "packed bits"),
    ):  # fmt: skip
        capsys.readouterr()
        assert command("search", *words) == 2
        assert told in said(capsys)
    assert picture.read_bytes() == before
