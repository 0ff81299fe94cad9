"""What is in a scene: its factors, how they are drawn, and the labels they amount to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from wingspan import chance
from wingspan.data._scenes_patterns import BACKDROPS, SHAPES, TEXTURES

# RGB albedo, 0..1.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.16, 0.14),
    "orange": (0.98, 0.55, 0.10),
    "yellow": (0.96, 0.90, 0.20),
    "green": (0.20, 0.70, 0.22),
    "cyan": (0.20, 0.80, 0.85),
    "blue": (0.18, 0.32, 0.92),
    "purple": (0.56, 0.24, 0.80),
    "pink": (0.98, 0.56, 0.78),
}
DISTRACTORS = 6
BACKDROP_FLOATS = 9  # phase x, phase y, period, turn, hue, saturation, value, contrast, hue of the second tone
RADIUS = (0.50, 0.80)  # of the main object; the image spans -1..1
SMALL_RADIUS = (0.12, 0.22)  # of a distractor
SPREAD = 0.40  # the main object's centre lies within +-SPREAD in x and y
TURN = math.pi  # the main object is turned by at most half of this to either side
_DISTANCE_EDGES = (0.10, 0.15, 0.21, 0.30, 0.45)
_COMPASS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")

CLASSES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(PALETTE),
    "texture": tuple(TEXTURES),
    "orientation": tuple(f"{degrees} degrees" for degrees in (-75, -45, -15, 15, 45, 75)),
    "position": tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")),
    "size": ("small", "medium", "large", "huge"),
    "count": tuple(str(k) for k in range(1, DISTRACTORS + 2)),
    "distance": ("nearest", "very near", "near", "far", "very far", "farthest"),
    "background": tuple(BACKDROPS),
    "light": _COMPASS,
}
DRAWN = tuple(task for task in CLASSES if task != "distance")  # distance follows from where the objects are


@dataclass(frozen=True)
class Factors:
    """Everything `render` needs of n scenes. Slot 0 of 7 is the main object, slots 1..count are distractors.

    The image spans -1..1 in x (to the right) and y (downwards); angles are in radians, counter-clockwise.
    """

    shape: Tensor  # (n, 7) int64
    colour: Tensor  # (n, 7) int64
    texture: Tensor  # (n, 7) int64
    tint: Tensor  # (n, 7) in [0, 1): brightness of the colour
    centre: Tensor  # (n, 7, 2) x, y
    radius: Tensor  # (n, 7)
    angle: Tensor  # (n, 7)
    count: Tensor  # (n,) int64, distractors
    light: Tensor  # (n,) direction the light comes from
    background: Tensor  # (n,) int64
    backdrop: Tensor  # (n, 9) in [0, 1): what else the backdrop depends on
    key: Tensor  # (n,) int64, seeds the backdrop's noise

    def __len__(self) -> int:
        return len(self.count)

    def take(self, indices: Tensor | slice) -> Factors:
        """The scenes at `indices`, in that order."""
        return Factors(**{f.name: getattr(self, f.name)[indices] for f in fields(self)})

    def recombine(self, source: Tensor, lender: Factors | None = None) -> Factors:
        """Scene i before the backdrop of the lender's scene source[i]; objects, light and shadows stay.

        source (n,) int64. Scenes lend backdrops to each other where no other lender is given.
        """
        of = lender or self
        return replace(self, background=of.background[source], backdrop=of.backdrop[source], key=of.key[source])

    def labels(self) -> dict[str, Tensor]:
        """Task -> (n,) int64 for every task of `CLASSES`."""
        cell = _bin(self.centre[:, 0] / (2 * SPREAD) + 0.5, 3)  # (n, 2)
        size = (self.radius[:, 0] - RADIUS[0]) / (RADIUS[1] - RADIUS[0])
        return {
            "shape": self.shape[:, 0],
            "colour": self.colour[:, 0],
            "texture": self.texture[:, 0],
            "orientation": _bin(self.angle[:, 0] / TURN + 0.5, len(CLASSES["orientation"])),
            "position": cell[:, 1] * 3 + cell[:, 0],
            "size": _bin(size, len(CLASSES["size"])),
            "count": self.count,
            "distance": torch.bucketize(self.distance(), torch.tensor(_DISTANCE_EDGES)),
            "background": self.background,
            "light": _octant(self.light),
        }

    def quantities(self) -> dict[str, Tensor]:
        """What a probe can regress: name -> (n,) float32, in the image's axes (-1..1, x to the right, y downwards).

        Of the main object its centre, its radius and its angle (radians, counter-clockwise); `depth` is the distance of the
        nearest object (0..1); light x and y are the cosines of the direction that the light comes from.
        """
        return {
            "centre x": self.centre[:, 0, 0],
            "centre y": self.centre[:, 0, 1],
            "radius": self.radius[:, 0],
            "angle": self.angle[:, 0],
            "depth": self.distance(),
            "light x": self.light.double().cos().float(),
            "light y": -self.light.double().sin().float(),
        }

    def distance(self) -> Tensor:
        """(n,) in 0..1: distance of the nearest object, judged as by eye by two cues in equal parts.

        The cues are how small it looks among objects of its kind (main or distractor) and how high it stands in the image.
        """
        least = torch.full((DISTRACTORS + 1,), SMALL_RADIUS[0])
        span = torch.full((DISTRACTORS + 1,), SMALL_RADIUS[1] - SMALL_RADIUS[0])
        least[0], span[0] = RADIUS[0], RADIUS[1] - RADIUS[0]
        near = 0.5 * (self.radius - least) / span + 0.25 * (self.centre[..., 1] + 1)
        absent = torch.arange(DISTRACTORS + 1) > self.count[:, None]
        return 1 - near.masked_fill(absent, -1).amax(1)


def _bin(fraction: Tensor, bins: int) -> Tensor:
    """Floor of fraction x bins, clamped to 0..bins-1."""
    return (fraction * bins).floor().long().clamp(0, bins - 1)


def _octant(angle: Tensor) -> Tensor:
    """Radians -> 0..7: the nearest multiple of 45 degrees."""
    return (angle * (4 / math.pi) + 0.5).floor().long() % 8


def _angle(octant: Tensor, within: Tensor) -> Tensor:
    """Radians of a direction in an octant, `within` it by 0..1."""
    return (octant - 0.5 + within) * (math.pi / 4)


def apportion(n: int, weights: Tensor) -> Tensor:
    """n split in proportion to weights (C,): (C,) int64 summing to n, each within one of its share (largest remainders)."""
    share = weights.double() / weights.double().sum() * n
    counts = share.floor().long()
    counts[(share - counts).argsort(descending=True, stable=True)[: n - int(counts.sum())]] += 1
    return counts


def draw(n: int, seed: int, split: str, weights: Mapping[str, Tensor]) -> Factors:
    """n scenes. Every task of `DRAWN` is stratified to its weights (C,), uniform where none are given, in random order."""

    def labels(task: str) -> Tensor:
        counts = apportion(n, weights.get(task, torch.ones(len(CLASSES[task]))))
        order = torch.randperm(n, generator=chance.generator(seed, f"scenes {split} {task}"))
        return torch.arange(len(counts)).repeat_interleave(counts)[order]

    def uniform(purpose: str, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=chance.generator(seed, f"scenes {split} {purpose}"))

    def within(task: str) -> Tensor:
        # Kept off the bins' edges, where rounding could move a value into the neighbouring bin.
        return uniform(f"within {task}") * 0.98 + 0.01

    slots = DISTRACTORS + 1
    cell = labels("position")
    jitter = uniform("within position", 2) * 0.98 + 0.01
    main = ((torch.stack([cell % 3, cell // 3], 1) + jitter) / 3 * 2 - 1) * SPREAD
    radius = RADIUS[0] + (labels("size") + within("size")) / len(CLASSES["size"]) * (RADIUS[1] - RADIUS[0])
    centres, radii = _scatter(main, radius, uniform("places", DISTRACTORS, 12, 3))
    angle = uniform("angle", slots) * 2 * math.pi
    angle[:, 0] = ((labels("orientation") + within("orientation")) / len(CLASSES["orientation"]) - 0.5) * TURN
    return Factors(
        shape=_others(labels("shape"), uniform("shapes", DISTRACTORS), len(SHAPES)),
        colour=_others(labels("colour"), uniform("colours", DISTRACTORS), len(PALETTE)),
        texture=_others(labels("texture"), uniform("textures", DISTRACTORS), len(TEXTURES)),
        tint=uniform("tint", slots),
        centre=centres,
        radius=radii,
        angle=angle,
        count=labels("count"),
        light=_angle(labels("light"), within("light")),
        background=labels("background"),
        backdrop=uniform("backdrop", BACKDROP_FLOATS),
        key=(uniform("key") * 2**24).long(),
    )


def follow(factors: Factors, target: str, share: float, seed: int) -> Factors:
    """The training scenes with class c of `target` before backdrop c modulo 10, in `share` of every class's scenes.

    The number of such scenes is exact up to rounding, in all and in every class; the others keep the backdrop they had, and
    no other factor changes.
    """
    labels, n = factors.labels()[target], len(factors)
    counts = torch.bincount(labels, minlength=len(CLASSES[target]))
    order = torch.randperm(n, generator=chance.generator(seed, "scenes bias"))
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    rank = torch.arange(n) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # within the class
    tied = order[rank < apportion(round(share * n), counts).repeat_interleave(counts)]
    background = factors.background.clone()
    background[tied] = labels[tied] % len(BACKDROPS)
    return replace(factors, background=background)


def _others(main: Tensor, chance_: Tensor, classes: int) -> Tensor:
    """(n,) and uniform draws (n, 6) -> (n, 7): the main object's class, then classes that differ from it."""
    other = main[:, None] + 1 + (chance_ * (classes - 1)).long().clamp(max=classes - 2)
    return torch.cat([main[:, None], other % classes], 1)


