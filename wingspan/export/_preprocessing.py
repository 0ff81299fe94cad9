"""What must be done to a picture before the network sees it, as JSON."""

from __future__ import annotations

from typing import Any

from wingspan.export.base import Subject

_SQUARES = {
    "crop": "the largest centre square",
    "squash": "the whole picture, out of proportion",
    "pad": "the whole picture, between grey borders",
}


def preprocessing(subject: Subject) -> dict[str, Any]:
    """Picture -> input. The steps in order: `square`, resize to `side`, `range`, `mean` and `std`."""
    augment, stored = subject.run.augment, _stored(subject)
    found: dict[str, Any] = {
        "square": _SQUARES[fit(subject)],
        "side": subject.side,
        "resize": "the whole square, no crop",
        "interpolation": interpolation(subject),
        "antialias": True,
        "channels": "RGB",
        "layout": "(B, 3, side, side) float32",
        "range": [0.0, 1.0],
        "mean": list(augment.mean),
        "std": list(augment.std),
        "output": subject.gives,
        "width": subject.width,
    }
    if stored not in (0, subject.side):
        found["training"] = f"squares were resized to {stored} pixels (bicubic, antialias), and from there to {subject.side}"
    if subject.classes:
        found["classes"] = list(subject.classes)
    return found


def fit(subject: Subject) -> str:
    """How pictures that are not square become so: crop, squash or pad."""
    return getattr(subject.run.data, "fit", "crop")


def interpolation(subject: Subject) -> str:
    """How squares are brought to the side: that of the one resizing, or of the last of two."""
    return "bicubic" if _stored(subject) == subject.side else "bilinear"


def crop_mode(subject: Subject) -> str:
    """timm's word for how a picture becomes a square."""
    return {"crop": "center", "squash": "squash", "pad": "border"}[fit(subject)]


def _stored(subject: Subject) -> int:
    """The side that decoding leaves pictures at; 0 for data that has a side of its own."""
    return getattr(subject.run.data, "stored", 0)
