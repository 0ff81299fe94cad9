from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wingspan import projector
from wingspan.chance import generator
from wingspan.errors import UserError


@pytest.mark.parametrize(
    ("text", "found"), [("", ()), ("32", (32,)), ("512-128", (512, 128)), ("8192-8192-8192", (8192, 8192, 8192))]
)
def test_widths_are_read_from_the_text(text: str, found: tuple[int, ...]) -> None:
    assert projector.widths(text) == found
    assert projector.output_width(text, 77) == (found[-1] if found else 77)


@pytest.mark.parametrize("text", ["8192-", "-8", "-", "0", "8-0-8", "a", "8x8", " 8", "8 - 8", "1.5", "+8", "٣", "8--8"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a list of widths") as caught:
        projector.widths(text)
    assert f"'{text}'" in str(caught.value)


def test_no_widths_are_the_identity_and_one_is_a_matrix() -> None:
    x = torch.randn(4, 6, generator=generator(0, "test"))
    assert torch.equal(projector.build("", 6)(x), x)
    linear = projector.build("3", 6)
    (weight,) = linear.parameters()
    torch.testing.assert_close(linear(x), x @ weight.T)


def test_an_mlp_is_its_formula() -> None:
    net = projector.build("5-4-3", 6).double()
    draw = generator(0, "test")
    for each in net.parameters():
        nn.init.normal_(each, generator=draw)
    x = torch.randn(7, 6, generator=draw, dtype=torch.float64)
    p = [each.tolist() for each in net.parameters()]
    rows = x.tolist()
    for weight, bias, gain, offset in (p[0:4], p[4:8]):
        rows = [
            [sum(w * v for w, v in zip(line, row, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
            for row in rows
        ]
        columns = []
        for k, column in enumerate(zip(*rows, strict=True)):
            centre = sum(column) / len(column)
            variance = sum((v - centre) ** 2 for v in column) / len(column)
            columns.append([max(0.0, gain[k] * (v - centre) / math.sqrt(variance + 1e-5) + offset[k]) for v in column])
        rows = [list(row) for row in zip(*columns, strict=True)]
    rows = [[sum(w * v for w, v in zip(line, row, strict=True)) for line in p[8]] for row in rows]
    assert len(p) == 9, "the last layer has no bias"
    torch.testing.assert_close(net(x), torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize(("D", "millions"), [(512, 138), (2048, 151), (8192, 201), (32768, 403)])
def test_size_of_the_papers_projector(D: int, millions: int) -> None:
    with torch.device("meta"):
        net = projector.build("8192-8192-8192", D)
    count = sum(p.numel() for p in net.parameters())
    assert count == (D * 8192 + 3 * 8192) + (8192 * 8192 + 3 * 8192) + 8192 * 8192
    assert round(count / 1e6) == millions
