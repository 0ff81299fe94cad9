"""Edits of h against loops over dimensions and neighbours."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from made_companies import encoder, subject

from wingspan import bits
from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.rcdm import edit
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.pictures import Pictures


def relu_encoder(D: int = 12, rows: int = 40, packed: bool = False) -> Encoder:
    """h of a ReLU in groups of neighbours, or whether it lies above 0."""
    drawn = torch.Generator().manual_seed(3)
    centres = torch.randn(4, D, generator=drawn)
    h = (centres[torch.arange(rows) % 4] + 0.4 * torch.randn(rows, D, generator=drawn)).relu().half()
    train = Inputs(bits.pack(h), width=D) if packed else Inputs(h)
    train = train.standardised()
    return Encoder("relu", "relu", "relu", train, train.like(train.h[:8].clone()), None)


def test_interpolation_goes_all_the_way_in_equal_steps() -> None:
    first, second = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([4.0, 0.0, 1.0])
    found = edit.interpolated(first, second, 5)
    for at, r in enumerate((0, 0.25, 0.5, 0.75, 1)):
        assert found[at].tolist() == pytest.approx([4 * r, 2 - 2 * r, 1])
    with pytest.raises(UserError, match="--steps 1"):
        edit.interpolated(first, second, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_shared_dimensions_are_those_above_0_in_most_of_the_nearest_training_images(packed: bool) -> None:
    made = relu_encoder(packed=packed)
    values = bits.unpack(made.train.h, 12) if packed else made.train.h.float()
    h = values[5] + (0 if packed else 0.01)
    order = sorted(range(40), key=lambda row: (-float(torch.cosine_similarity(values[row], h, dim=0)), row))[:9]
    counts = [sum(1 for row in order if values[row, dimension] > 0) for dimension in range(12)]
    for common in range(9):
        wanted = [count > common for count in counts]
        assert edit.shared(made, h, neighbours=9, common=common).tolist() == wanted
    assert len(set(counts)) > 2


def test_zeroed_and_copied_dimensions_are_the_shared_ones_and_no_others() -> None:
    h, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7.0, 8.0, 9.0])
    which = torch.tensor([True, False, True])
    assert edit.without(h, which).tolist() == [0, 2, 0]
    assert edit.copied(h, target, which).tolist() == [7, 2, 9]
    assert h.tolist() == [1, 2, 3]


def test_a_layer_without_relu_and_numbers_that_do_not_go_together_are_refused() -> None:
    of = subject()
    made = encoder(of, 8)
    with pytest.raises(UserError, match=r"projection D=8: this layer has values below 0"):
        edit.shared(made, made.encode(of.test.batch(torch.arange(1)))[0])
    relu = relu_encoder()
    for neighbours, common in ((41, 14), (10, 10), (10, -1)):
        with pytest.raises(UserError, match=f"more than {common} of {neighbours} neighbours: there are 40 training"):
            edit.shared(relu, torch.ones(12), neighbours, common)


def test_raw_h_is_what_the_network_gives_and_standardises_to_what_decoders_read() -> None:
    of = subject()
    made = encoder(of, 8)
    rows = torch.tensor([4, -1, 2])
    pixels = of.test.batch(torch.tensor([4, 7, 2]))
    shown = Pictures(pixels, ("test:4", "outside.png", "test:2"), rows, pixels)
    h = edit.raw(made, shown)
    assert made.encode is not None
    torch.testing.assert_close(h, made.encode(pixels), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(edit.standardised(made, h)[[0, 2]], made.test.rows(torch.tensor([4, 2])))
    with pytest.raises(UserError, match=r"'outside.png' has to go through the network"):
        edit.raw(dataclasses.replace(made, encode=None), shown)


def test_raw_h_of_packed_bits_is_zeros_and_ones() -> None:
    made = relu_encoder(packed=True)
    shown = Pictures(torch.empty(2, 3, 1, 1), ("test:1", "test:3"), torch.tensor([1, 3]), torch.empty(2, 3, 1, 1))
    h = edit.raw(made, shown)
    assert torch.equal(h, bits.unpack(made.test.h, 12)[[1, 3]])
    torch.testing.assert_close(edit.standardised(made, h), made.test.rows(torch.tensor([1, 3])))
