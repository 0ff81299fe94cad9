"""Strips of samples that show what an edit of h changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wingspan import mosaic
from wingspan.company import Company, pictures
from wingspan.errors import UserError
from wingspan.rcdm import edit
from wingspan.rcdm.edit import COMMON, NEIGHBOURS
from wingspan.rcdm.material import to_pixels
from wingspan.rcdm.pictures import Pictures
from wingspan.rcdm.sampling import Sampler

__all__ = ["COMMON", "NEIGHBOURS", "Wanted", "draw", "pair"]


@dataclass(frozen=True)
class Wanted:
    """Which edit, and its numbers."""

    kind: str  # "interpolate" or "shared"
    steps: int
    samples: int
    neighbours: int
    common: int
    seed: int


def pair(company: Company, between: Sequence[str], own: str, seed: int) -> Pictures:
    """The two pictures of an edit. Raises UserError where there are not two, or one cannot be read."""
    if between:
        single = [
            pictures(company.subject, company.data, own=word if rows else 0, outside=() if rows else [word], most=1, seed=seed)
            for word in between
            for rows in [word.startswith("test:") and not Path(word).exists()]
        ]
    else:
        single = [pictures(company.subject, company.data, own=own, seed=seed)]
    joined = Pictures(
        torch.cat([each.pixels for each in single]),
        tuple(name for each in single for name in each.names),
        torch.cat([each.rows for each in single]),
        torch.cat([each.shown for each in single]),
    )
    if len(joined.names) < 2 or (between and len(joined.names) != 2):
        raise UserError(f"an edit is between two pictures, and {len(joined.names)} are named: --between test:3 test:9.")
    return Pictures(joined.pixels[:2], joined.names[:2], joined.rows[:2], joined.shown[:2])


def draw(company: Company, chosen: Pictures, sampler: Sampler, wanted: Wanted, file: Path) -> None:
    """Write the strips of all encoders but the references. Raises UserError as `edit` does."""
    rows = _interpolated if wanted.kind == "interpolate" else _shared
    strips = [
        strip
        for at, e in enumerate(company.encoders)
        if not e.reference
        for strip in rows(company, at, chosen, sampler, wanted)
    ]
    first, second = chosen.names
    title = f"{company.subject.name}: from {first} to {second}, h = (1 - r) h1 + r h2"
    if wanted.kind == "shared":
        title = f"{company.subject.name}: {first}, and the dimensions above 0 in more than {wanted.common} of its "
        title += f"{wanted.neighbours} neighbours; target {second}"
    mosaic.strip(strips, title, file)


def _interpolated(company: Company, at: int, chosen: Pictures, sampler: Sampler, wanted: Wanted) -> Iterator[mosaic.Strip]:
    encoder = company.encoders[at]
    first, second = edit.raw(encoder, chosen)
    way = edit.standardised(encoder, edit.interpolated(first, second, wanted.steps))
    tiles = to_pixels(sampler.samples(at, way, 1, wanted.seed)[:, 0])
    captions = [f"r = {r:.2f}" for r in torch.linspace(0, 1, wanted.steps).tolist()]
    yield mosaic.Strip(encoder.name, chosen.shown[0], tiles, captions, chosen.shown[1])


def _shared(company: Company, at: int, chosen: Pictures, sampler: Sampler, wanted: Wanted) -> Iterator[mosaic.Strip]:
    encoder = company.encoders[at]
    h, target = edit.raw(encoder, chosen)
    which = edit.shared(encoder, h, wanted.neighbours, wanted.common)
    edited = torch.stack([h, edit.without(h, which), edit.copied(h, target, which)])
    tiles = to_pixels(sampler.samples(at, edit.standardised(encoder, edited), wanted.samples, wanted.seed))
    count = f"{int(which.sum()):,} of {encoder.D:,} dimensions"
    yield mosaic.Strip(f"{encoder.name}: h as it is", chosen.shown[0], tiles[0])
    yield mosaic.Strip(f"{encoder.name}: {count}, which its neighbours share, set to 0", chosen.shown[0], tiles[1])
    yield mosaic.Strip(f"{encoder.name}: the same copied from the target", chosen.shown[0], tiles[2], (), chosen.shown[1])
