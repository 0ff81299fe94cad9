"""Wingspan controls how wide a representation is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wingspan.width import set_width as set_width

__all__ = ["set_width"]


def __getattr__(name: str) -> Any:
    if name == "set_width":  # only now, since it needs torch, which `wingspan --help` must not wait for
        from wingspan.width import set_width

        return set_width
    raise AttributeError(f"module 'wingspan' has no attribute '{name}'")
