"""What a result was made with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path


def provenance() -> dict[str, str]:
    """What produced a result: command, time, versions, revision of the code, machine."""
    names = ("wingspan", "torch", "lightning-fabric", "datasets", "numpy")
    found = {name: metadata.version(name) for name in names}
    revision = ""
    if shutil.which("git"):  # a cluster's nodes may have none
        words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        revision = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": " ".join(["wingspan", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        **found,
        "revision": revision or "unknown",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
