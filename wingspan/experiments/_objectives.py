"""The objective axis of small studies: each objective with the settings that suit runs of minutes.

Tuned once on CIFAR-10 at one width for a small net and runs of about 300 steps of 256 images, so that no objective fails for
want of a usual setting.
"""

from __future__ import annotations

from wingspan.errors import UserError, nearest
from wingspan.study import Axis

SMALL: Axis = {
    "supervised": {"objective": "supervised", "projector": None},
    "simclr": {"objective": "simclr", "objective.temperature": 0.2},
    "vicreg": {"objective": "vicreg", "projector": "512-512"},
    "byol": {"objective": "byol", "objective.momentum_start": 0.9, "objective.hidden": 1024, "projector": "1024-256"},
    "barlow": {"objective": "barlow", "projector": "512-512"},
}


def objectives(*names: str) -> Axis:
    """A part of the axis, in the order given."""
    for name in names:
        if name not in SMALL:
            raise UserError(f"no small setting for objective '{name}'.{nearest(name, SMALL)}")
    return {name: SMALL[name] for name in names}