def _scatter(main: Tensor, radius: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Place distractors clear of the main object and of each other: the first of the candidates that fits, else the best.

    main (n, 2), radius (n,), places (n, 6, candidates, 3) uniform draws -> centres (n, 7, 2), radii (n, 7).
    """
    centres, radii = main[:, None], radius[:, None]
    for slot in range(places.shape[1]):
        at = (places[:, slot, :, :2] * 2 - 1) * 0.95  # (n, candidates, 2)
        # Nearer objects stand lower and look larger.
        nearness = (0.8 * (at[..., 1] / 0.95 + 1) / 2 + 0.2 * places[:, slot, :, 2]).clamp(0, 1)
        size = SMALL_RADIUS[0] + nearness * (SMALL_RADIUS[1] - SMALL_RADIUS[0])
        gap = (at[:, :, None] - centres[:, None]).square().sum(-1).sqrt() - radii[:, None] * 0.9 - size[..., None]
        # The small slope makes the earliest of equally good candidates win.
        score = gap.amin(-1).clamp(max=0) - 1e-6 * torch.arange(places.shape[2])
        best = score.argmax(1)[:, None]  # (n, 1)
        centres = torch.cat([centres, at.gather(1, best[..., None].expand(-1, 1, 2))], 1)
        radii = torch.cat([radii, size.gather(1, best)], 1)
    return centres, radii
