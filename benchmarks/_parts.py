"""A benchmark made of parts, in a temporary folder with a cache of its own; one JSON, or a line a part."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Part = Callable[[argparse.Namespace, Path], dict[str, Any]]


def carry_out(options: argparse.Namespace, parts: Mapping[str, Part], **about: Any) -> None:
    """The parts that `options.only` names, or all; what they found is printed, `options.json` says how."""
    load = [round(load, 2) for load in os.getloadavg()]
    result: dict[str, Any] = {**about, "torch": torch.__version__, "load_average": load}
    with tempfile.TemporaryDirectory(prefix=f"wingspan-{about['benchmark']}-") as folder:
        os.environ["WINGSPAN_CACHE"] = str(Path(folder) / "cache")
        for name in options.only or parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
            result[name] = parts[name](options, Path(folder))
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
