"""Edits of h, whose samples show what they change: on the way from one picture to another, and without shared dimensions.

Both are the published scripts' (facebookresearch/RCDM, image_sample_interpolation.py and image_sample_manipulation.py). Theirs
goes from r = .5 to .7 only, ours all the way; their neighbours include the picture itself where it lies in the folder, ours are
training images, which the pictures are none of. Edits are of h as the network gives it, before it is standardised.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from wingspan import bits
from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.neighbours import cosine
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.pictures import Pictures
from wingspan.store.rows import Rows, View

NEIGHBOURS, COMMON = 20, 14  # of the published script


def raw(encoder: Encoder, pictures: Pictures) -> Tensor:
    """h (P, D) fp32 of pictures as the network gives it; zeros and ones where only bits are known.

    Raises UserError for a picture from outside and an encoder without a network.
    """
    own = pictures.rows >= 0
    plain = dataclasses.replace(encoder.test, shift=None, scale=None)
    h = torch.empty(len(own), encoder.D)
    h[own] = plain.rows(pictures.rows[own])
    if not own.all():
        if encoder.encode is None:
            name = pictures.names[int((~own).int().argmax())]
            raise UserError(f"{encoder.name}: '{name}' has to go through the network, and there is only a store of features.")
        h[~own] = plain.like(encoder.encode(pictures.pixels[~own])).rows(slice(None))
    return h


def standardised(encoder: Encoder, h: Tensor) -> Tensor:
    """h (n, D) as `raw` gives it, edited maybe -> what decoders take (n, D) fp32."""
    train = encoder.train
    centred = h.float() if train.shift is None else h.float() - train.shift
    return centred if train.scale is None else centred * train.scale


def interpolated(first: Tensor, second: Tensor, steps: int) -> Tensor:
    """h (D,) and h (D,) -> (steps, D): (1 - r) first + r second for r at equal distances from 0 to 1, both included.

    Raises UserError for fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"--steps {steps}: from one picture to another there are at least 2.")
    r = torch.linspace(0, 1, steps).unsqueeze(1)
    return (1 - r) * first + r * second


def shared(encoder: Encoder, h: Tensor, neighbours: int = NEIGHBOURS, common: int = COMMON) -> Tensor:
    """Which dimensions the training images nearest to h (D,) share: (D,) bool, those above 0 in more than `common` of them.

    Nearest by cosine, among all training images. Raises UserError where h is no ReLU's, since then hardly a dimension is 0 and
    none is told apart, and for numbers that do not go together.
    """
    if not 0 <= common < neighbours <= len(encoder.train):
        raise UserError(
            f"dimensions above 0 in more than {common} of {neighbours} neighbours: there are {len(encoder.train):,} training "
            "images, and the first number must be below the second."
        )
    near = cosine(_rows(encoder.train), h.unsqueeze(0), neighbours, f"neighbours by {encoder.name}").indices[0]
    values = dataclasses.replace(encoder.train, shift=None, scale=None).rows(near)
    if (values < 0).any() or (h < 0).any():
        raise UserError(
            f"{encoder.name}: this layer has values below 0, as no ReLU leaves them, so nothing is shared by being there. "
            "Shared dimensions are those of h, or of a hidden layer of the projector (--layer)."
        )
    return (values > 0).sum(0) > common


def without(h: Tensor, dimensions: Tensor) -> Tensor:
    """h (D,) with some dimensions (D,) bool set to 0."""
    return h.masked_fill(dimensions, 0)


def copied(h: Tensor, target: Tensor, dimensions: Tensor) -> Tensor:
    """h (D,) with some dimensions (D,) bool as the target's h (D,) has them."""
    return torch.where(dimensions, target, h)


def _rows(inputs: Inputs) -> Rows:
    if not inputs.width:
        return inputs.h
    return View(inputs.h, inputs.width, torch.float32, functools.partial(bits.unpack, width=inputs.width))
