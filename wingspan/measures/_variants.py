"""The variants of Xiao et al. (2020), Noise or Signal: which there are, how scenes are rendered in them, what pairs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wingspan import chance
from wingspan.data.base import ImageSet
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes, render_all
from wingspan.errors import UserError, nearest
from wingspan.features import Bank

VARIANTS = ("original", "only_fg", "no_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand", "mixed_next")


def variant_of(name: str) -> str:
    """A class of the task `variant`, its name ("Mixed-Same") or its number ("5"), -> one of `VARIANTS`."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain.isdigit() and int(plain) < len(VARIANTS):
        return VARIANTS[int(plain)]
    if plain not in VARIANTS:
        raise UserError(f"column 'variant' holds '{name}'.{nearest(plain, VARIANTS)}")
    return plain


def superclasses(train: ImageSet, rows: Tensor, labels: tuple[str, ...], fine: tuple[str, ...], where: str) -> Tensor:
    """The map that `rows` of the training split show: for each of the classes `fine` its place in `labels`, -1 for none.

    Both go by name, since splits and sets may number the same classes differently; a fine class of the training split whose
    name is a number, and no name in `fine`, is the class of that number. `where` says whose classes `fine` are. Raises
    UserError when a fine class has two superclasses, or is none of `fine`.
    """
    known: dict[int, str] = {}
    pairs = torch.stack([train.labels["fine"][rows], train.labels["label"][rows]], 1).unique(dim=0)
    for number, label in pairs.tolist():
        name, superclass = train.classes["fine"][number], train.classes["label"][label]
        place = number if fine == train.classes["fine"] else _place(name, fine, where)
        if place in known:
            raise UserError(
                f"classes do not map: fine class '{name}' has two superclasses in the training split, "
                f"'{known[place]}' and '{superclass}'. Give every fine class one label."
            )
        known[place] = superclass
    of = {name: number for number, name in enumerate(labels)}
    return torch.tensor([of.get(known.get(place, ""), -1) for place in range(len(fine))])


def _place(name: str, fine: tuple[str, ...], where: str) -> int:
    if name in fine:
        return fine.index(name)
    if name.isdigit() and int(name) < len(fine):
        return int(name)
    raise UserError(
        f"fine class '{name}' of the training split is none of the {len(fine)} classes of {where} "
        f"({', '.join(fine[:3])}, ...): give a fine_data whose classes are the column 'fine'."
    )


def sources(bank: Bank) -> Tensor | None:
    """(n,) int64, equal for test images made from one image; None where nothing tells.

    A column with a value an image is no task, so that `Hub` leaves `source` out where the training split has a source an image;
    then the test split is read again with that column asked for.
    """
    test, data = bank.test.images, bank.source
    if "source" in test.labels:
        return test.labels["source"]
    if not isinstance(data, Hub) or data.limit_test:
        return None
    try:
        again = replace(data, label="source").load("test")
    except UserError:  # no such column
        return None
    same = len(again) == len(test) and all(torch.equal(again.labels[t], test.labels[t]) for t in ("variant", "label"))
    return again.labels["source"] if same else None


def paired(first: Tensor, by: Tensor | None, second: Tensor, also_by: Tensor | None) -> tuple[float, float, int]:
    """Difference of the means of two variants' answers, right (n,) and (m,) bool; its standard error; over how many images.

    With sources (n,), (m,) the difference is taken source by source, over those that both have, and its error over sources;
    without, the two means count as independent.
    """
    a, b = first.double(), second.double()
    if by is None or also_by is None:
        error = math.sqrt(float(a.var(correction=0)) / len(a) + float(b.var(correction=0)) / len(b))
        return float(a.mean() - b.mean()), error, min(len(a), len(b))
    size = int(max(by.max(), also_by.max())) + 1
    counts = [of.bincount(minlength=size) for of in (by, also_by)]
    both = (counts[0] > 0) & (counts[1] > 0)
    means = [
        of.bincount(values, minlength=size)[both] / count[both]
        for of, values, count in zip((by, also_by), (a, b), counts, strict=True)
    ]
    difference = means[0] - means[1]
    n = len(difference)
    if n == 0:
        raise UserError("column 'source' pairs no mixed_same image with a mixed_rand one: give both the same source.")
    return float(difference.mean()), float(difference.std(correction=0)) / math.sqrt(n), n


def rendered(data: Scenes, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The test split's scenes in every variant: its name, and images (n, 3, size, size) uint8, a variant at a time.

    The foreground is the main object. only_fg: on black, without shadow, backdrop or the smaller objects. no_fg: painted black,
    its outline and shadow left. only_bg_b: its bounding box painted black. only_bg_t: as if it were not there, which tiling
    guesses at in photographs. mixed_same, mixed_rand, mixed_next: before the backdrop of a random other image of the same, any,
    or the next class, all else as it was. The other images are drawn as the training split is, where backdrops go with classes
    (`Scenes.bias`) as they do in photographs, while the test split's own, in `original`, never do. They are drawn anew, since
    a classifier may know the very backdrops that it was trained on.
    """
    factors = data.factors("test")
    lender = replace(data, seed=chance.key(data.seed, "backgrounds")).factors("train")
    full = render_all(factors, data.size)
    alone = render_all(factors, data.size, background=False)
    covered = (alone > 0).any(1)
    box = (covered.any(2)[:, :, None] & covered.any(1)[:, None, :])[:, None]
    yield "original", full
    yield "only_fg", alone
    yield "no_fg", (full.short() - alone.short()).clamp_(min=0).to(torch.uint8)  # what (1 - cover) leaves of the background
    yield "only_bg_b", full.masked_fill(box, 0)
    yield "only_bg_t", render_all(factors, data.size, foreground=False)
    truth, classes = factors.labels()[data.target], lender.labels()[data.target]
    C = int(max(truth.max(), classes.max())) + 1
    draw = chance.generator(seed, "backgrounds")
    for variant, wanted in (("mixed_same", truth), ("mixed_rand", None), ("mixed_next", (truth + 1) % C)):
        u = torch.rand(len(factors), generator=draw, dtype=torch.float64)
        lent = (u * len(lender)).long() if wanted is None else _of_class(classes, wanted, u, C, data)
        yield variant, render_all(factors.recombine(lent, lender), data.size)


def _of_class(classes: Tensor, wanted: Tensor, u: Tensor, C: int, data: Scenes) -> Tensor:
    """For every wanted class (n,) a random index into `classes` (N,) that holds it, by the uniform draws u (n,)."""
    counts = classes.bincount(minlength=C)
    if not counts[wanted].all():
        raise UserError(
            f"scenes: some class of '{data.target}' has no training image to lend its backdrop: "
            f"raise train={data.train} or lower imbalance={data.imbalance}."
        )
    first = counts.cumsum(0) - counts
    return classes.argsort(stable=True)[first[wanted] + (u * counts[wanted]).long()]
