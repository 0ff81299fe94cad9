"""From a study to its folder: carry it out, write the table and the page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from wingspan import report, spec
from wingspan import study as studies
from wingspan.errors import UserError
from wingspan.pretrain import Sitting
from wingspan.progress import console
from wingspan.runs import explained, provenance
from wingspan.sheet import contact_sheet
from wingspan.study import Outcome, Study


def work(study: Study, out: Path, sitting: Sitting, jobs: int, command: str) -> Outcome:
    """Do what is missing of a study, then write results.parquet and report.html into `out`.

    Raises UserError when nothing could be measured.
    """
    failed = studies.carry_out(study, out, sitting, jobs)
    table = studies.results(study, out)
    if table.empty:
        raise UserError(
            f"study '{study.name}' measured nothing: {'; '.join(dict.fromkeys(failed.values())) or 'its plan is empty'}"
        )
    with explained(out):
        table.to_parquet(out / "results.parquet", index=False)
    page = report.write(_page(study, out, table, failed, command), out)
    for finding in report.compare(table):
        if finding.headline:
            console.print(f"  {finding}", highlight=False, soft_wrap=True)
    return Outcome(table, page, failed)


def _page(study: Study, out: Path, table: object, failed: dict[str, str], command: str) -> report.Page:
    pictures = {}
    sheet = out / "views.png"
    if not sheet.exists():
        contact_sheet(study.base, sheet)
    pictures["Images (first of each row) and the views that training sees"] = sheet
    return report.Page(
        title=f"Width study: {study.name}",
        question=study.question,
        notes=study.notes,
        table=table,
        runs=studies.run_table(study, out, failed),
        settings=json.loads(json.dumps(spec.to_json(study.base))),
        command=command,
        provenance=provenance(),
        pictures=pictures,
    )


def show_plan(study: Study, out: Path) -> None:
    """Print every run of a study and how far it is."""
    table = Table(title=f"{study.name}: {study.question}")
    for column in ("run", *study.axes, "status"):
        table.add_column(column)
    for cell, row in zip(studies.plan(study, out), studies.run_table(study, out, {}).to_dict("records"), strict=True):
        table.add_row(cell.folder.path.name, *cell.place.values(), str(row["status"]))
    console.print(table)
