"""Made-up tables of numbers and curves, pages of them, and a reader of what was written and drawn."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wingspan import canvas
from wingspan.report import Page


def rows(
    measure: str = "linear",
    metric: str = "accuracy",
    objectives: tuple[str, ...] = ("simclr",),
    widths: tuple[int, ...] = (32, 128),
    seeds: int = 1,
    tasks: tuple[str, ...] = ("shape",),
    sets: tuple[str, ...] = ("scenes",),
    series: tuple[str, ...] = ("",),
    **more: object,
) -> pd.DataFrame:
    """Every combination once; values rise with the place of each of its parts, so that none are alike."""
    made = []
    for at, (o, w, s, d, t, r) in enumerate(itertools.product(objectives, widths, range(seeds), sets, tasks, series)):
        row: dict[str, object] = {"run": f"{o}-{w}-{s}", "objective": o, "width": w, "seed": s, "measure": measure}
        row |= {"metric": metric, "data": d, "task": t, "series": r, "classes": 4, "n": 400, "chance": 0.25}
        role = "in-distribution" if d == sets[0] and t == tasks[0] else "transfer"
        made.append({**row, "role": role, "error": 0.02, "value": 0.3 + 0.001 * at, **more})
    return pd.DataFrame(made)


def curve_rows(widths: tuple[int, ...] = (32, 128), sets: tuple[str, ...] = ("scenes",), **more: object) -> pd.DataFrame:
    made = []
    for w, d in itertools.product(widths, sets):
        row: dict[str, object] = {"run": f"simclr-{w}-0", "objective": "simclr", "width": w, "seed": 0, "measure": "sparsity"}
        row |= {"data": d, "role": "transfer", "name": "sorted", "task": "", "series": "", "expected": False, "x": [0.0, 1.0]}
        row |= {"y": [0.0, float(w)], "x_label": "share", "y_label": "zeros", "x_scale": "linear", "y_scale": "linear"}
        made.append({**row, **more})
    return pd.DataFrame(made)


def page(table: pd.DataFrame, drawn: pd.DataFrame | None = None, **more: object) -> Page:
    found = table if drawn is None else pd.concat([table, drawn])
    runs = found.drop_duplicates("run")[["run", "objective", "width", "seed"]].assign(status="done")
    given: dict[str, Any] = {"title": "Widths", "question": "How wide?", "notes": (), "table": table, "runs": runs}
    given |= {"settings": {}, "command": "wingspan study x", "provenance": {}, "pictures": {}}
    given |= {} if drawn is None else {"curves": drawn}
    return Page(**{**given, **more})


class Reader(HTMLParser):
    """Elements with their attributes, and text by the element it stands in."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text.setdefault(tag, []).append(data)

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(name == tag and (kind is None or attrs.get("class") == kind) for name, attrs in self.tags)

    def links(self) -> list[str]:
        return [str(attrs["href"]) for tag, attrs in self.tags if tag == "a"]


def panels(path: Path) -> int:
    """How many pictures a page shows, legends not counted."""
    text = path.read_text(encoding="utf-8")
    return text.count("<svg") - sum(part.count("<svg") for part in re.findall(r'<ul class="legend">.*?</ul>', text, re.DOTALL))


def axes_of(panel: canvas.Panel) -> Any:
    axes = Figure().subplots()
    panel.draw(axes)
    return axes
