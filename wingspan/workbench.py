"""From a study, or from runs that were measured, to a folder: carry it out, write the tables and the pages."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from rich.markup import escape

from wingspan import mosaic, notes, report, retained, spec, together
from wingspan import study as studies
from wingspan.claims import judge
from wingspan.errors import UserError
from wingspan.experiments._paper import Published
from wingspan.pretrain import Sitting
from wingspan.progress import console
from wingspan.provenance import provenance
from wingspan.rcdm.kept import Drawing
from wingspan.results import Entry, Tables, identity, label_of, tables
from wingspan.runs import explained, read_json
from wingspan.sheet import contact_sheet
from wingspan.stopping import Interrupted
from wingspan.study import Outcome, Study
from wingspan.together import Party


@dataclass(frozen=True)
class Printed:
    """What the paper printed of a study: its numbers, and the study at the paper's settings, whose claims they answer."""

    study: Study
    numbers: Published


def work(
    study: Study, out: Path, sitting: Sitting, jobs: int, command: str, printed: Printed | None = None,
    failed: Mapping[str, str] | None = None,
) -> Outcome:  # fmt: skip
    """Do what is missing of a study, then write results.parquet, study.json and report.html into `out`.

    failed: given where the runs were carried out elsewhere: run folder name -> what failed. Raises UserError when nothing could
    be measured.
    """
    notes.tell_of_others(study, out)
    try:
        failed = studies.carry_out(study, out, sitting, jobs) if failed is None else dict(failed)
        drawn = studies.parties(study, studies.plan(study, out))
        failed |= draw(drawn, out, sitting.device, command, failed)
    except Interrupted:
        notes.write(study, out, studies.run_table(study, out, {}), command)
        raise
    found, runs = studies.results(study, out), studies.run_table(study, out, failed)
    ruled = None if found.numbers.empty else rulings(study, found.numbers, printed)
    notes.write(study, out, runs, command, ruled)
    if ruled is None:
        raise UserError(
            f"study '{study.name}' measured nothing: {'; '.join(dict.fromkeys(failed.values())) or 'its plan is empty'}"
        )
    sheet = out / "views.png"
    if not sheet.exists():
        contact_sheet(study.base, sheet)
    page = report.Page(
        title=f"Width study: {study.name}",
        question=study.question,
        notes=(*study.notes, *links(drawn, out)),
        table=found.numbers,
        runs=runs,
        settings=json.loads(json.dumps(spec.to_json(study.base))),
        command=command,
        provenance=provenance(),
        pictures={**grids(drawn, out), "Images (first of each row) and the views that training sees": sheet},
        curves=found.curves,
        measures=found.measures,
        measured_notes=found.notes,
        rulings=ruled,
        published=printed.numbers.drawn if printed else pd.DataFrame(),
        published_from=f"The paper's {printed.study.source}" if printed else "",
    )
    for ruling in ruled:
        console.print(f"  {ruling.claim}: [bold]{ruling.word}[/]. {escape(ruling.evidence)}", highlight=False, soft_wrap=True)
    return Outcome(found.numbers, _write(page, found, out), failed)


def draw(
    found: Sequence[Party], out: Path, device: str, command: str, failed: Mapping[str, str], again: bool = False
) -> dict[str, str]:
    """Draw what is missing of companies, each with its page; run folder name -> what failed, with what had `failed` before."""
    lost = together.carry_out(found, out, device, functools.partial(_show, command=command), again)
    return {name: "; ".join(filter(None, [failed.get(name, ""), message])) for name, message in lost.items()}


def _show(drawing: Drawing, folder: Path, command: str) -> None:
    """The pictures and the page of a company in its folder, and its table in the terminal."""
    grid = folder / together.GRID
    mosaic.draw(drawing, grid)
    retained.write([drawing], folder, command, pictures={f"{drawing.data}: pictures made from h": grid})
    console.print(retained.printed(drawing))


def grids(found: Sequence[Party], out: Path) -> dict[str, Path]:
    """Caption -> the grid and the curve of every company that was drawn."""
    named = ((f"{label_of(party.measure)}, {party.data.label_name}", party.folder(out)) for party in found)
    told = ((together.GRID, "pictures made from h"), (together.CURVE, "what was kept, against D"))
    return {f"{name}: {what}": folder / file for name, folder in named for file, what in told if (folder / file).exists()}


def links(found: Sequence[Party], out: Path) -> list[str]:
    """To every company's own page, as a page in `out` links it."""
    pages = [(party, party.folder(out) / together.PAGE) for party in found]
    made = Markup('<a href="{}">All that was drawn of {}: every number, with intervals, references and what not to read</a>.')
    return [made.format(file.relative_to(out).as_posix(), party.data.label_name) for party, file in pages if file.exists()]


def rulings(study: Study, table: pd.DataFrame, printed: Printed | None = None) -> tuple[report.Ruling, ...]:
    """What became of each of a study's claims, and the same statistic of the paper's own numbers."""
    theirs = [judge(claim, printed.numbers.table).told for claim in printed.study.claims] if printed else []
    made = []
    for claim, paper in zip(study.claims, theirs or [""] * len(study.claims), strict=True):
        verdict = judge(claim, table)
        evidence = verdict.sentence.partition(": ")[2]
        made.append(report.Ruling(claim.text, study.source, verdict.word, _upper(evidence), _upper(paper)))
    return tuple(made)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def present(
    entries: Sequence[Entry], out: Path, command: str, failed: Mapping[str, str], drawn: Sequence[Party] = ()
) -> Outcome:
    """Write the tables and the pages of everything that was ever measured on some runs. drawn: companies of them.

    Raises UserError when that is nothing.
    """
    found = tables(together.comparable(entries))
    if found.numbers.empty:
        raise UserError(f"nothing was measured: {'; '.join(dict.fromkeys(failed.values())) or 'no measure fits these images'}")
    runs = pd.DataFrame([{**identity(entry), **_facts(entry), "status": _status(entry, failed)} for entry in entries])
    page = report.Page(
        title=f"What {len(entries)} representations kept" if len(entries) > 1 else "What the representation kept",
        question=f"Measured on frozen features: {', '.join(found.measures)}.",
        notes=tuple(links(drawn, out)),
        table=found.numbers,
        runs=runs,
        settings={entry.folder.path.name: json.loads(json.dumps(spec.to_json(entry.run))) for entry in entries},
        command=command,
        provenance=provenance(),
        pictures=grids(drawn, out),
        curves=found.curves,
        measures=found.measures,
        measured_notes=found.notes,
    )
    return Outcome(found.numbers, _write(page, found, out), failed)


def _write(page: report.Page, found: Tables, out: Path) -> Path:
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        found.numbers.to_parquet(out / "results.parquet", index=False)
        if not found.curves.empty:
            found.curves.to_parquet(out / "curves.parquet", index=False)
    path = report.write(page, out)
    for finding in report.headlines(found.numbers) if not page.rulings else ():  # the claims say what was asked
        console.print(f"  {finding}", highlight=False, soft_wrap=True)
    return path


def _facts(entry: Entry) -> dict[str, object]:
    return dict(read_json(entry.folder.finished)) if entry.folder.done() else {}


def _status(entry: Entry, failed: Mapping[str, str]) -> str:
    if entry.folder.path.name in failed:
        return f"failed: {failed[entry.folder.path.name]}"
    return "done" if entry.folder.done() else "in training"
