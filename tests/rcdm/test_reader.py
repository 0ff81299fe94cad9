"""The reader of true factors reads what pictures show and says how well."""

from __future__ import annotations

import pytest
import torch
from made_companies import subject

from wingspan.data.base import ImageSet
from wingspan.rcdm import reader as module
from wingspan.rcdm.encoders import Subject
from wingspan.rcdm.factors import of_pictures
from wingspan.rcdm.reader import Reader, train_reader


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", 32)
        of = subject(400, 200)
        return of, train_reader(of, 0, 80)


def test_it_reads_what_pictures_show(trained):
    of, reader = trained
    assert reader.r2["redness"] > 0.6
    assert "redness" in reader.usable
    pictures = of.test.batch(torch.arange(200)).float() / 255
    read = reader.read(pictures)
    truth = of.splits["test"].quantities["redness"]
    assert torch.corrcoef(torch.stack([read["redness"][:, 0], truth]))[0, 1] > 0.8
    assert read["red"].shape == (200, 2)
    assert torch.allclose(read["red"].sum(1), torch.ones(200), atol=1e-3)


def test_what_it_reads_badly_is_no_factor(trained):
    of, reader = trained
    poor = Reader(reader.net, reader.places, {"redness": 0.49, "red": 0.5})
    assert poor.usable == ("red",)
    found = of_pictures(of.test.batch(torch.arange(4)).float() / 255, None, poor)
    assert "true red" in found and "true redness" not in found


def test_it_comes_back_from_a_file_as_it_was(trained):
    of, reader = trained
    again = Reader.from_tensors(reader.tensors())
    pictures = of.test.batch(torch.arange(8)).float() / 255
    assert again.r2 == reader.r2 and again.places == reader.places
    assert all(torch.equal(values, again.read(pictures)[name]) for name, values in reader.read(pictures).items())


def test_it_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 8)
    one, same, other = (train_reader(subject(), seed, 2) for seed in (0, 0, 1))
    assert torch.equal(one.net.head.weight, same.net.head.weight)
    assert not torch.equal(one.net.head.weight, other.net.head.weight)


def test_images_of_which_nothing_is_known_have_none():
    of = subject()
    assert train_reader(Subject(of.name, of.side, of.train, of.test), 0) is None


def test_what_the_test_images_do_not_tell_is_not_read(monkeypatch):
    of = subject()
    train, test = of.splits["train"], of.splits["test"]
    blind = ImageSet(test.images)
    assert train_reader(Subject(of.name, of.side, of.train, of.test, {"train": train, "test": blind}), 0, 1) is None
    half = ImageSet(test.images, quantities={"redness": test.quantities["redness"]})
    gappy = ImageSet(
        train.images, train.labels, train.classes, None, (), train.quantities | {"gap": torch.full((48,), torch.nan)}
    )
    told = train_reader(Subject(of.name, of.side, of.train, of.test, {"train": gappy, "test": half}), 0, 1)
    assert set(told.r2) == {"redness"}


def test_large_pictures_are_read_as_shrunk_ones():
    net = module._Net(3).eval()
    small = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(net(large), net(small), atol=1e-4, rtol=1e-4)
    assert net(small[..., :24, :24]).shape == (2, 3)
