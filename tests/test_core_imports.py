"""The core runs where torchvision cannot be imported, and asking for help does not wait for torch."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torchvision", "timm", "kornia", "lightly"}:
            raise ImportError(name + " cannot be imported here")

sys.meta_path.insert(0, Refuse())
try:
    import timm
except ImportError:
    pass
else:
    raise SystemExit("the hook does not hold")
import wingspan
names = [found.name for found in pkgutil.walk_packages(wingspan.__path__, "wingspan.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

LIGHT = """
import sys
import wingspan, wingspan.cli
text = wingspan.cli.contents()
assert "pretrain" in text and "study" in text, text
heavy = {"torch", "numpy", "pandas", "datasets", "matplotlib", "lightning_fabric", "tyro"} & set(sys.modules)
assert not heavy, heavy
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_the_interop_libraries() -> None:
    assert int(run(WITHOUT).split()[-1]) > 30


def test_the_list_of_verbs_is_printed_without_torch() -> None:
    run(LIGHT)
