"""study.json: what a study's folder holds the tables of, so that other commands can read it without the study's file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from wingspan import spec
from wingspan import study as studies
from wingspan.pretrain import Pretrain
from wingspan.progress import console
from wingspan.report import Ruling
from wingspan.runs import read_json, write_json
from wingspan.study import Study

NAME = "study.json"


def write(study: Study, out: Path, table: pd.DataFrame, command: str, rulings: Sequence[Ruling] | None = None) -> None:
    """Write study.json: name, question, source, command and base run; of each run its name, fingerprint, path (from `out`) and
    status, out of `study.run_table`; and what became of the claims. rulings None: nothing was judged now; what was before stays
    if the plan is the same.
    """
    statuses = dict(zip(table["run"], table["status"], strict=True))
    runs = [
        {
            "run": cell.folder.path.name,
            "fingerprint": spec.fingerprint(cell.run),
            "path": os.path.relpath(cell.folder.path, out),
            "status": statuses[cell.folder.path.name],
        }
        for cell in studies.plan(study, out)
    ]
    about = {"name": study.name, "question": study.question, "source": study.source, "command": command}
    claims = _judged(out, runs) if rulings is None else [dataclasses.asdict(ruling) for ruling in rulings]
    write_json(out / NAME, {**about, "base": spec.to_json(study.base), "runs": runs, "claims": claims})


def _judged(out: Path, runs: Sequence[Mapping[str, str]]) -> list[object]:
    before = read_json(out / NAME) if (out / NAME).exists() else {"runs": []}
    same = {run["fingerprint"] for run in before["runs"]} == {run["fingerprint"] for run in runs}
    return list(before.get("claims", ())) if same else []


def tell_of_others(study: Study, out: Path) -> None:
    """Say so when the folder's tables are of other settings: they are written anew, and the runs behind them are kept."""
    if not (out / NAME).exists():
        return
    before = read_json(out / NAME)
    planned = {spec.fingerprint(cell.run) for cell in studies.plan(study, out)}
    others = [run for run in before["runs"] if run["fingerprint"] not in planned]
    if not others:
        return
    changed = spec.differences(spec.from_json(Pretrain, before["base"]), study.base)
    console.print(
        f"{out} holds tables of other settings: {len(others)} of their {len(before['runs'])} runs are not in this plan "
        f"({'; '.join(changed) or 'other axes'}). They are left out of the new tables; the runs are kept. To keep the old "
        f"tables too, stop and give another --out. The old ones came from:\n  {before['command']}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
