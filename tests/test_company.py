"""From words to encoders: the same features as measuring sees, names that tell runs apart, images as encoders see them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import command, tiny

from wingspan import augment, features
from wingspan.bits import unpack
from wingspan.company import Company, gather, pictures
from wingspan.data.base import ImageSet, InMemory
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes, render
from wingspan.errors import UserError
from wingspan.features import extract
from wingspan.loop import pretrain
from wingspan.members import members
from wingspan.network import load_network
from wingspan.pretrain import Sitting, prepare
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.shrunk import Shrunk, shrunk
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime

CPU = Runtime("cpu", "fp32")


@pytest.fixture(scope="module")
def place(finished: RunFolder, begun: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one data set: narrow and wide, another seed, other settings, narrow half way; stores of the narrow one."""
    folder = tmp_path_factory.mktemp("company")
    shutil.copytree(finished.path, folder / "narrow")
    shutil.copytree(begun.path, folder / "halfway")
    changes = {"wide": {"backbone__width": 24}, "seed": {"seed": 1, "epochs": 1}, "lr": {"optim__lr": 3e-3, "epochs": 1}}
    for name, each in changes.items():
        pretrain(tiny(**each), folder / name, Sitting(device="cpu"))
    for kind in ("packed", "sparse"):
        assert command("features", folder / "narrow", "--out", folder / kind, "--format", kind, "--device", "cpu") == 0
    return folder


def company(*words: Path, **changes: object) -> Company:
    (made,) = gather([str(word) for word in words], **{"side": 16, "references": False, "device": "cpu", **changes})
    return made


def names(made: Company) -> list[str]:
    return [encoder.name for encoder in made.encoders]


def features_of(folder: Path, layer: str = "h") -> tuple[torch.Tensor, torch.Tensor]:
    run, network = load_network(RunFolder(folder), CPU)
    train, test = (
        extract(network.at(16), run.data.load(split), layers=True, label="oracle")[layer] for split in ("train", "test")
    )
    return train, test


# ----------------------------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("layer", ["h", "projector 1"])
def test_an_encoder_holds_what_the_run_gives_standardised_by_the_training_images(place: Path, layer: str) -> None:
    (encoder,) = company(place / "wide", layer=layer).encoders
    train, test = features_of(place / "wide", layer)
    mean, spread = train.double().mean(0), train.double().std(0, unbiased=False)
    alive = spread > 1e-6
    wanted = torch.where(alive, (test.double() - mean) / spread.clamp_min(1e-6), 0.0)
    torch.testing.assert_close(encoder.test.rows(slice(None)).double(), wanted, atol=2e-3, rtol=1e-3)
    assert (encoder.D, encoder.seed, encoder.run, encoder.reference) == (train.shape[1], 0, "wide", False)


def test_encode_gives_what_the_test_rows_hold(place: Path) -> None:
    made = company(place / "narrow", place / "packed", place / "sparse", references=True)
    pixels = made.subject.splits["test"].images.batch(torch.arange(32))
    for encoder in made.encoders:
        assert encoder.encode is not None
        torch.testing.assert_close(encoder.read(encoder.encode(pixels)), encoder.test.rows(slice(None)), atol=2e-2, rtol=1e-2)


def test_a_packed_store_is_an_encoder_of_bits(place: Path) -> None:
    made = company(place / "packed", place / "wide")
    packed = next(encoder for encoder in made.encoders if "packed" in encoder.name)
    train, _ = features_of(place / "narrow")
    assert (packed.name, packed.D, packed.train.h.shape[1]) == ("simclr, packed D=16", 16, 2)
    assert torch.equal(unpack(packed.train.h, 16), (train > 0).float())


def test_a_store_whose_run_is_gone_is_drawn_without_its_network(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "narrow", tmp_path / "moved")
    assert command("features", tmp_path / "moved", "--out", tmp_path / "codes", "--format", "fp16", "--device", "cpu") == 0
    shutil.rmtree(tmp_path / "moved")
    made = company(tmp_path / "codes", references=True)
    assert made.encoders[0].encode is None and made.encoders[1].encode is not None  # the untrained one is built anew
    assert "Pictures from outside cannot be drawn" in made.notes[0]
    assert company(tmp_path / "codes").encoders[0].identity == company(place / "narrow").encoders[0].identity


