"""Drawings made up of random pictures and numbers, for what shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from wingspan.inputs import Inputs
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.kept import Drawing, Kept, Metric, Rung, Tiles

PARTS = ("pixels", "colour", "layout", "detail", "flip asymmetry", "histogram")
SENTENCE = "under-trained: do not read (kappa 1.61 lies outside 0.8 to 1.25)"
RUNGS: tuple[Rung, ...] = ("ridge", "decoder", "samples")


def encoder(group: str, D: int, seed: int = 0, name: str = "", reference: bool = False) -> Encoder:
    rows = Inputs(torch.zeros(2, D, dtype=torch.float16))
    named = name or f"{group} D={D}"
    run = "" if reference else f"{group}-{D}-{seed}"
    return Encoder(named, group, f"id-{named}", rows, rows, seed=seed, run=run, reference=reference)


def references() -> tuple[Encoder, ...]:
    return encoder("untrained", 512, name="untrained", reference=True), encoder(
        "no information", 1, name="no information", reference=True
    )


def company(
    groups: Sequence[str] = ("simclr", "supervised"), widths: Sequence[int] = (64, 512, 2048), seeds: int = 1
) -> tuple[Encoder, ...]:
    """Wide before narrow, so that who shows them has to sort; then the references."""
    made = [
        encoder(group, D, seed, f"{group} D={D} seed={seed}" if seeds > 1 else "")
        for group in groups
        for D in reversed(widths)
        for seed in range(seeds)
    ]
    return (*made, *references())


def drawing(
    encoders: Sequence[Encoder] | None = None,
    rung: Rung = "samples",
    samples: int = 4,
    own: int = 2,
    outside: int = 1,
    side: int = 16,
    factors: Sequence[str] = (*PARTS, "shape"),
    untrusted: Sequence[str] = (),
    missing: Sequence[tuple[str, str]] = (),
    data: str = "scenes",
) -> Drawing:
    """Pictures from outside come first. untrusted: encoders whose pixels break the rule; missing: those without a value."""
    shown = tuple(encoders if encoders is not None else company())
    drawn = torch.Generator().manual_seed(0)
    P, s = own + outside, samples if rung == "samples" else 1

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, (*shape, 3, side, side), dtype=torch.uint8, generator=drawn)

    numbers: list[Kept] = []

    def add(of: Encoder, factor: str, on: Rung, metric: Metric, value: float, chance: float | None = None) -> None:
        found = math.nan if (of.name, factor) in missing else value
        numbers.append(Kept(of.name, factor, on, metric, found, found - 0.03, found + 0.02, 256, chance))

    for of in shown:
        level = (
            0.0 if of.group == "no information" else 0.1 * math.log2(of.D) / 1.3 - 0.01 * of.seed + 0.1 * (of.group == "simclr")
        )
        for at, factor in enumerate(factors):
            high = level - 0.05 * at
            for on in RUNGS[: RUNGS.index(rung) + 1]:
                if on != "samples":
                    add(of, factor, on, "r2", high - (0.08 if on == "ridge" else 0.04))
                else:
                    add(of, factor, on, "tau", high)
                    add(of, factor, on, "rho", high + 0.02)
                    add(of, factor, on, "kappa", 1.61 if of.name in untrusted and not at else 1.02)
        if rung == "samples" and of.run:
            add(of, "", "samples", "mrr", 0.054, 0.00098)
            add(of, "", "samples", "median rank", 88.0, 5000.5)
    tiles = Tiles(
        pixels(P),
        (*(f"earth_{k}.jpg" for k in range(outside)), *(f"test:{7 * k}" for k in range(own))),
        (False,) * outside + (True,) * own,
        {of.name: pixels(P, s) for of in shown},
    )
    marked = {name: {factors[0]: SENTENCE} for name in untrusted}
    return Drawing(data, rung, "cpu32", shown, tuple(numbers), tiles, marked, ("Read off pictures by a small network.",))
