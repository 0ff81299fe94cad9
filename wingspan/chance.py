"""Every random draw is a function of (seed, purpose, step).

No generator lives across steps, so nothing random has to be saved in a checkpoint, and two purposes never share a stream:
adding a draw for one purpose changes no other. Draws are made on the CPU so that every device sees the same numbers.
"""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, purpose: str, *steps: int) -> int:
    """A 63-bit integer that depends on every argument; the same on every machine and Python version."""
    text = "\x1f".join([str(seed), purpose, *map(str, steps)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *steps: int) -> torch.Generator:
    """A CPU generator for one purpose at one step (or epoch, or index)."""
    made = torch.Generator(device="cpu")
    made.manual_seed(key(seed, purpose, *steps))
    return made