@pytest.mark.parametrize("where", ["named", "in the run"])
def test_features_that_a_store_beside_the_run_holds_are_not_extracted_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fresh = company(place / "narrow").encoders[0]
    run = shutil.copytree(place / "narrow", tmp_path / "narrow")
    if where == "in the run":
        shutil.copytree(place / "sparse", run / "features")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("extracted")

    monkeypatch.setattr(features, "extract", never)
    stores = [] if where == "in the run" else [place / "packed", place / "sparse"]
    made = company(run, stores=stores)
    assert "Features of simclr D=16 are those that" in made.notes[0]
    assert torch.equal(made.encoders[0].train.h, fresh.train.h) and made.encoders[0].identity == fresh.identity


def test_a_store_of_other_weights_or_of_bits_is_not_taken_for_a_run(place: Path) -> None:
    made = company(place / "wide", place / "halfway", stores=[place / "sparse", place / "packed"])
    assert made.notes == ()


def test_references_are_the_widest_network_before_training_and_nothing(place: Path) -> None:
    *_, untrained, none = company(place / "narrow", place / "wide", references=True).encoders
    run, network = load_network(RunFolder(place / "wide"), CPU)
    first = prepare(run, run.data.load("train"), CPU).learner
    network = dataclasses.replace(network, backbone=first.backbone, projector=first.projector).at(16)
    assert torch.equal(untrained.test.h, extract(network, run.data.load("test"), label="oracle")["h"])
    assert (untrained.name, untrained.group, none.name, none.group) == ("untrained", "untrained", *["no information"] * 2)
    assert untrained.reference and none.reference
    assert none.train.h.shape == (48, 1) and not none.train.rows(slice(None)).any()
    assert none.encode is not None and torch.equal(none.encode(torch.zeros(3, 3, 16, 16)), torch.zeros(3, 1))


# -------------------------------------------------------------------------------------------------------------------- names


def test_runs_are_named_by_objective_and_width_and_when_they_clash_by_seed_then_settings_then_step(place: Path) -> None:
    assert names(company(place / "wide", place / "narrow")) == ["simclr D=16", "simclr D=24"]
    # epochs differ as well, but a seed tells the two apart
    assert names(company(place / "narrow", place / "seed", place / "wide")) == [
        "simclr D=16 seed=0", "simclr D=16 seed=1", "simclr D=24",
    ]  # fmt: skip
    assert names(company(place / "narrow", place / "lr")) == [
        "simclr, optim.lr=0.002, epochs=2 D=16", "simclr, optim.lr=0.003, epochs=1 D=16",
    ]  # fmt: skip
    assert names(company(place / "narrow", place / "halfway")) == ["simclr, step 6 D=16", "simclr, step 3 D=16"]


