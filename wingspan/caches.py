"""Where files that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(chosen: str = "") -> Path:
    """What the user chose, else $WINGSPAN_CACHE, else ~/.cache/wingspan."""
    return Path(chosen or os.environ.get("WINGSPAN_CACHE") or "~/.cache/wingspan").expanduser()
