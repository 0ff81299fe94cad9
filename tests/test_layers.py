"""The floors of the house: a file imports only from lower floors, or from its own. The one place where they are listed."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import wingspan

HOUSE = Path(wingspan.__file__).parent
FLOORS = {
    "errors": 0, "spec": 0, "chance": 0, "progress": 0, "stopping": 0, "runs": 0, "runtime": 0, "caches": 0, "compiled": 0,
    "interop": 0, "processes": 0, "synced": 0, "cluster": 0, "sharding": 0, "provenance": 0,
    "data": 1, "bits": 1, "colour": 1, "augment": 1, "sampling": 1, "streaming": 1, "weights": 1,
    "backbones": 2, "projector": 2, "objectives": 2, "store": 2, "neighbours": 2,
    "width": 2,
    "learner": 3, "optim": 3, "start": 3,
    "pretrain": 4, "loop": 4, "online": 4, "warm": 4,
    "forecast": 5, "rate": 5, "recipes": 5, "network": 5, "features": 5, "extraction": 5,
    "handover": 5, "sheet": 5, "inputs": 5,
    "measures": 6, "rcdm": 6,
    "crew": 7, "results": 7, "selection": 7, "evidence": 7, "claims": 7, "advice": 7, "proxy": 7, "prices": 7, "study": 7,
    "storage": 7, "pictures": 7, "retrieval": 7, "members": 7, "subjects": 7, "company": 7, "together": 7,
    "finetuning": 7, "finetuned": 7,
    "experiments": 8, "export": 8,
    "tables": 9, "findings": 9, "canvas": 9, "figures": 9, "curves": 9, "layout": 9, "frontier": 9,
    "pages": 9, "report": 9, "notes": 9, "board": 9, "workbench": 9,
    "costs": 9, "slurm": 9, "jobs": 9, "standing": 9, "launch": 9, "bill": 9,
    "gallery": 9, "collage": 9, "mosaic": 9, "taus": 9, "retained": 9,
    "verbs": 10, "cli": 10,
}  # fmt: skip
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
FILES = sorted(HOUSE.rglob("*.py"))


def floor(file: Path) -> str:
    return file.relative_to(HOUSE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> set[str]:
    """The rooms (first names below wingspan) that a file imports from, anywhere in it."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("wingspan.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "wingspan":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wingspan."):
            rooms.add((node.module or "").split(".")[1])
    return rooms


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_imports_only_from_lower_floors(file: Path) -> None:
    room = floor(file)
    if room == "__init__":
        return
    assert room in FLOORS, f"{file.name} stands on no floor: list it in this test"
    for other in imported(ast.parse(file.read_text())):
        assert FLOORS[other] <= FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


def modules_imported(tree: ast.AST) -> set[str]:
    """Dotted names of wingspan's modules that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wingspan"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_import_cycle() -> None:
    names = {".".join(("wingspan", *file.relative_to(HOUSE).with_suffix("").parts)): file for file in FILES}
    graph = {name: modules_imported(ast.parse(file.read_text())) & set(names) for name, file in names.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError naming the cycle