def test_a_run_given_twice_is_drawn_once(place: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(place / "narrow", tmp_path / "copy")
    assert names(company(place / "narrow", copied, place / "narrow")) == ["simclr D=16"]


def test_runs_of_other_images_are_other_companies_with_names_of_their_own(place: Path, tmp_path: Path) -> None:
    pretrain(tiny(data__seed=5, epochs=1), tmp_path / "other", Sitting(device="cpu"))
    words = [str(place / "narrow"), str(tmp_path / "other"), str(place / "wide")]
    first, second = gather(words, side=16, references=False, device="cpu")
    assert names(first) == ["simclr D=16", "simclr D=24"] and names(second) == ["simclr D=16"]
    assert first.subject.name != second.subject.name and first.subject.name.startswith("scenes-")
    (both,) = gather(words, side=16, references=False, device="cpu", data=Scenes(train=20, test=10, size=16))
    assert len(both.encoders) == 3 and len(set(names(both))) == 3 and len(both.subject.train) == 20


def test_identity_follows_layer_images_bits_and_how_many_are_used_and_not_where_images_are_cached(place: Path) -> None:
    def identity(word: str, **changes: object) -> str:
        return company(place / word, **changes).encoders[0].identity

    data = Scenes(train=20, test=10, size=16)
    made = [
        identity("narrow"), identity("packed"), identity("wide"), identity("narrow", layer="projector 1"),
        identity("narrow", data=data), identity("narrow", limit_train=20), identity("narrow", limit_train=20, seed=1),
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    assert identity("narrow") == identity("sparse") == made[0]
    (member,) = members([str(place / "narrow")])
    folders = [Hub(path="photos", cache=cache, workers=2 * at) for at, cache in enumerate(("", "elsewhere"))]
    assert len({dataclasses.replace(member, data=data).images for data in folders}) == 1
    here = Hub(path=str(Path("photos").absolute()))
    assert dataclasses.replace(member, data=here).images == dataclasses.replace(member, data=folders[0]).images


def test_limited_training_images_stay_beside_their_features_and_labels(place: Path) -> None:
    whole, some = company(place / "narrow"), company(place / "narrow", limit_train=10)
    pixels = whole.subject.train.batch(torch.arange(48))
    taken = some.subject.train.batch(torch.arange(10))
    rows = torch.tensor([int((pixels == one).flatten(1).all(1).nonzero()[0]) for one in taken])
    assert len(some.subject.train) == 10 and rows.tolist() == sorted(rows.tolist())
    assert torch.equal(some.encoders[0].train.h, whole.encoders[0].train.h[rows])
    labels = whole.subject.splits["train"].labels["shape"]
    assert torch.equal(some.subject.splits["train"].labels["shape"], labels[rows])
    assert "Of the training images of scenes 10 are used" in some.notes[0]
    assert torch.equal(company(place / "sparse", limit_train=10).encoders[0].train.h, some.encoders[0].train.h)


# ------------------------------------------------------------------------------------------------------------------- images


def test_shrinking_takes_the_mean_of_the_pixels_that_one_covers() -> None:
    pixels = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    slow = pixels.double().view(3, 3, 8, 3, 8, 3).mean((3, 5))
    assert (shrunk(pixels, 8).double() - slow).abs().max() <= 0.5 + 1e-6
    assert torch.equal(Shrunk(InMemory(pixels), 8).batch(torch.tensor([2, 0])), shrunk(pixels, 8)[[2, 0]])
    assert shrunk(pixels, 24) is pixels


def test_what_is_drawn_shows_the_part_that_encoders_see_where_images_are_stored_with_a_margin() -> None:
    across = torch.linspace(0, 255, 82).expand(3, 82, 82)  # 72 pixels with the margin that such images are stored with
    pixels = torch.stack([across, across.mT]).to(torch.uint8)
    none = dataclasses.replace(augment.PRESETS["none"], size=72, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    seen = torch.nn.functional.adaptive_avg_pool2d(augment.plain(none, pixels) * 255, 16)
    shown = shrunk(pixels, 16).float()
    assert (seen - shown).abs().max() < 2
    assert (seen - shrunk(pixels[:, :, 5:77, 5:77], 16).float()).abs().max() > 10  # the centre alone would be another part


def test_masks_are_where_the_main_object_covers_most_of_a_pixel(tmp_path: Path) -> None:
    pretrain(tiny(data__size=32, epochs=1), tmp_path / "run", Sitting(device="cpu"))
    made = company(tmp_path / "run").subject
    alone = render(Scenes(train=48, test=32, size=32).factors("test"), 32, background=False)
    covered = (alone > 0).any(1).view(32, 16, 2, 16, 2).sum((2, 4)) > 2
    assert made.masks is not None and torch.equal(made.masks[:, 0], covered)
    assert 0.02 < made.masks.float().mean() < 0.5
    assert made.side == made.train.side == 16 and made.encoder_side == 32


def test_images_smaller_than_what_is_drawn_are_refused_naming_what_fits(place: Path) -> None:
    told = r"images of 16 pixels a side, and 32 are to be drawn: give --side 16, or a preset that fits \(--preset smoke\)"
    with pytest.raises(UserError, match=told):
        company(place / "narrow", side=32)
    with pytest.raises(UserError, match=r"images of 12 pixels a side.*these images cannot be"):
        company(place / "narrow", side=16, data=Scenes(train=4, test=4, size=12))


# ----------------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def made(place: Path) -> Company:
    return company(place / "narrow")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for at in range(6):
        file = folder / ("deep" if at % 2 else "") / f"p{at}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)
    return folder


def test_own_pictures_are_test_rows_spread_over_classes_and_the_same_for_the_same_seed(made: Company) -> None:
    found = pictures(made.subject, made.data, own=4)
    test = made.subject.splits["test"]
    assert torch.equal(found.pixels, test.images.batch(found.rows))
    every = set(test.labels["shape"].tolist())
    assert {int(test.labels["shape"][row]) for row in pictures(made.subject, made.data, own=len(every)).rows} == every
    assert found.names[0] == f"test:{found.rows[0]} ({test.classes['shape'][test.labels['shape'][found.rows[0]]]})"
    assert torch.equal(pictures(made.subject, made.data, own=4).rows, found.rows)
    assert not torch.equal(pictures(made.subject, made.data, own=4, seed=1).rows, found.rows)


def test_own_pictures_can_be_named_and_those_from_outside_come_after_them(made: Company, photos: Path) -> None:
    other = Scenes(train=4, test=6, size=16, seed=9)
    found = pictures(made.subject, made.data, own="test:3,9-10", outside=[photos, photos / "p0.png", other], most=3)
    assert found.rows.tolist() == [3, 9, 10] + [-1] * 7
    assert [name.split()[0] for name in found.names[3:6]] == ["scenes"] * 3 and found.names[-1] == "p0.png"
    assert found.pixels.shape == (10, 3, 16, 16) and torch.equal(found.shown, shrunk(found.pixels, 16))
    centre = np.asarray(Image.open(photos / "p0.png").crop((5, 0, 25, 20)).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(found.pixels[-1].numpy().transpose(1, 2, 0).astype(int) - centre).mean() < 30


@pytest.mark.parametrize("images", [{"size": 16}, {"size": 24}])
def test_other_sets_of_any_side_are_brought_to_the_encoders_own(made: Company, images: dict[str, int]) -> None:
    found = pictures(made.subject, made.data, own=0, outside=[Scenes(train=4, test=6, **images)], most=2)
    assert found.pixels.shape == (2, 3, 16, 16)


def test_pictures_that_cannot_be_had_are_refused_in_words(made: Company, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes((photos / "p0.png").read_bytes()[:200])
    for asked, told in (
        ({"own": "test:32"}, r"'test:32': the test split holds rows 0 to 31"),
        ({"own": "train:3"}, r"'train:3' is neither"),
        ({"own": "test:5-3"}, r"'test:5-3'"),
        ({"own": -1}, r"--own -1"),
        ({"own": 0}, r"no picture to draw"),
        ({"most": 0}, r"0 pictures of a folder"),
        ({"outside": [tmp_path / "empty"]}, r"empty' is an empty folder"),
        ({"outside": [tmp_path / "gone.png"]}, r"gone.png' does not exist"),
        ({"outside": [photos, tmp_path / "broken.png", tmp_path / "notes.txt"]}, r"2 of 6 .*broken.png \(.*notes.txt \("),
    ):
        with pytest.raises(UserError, match=told):
            pictures(made.subject, made.data, **asked)


def test_pictures_of_images_without_labels_are_drawn_by_chance(made: Company) -> None:
    bare = ImageSet(made.subject.splits["test"].images)
    subject = dataclasses.replace(made.subject, splits={**made.subject.splits, "test": bare})
    found = pictures(subject, made.data, own=3)
    assert found.names == tuple(f"test:{row}" for row in found.rows.tolist()) and len(set(found.names)) == 3


def test_encoders_of_a_company_hold_a_row_an_image(place: Path) -> None:
    found = company(place / "narrow", place / "packed", references=True)
    for encoder in found.encoders:
        assert isinstance(encoder, Encoder)
        assert (len(encoder.train), len(encoder.test)) == (len(found.subject.train), len(found.subject.test)) == (48, 32)
