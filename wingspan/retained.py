"""What drawings found, as numbers: a table, retention.csv and .json, a figure against width, and a page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from PIL import Image
from rich import box
from rich.markup import escape
from rich.table import Table

from wingspan import canvas, taus
from wingspan.errors import UserError
from wingspan.pages import Drawn, Files
from wingspan.provenance import provenance
from wingspan.rcdm.encoders import Encoder
from wingspan.rcdm.kept import Drawing, Kept, Metric, Rung
from wingspan.rcdm.retention import BELOW, CALIBRATED
from wingspan.report import render
from wingspan.runs import explained, finite, write_atomic
from wingspan.tables import number

FACTORS = ("pixels", "colour", "layout", "detail", "flip asymmetry", "histogram", "foreground", "background")
COLUMNS = ["data", "encoder", "group", "D", "seed", "run", "factor", "rung", "metric", "value", "low", "high", "n", "chance"]
COLUMNS += ["trusted"]
_PER_INCH = 160 / 96  # a grid's pixels in one of the page's


def table(drawing: Drawing) -> pd.DataFrame:
    """A row a number, with `COLUMNS`. factor is "" for ranks; trusted is empty where the trust rule says nothing.

    That rule is of what samples say of a factor: tau, rho and kappa.
    """
    of = {encoder.name: encoder for encoder in drawing.encoders}
    return pd.DataFrame([_row(drawing, of[kept.encoder], kept) for kept in drawing.numbers], columns=COLUMNS)


def factors(drawing: Drawing) -> list[str]:
    """The factors that have numbers: those of pictures first, then labels and quantities as they come."""
    found = dict.fromkeys(kept.factor for kept in drawing.numbers if kept.factor)
    return [*(name for name in FACTORS if name in found), *(name for name in found if name not in FACTORS)]


def printed(drawing: Drawing) -> Table:
    """For a terminal: the factors of pictures by encoder, kappa of pixels, and ranks; under-trained ones are marked."""
    metric, name = taus.MAIN[drawing.rung]
    shown = [factor for factor in factors(drawing) if factor in FACTORS]
    sampled, ranked = drawing.rung == "samples", [kept for kept in drawing.numbers if kept.metric == "mrr"]
    marked = any(not set(shown).isdisjoint(wrong) for wrong in drawing.untrusted.values())
    left = len(factors(drawing)) - len(shown)
    said = ["† under-trained: do not read"] if marked else []
    said += [f"{left} more factor{'s' if left > 1 else ''} in retention.csv"] if left else []
    made = Table(
        title=escape(f"{drawing.data}: {name} by {drawing.rung}, preset {drawing.preset}"),
        caption=" · ".join(said) or None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    made.add_column("encoder", overflow="fold")
    for factor in shown:
        made.add_column(factor.replace(" ", "\n"), justify="right", no_wrap=True)
    if sampled:
        made.add_column("κ of\npixels", justify="right", no_wrap=True)
    if ranked:
        made.add_column(f"MRR\n(chance\n{ranked[0].chance or math.nan:.2g})", justify="right", no_wrap=True)
    rows = taus.in_order(drawing.encoders)
    for encoder, following in zip(rows, [*rows[1:], None], strict=True):
        cells = [escape(encoder.name)]
        for factor in shown:
            mark = " †" if factor in drawing.untrusted.get(encoder.name, {}) else ""
            value = _value(drawing.number(encoder.name, factor, metric, drawing.rung))
            cells.append(f"[yellow]{value}{mark}[/yellow]" if mark else value)
        cells += [_value(drawing.number(encoder.name, "pixels", "kappa", "samples"))] if sampled else []
        cells += [_value(drawing.number(encoder.name, "", "mrr", "samples"), number)] if ranked else []
        made.add_row(*cells, end_section=following is not None and following.group != encoder.group)
    return made


def write(drawings: Sequence[Drawing], folder: Path, command: str, *, pictures: Mapping[str, Path]) -> Path:
    """Write `retention.csv`, `retention.json`, a `curve.png` a data set and `report.html` into `folder`; the page's path.

    pictures: caption -> PNG, shown on the page. In JSON a value that is not finite is null. Raises UserError when a picture is
    missing or the folder cannot be written.
    """
    shown = [_picture(caption, path) for caption, path in pictures.items()]
    write_atomic(folder / "retention.csv", pd.concat([table(drawing) for drawing in drawings]).to_csv(index=False))
    nested = {"command": command, "drawings": [_nested(drawing) for drawing in drawings]}
    write_atomic(folder / "retention.json", json.dumps(finite(nested), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    path = folder / "report.html"
    with explained(folder):
        files = Files(folder)
        sections = [_section(drawing, files, len(drawings) > 1) for drawing in drawings]
        made = {"title": "What was kept", "sections": sections, "pictures": shown, "sampled": any(s.sampled for s in sections)}
        made |= {"calibrated": CALIBRATED, "below": BELOW}
        render("retained.html.j2", path, **made, command=command, provenance=provenance())
    return path


# ------------------------------------------------------------------------------------------------------------------- files


def _row(drawing: Drawing, encoder: Encoder, kept: Kept) -> list[object]:
    judged = kept.rung == "samples" and kept.factor
    trusted = kept.factor not in drawing.untrusted.get(encoder.name, {}) if judged else None
    about = [drawing.data, encoder.name, encoder.group, encoder.D, encoder.seed, encoder.run]
    return [*about, kept.factor, kept.rung, kept.metric, kept.value, kept.low, kept.high, kept.n, kept.chance, trusted]


def _nested(drawing: Drawing) -> dict[str, Any]:
    encoders = []
    for encoder in drawing.encoders:
        numbers: dict[str, Any] = {}
        for kept in (each for each in drawing.numbers if each.encoder == encoder.name):
            value = {"value": kept.value, "low": kept.low, "high": kept.high, "n": kept.n}
            value |= {} if kept.chance is None else {"chance": kept.chance}
            numbers.setdefault(kept.rung, {}).setdefault(kept.factor or "ranks", {})[kept.metric] = value
        about = {"name": encoder.name, "group": encoder.group, "D": encoder.D, "seed": encoder.seed, "run": encoder.run}
        about |= {"identity": encoder.identity, "reference": encoder.reference}
        encoders.append({**about, "untrusted": dict(drawing.untrusted.get(encoder.name, {})), "numbers": numbers})
    of = {"data": drawing.data, "rung": drawing.rung, "preset": drawing.preset, "notes": list(drawing.notes)}
    return {**of, "encoders": encoders}


# -------------------------------------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class _Cell:
    """A number with its interval below; `warning` says why it must not be read."""

    text: str
    aside: str = ""
    sort: object = ""
    warning: str = ""
    left: bool = False


@dataclass(frozen=True)
class _Grid:
    heading: str
    reading: str
    head: Sequence[str]
    rows: Sequence[Sequence[_Cell]]
    folded: bool = False


@dataclass(frozen=True)
class _Section:
    """One data set on the page."""

    data: str
    rung: Rung
    preset: str
    sampled: bool
    drawn: Drawn | None
    grids: Sequence[_Grid]
    warnings: Sequence[str]
    notes: Sequence[str]


def _section(drawing: Drawing, files: Files, several: bool) -> _Section:
    names, rung = factors(drawing), drawing.rung
    metric, letter = taus.MAIN[rung]
    grids = [_by_factor(drawing, f"{letter} of the {rung}", metric, rung)]
    if rung == "samples":
        reading = f"1: samples are as varied as they are wrong. Trusted from {CALIBRATED[0]} to {CALIBRATED[1]}."
        grids.append(_by_factor(drawing, "κ, calibration", "kappa", rung, reading))
        grids += list(_ranks(drawing))
        grids.append(_by_factor(drawing, "ρ, consistency", "rho", rung, folded=True))
    for lower in ("decoder", "ridge")[{"samples": 0, "decoder": 1, "ridge": 2}[rung] :]:
        grids.append(_by_factor(drawing, f"R² of the {lower}", "r2", lower))  # type: ignore[arg-type]
    of = [f"{name}, {factor}: {said}" for name, each in drawing.untrusted.items() for factor, said in each.items()]
    drawn = _curve(drawing, names, files, several)
    return _Section(drawing.data, rung, drawing.preset, rung == "samples", drawn, grids, of, drawing.notes)


def _curve(drawing: Drawing, names: Sequence[str], files: Files, several: bool) -> Drawn | None:
    rows = table(drawing)
    picture = taus.picture(rows, names, [each.name for each in drawing.encoders if each.reference], drawing.rung)
    if picture is None:
        return None
    file = files.name(f"curve-{drawing.data}" if several else "curve", ".png")
    said = taus.note(rows, drawing.rung)
    canvas.png(picture, files.folder / file, title=f"What was kept of {drawing.data}", note=said)
    legend = [(name, Markup(canvas.key(style))) for name, style in picture.legend.items()]
    return Drawn("", legend, [Markup(svg) for svg in canvas.svgs(picture)], said, file, f"by-{picture.columns}")


def _by_factor(
    drawing: Drawing, heading: str, metric: Metric | str, rung: Rung, reading: str = "", folded: bool = False
) -> _Grid:
    """Rows encoders, columns factors that have such a number."""
    found = {(k.encoder, k.factor): k for k in drawing.numbers if k.metric == metric and k.rung == rung}
    columns = [factor for factor in factors(drawing) if any(factor == each for _, each in found)]
    rows = []
    for encoder in taus.in_order(drawing.encoders):
        wrong = drawing.untrusted.get(encoder.name, {}) if rung == "samples" else {}
        cells = [_cell(found.get((encoder.name, factor)), wrong.get(factor, "")) for factor in columns]
        rows.append([*_about(encoder), *cells])
    return _Grid(heading, reading, ["encoder", "D", *columns], rows, folded)


def _ranks(drawing: Drawing) -> Iterator[_Grid]:
    """How near a sample comes to its source; nothing where no encoder could be asked."""
    ranked = {(k.encoder, k.metric): k for k in drawing.numbers if k.metric in ("mrr", "median rank")}
    if not ranked:
        return
    rows = []
    for encoder in taus.in_order(drawing.encoders):
        cells = []
        for metric in ("mrr", "median rank"):
            kept = ranked.get((encoder.name, metric))
            chance = math.nan if kept is None or kept.chance is None else kept.chance
            cells += [_cell(kept, write=number), _Cell(number(chance), sort=_sort(chance))]
        rows.append([*_about(encoder), *cells])
    reading = (
        "A sample goes through the encoder again, and its source is ranked among all test images: MRR is the mean of 1 / rank. "
        "An encoder that discards much gives low ranks to good samples too."
    )
    yield _Grid("ranks", reading, ["encoder", "D", "MRR", "chance", "median rank", "chance"], rows)


def _about(encoder: Encoder) -> tuple[_Cell, _Cell]:
    return _Cell(encoder.name, sort=encoder.name, left=True), _Cell(f"{encoder.D:,}", sort=encoder.D)


def _cell(kept: Kept | None, warning: str = "", write: Any = None) -> _Cell:
    if kept is None or not math.isfinite(kept.low) or not math.isfinite(kept.high):
        return _Cell(_value(kept, write), "", _sort(kept.value if kept else math.nan), warning)
    interval = f"{_value(kept.low, write)} to {_value(kept.high, write)}"
    return _Cell(_value(kept, write), interval, _sort(kept.value), warning)


def _value(kept: Kept | float | None, write: Any = None) -> str:
    """Two digits, so that columns stand below each other; infinity where nothing varied."""
    value = math.nan if kept is None else kept.value if isinstance(kept, Kept) else kept
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "–" if math.isnan(value) else write(value) if write else f"{value:.2f}"


def _sort(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _picture(caption: str, path: Path) -> tuple[str, str, int]:
    """Caption, the PNG's data and its width on the page."""
    if not path.is_file():
        raise UserError(f"There is no picture at '{path}'. Give the path of a PNG, or leave the picture out.")
    with Image.open(path) as image:
        width = round(image.size[0] / _PER_INCH)
    return caption, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), width
