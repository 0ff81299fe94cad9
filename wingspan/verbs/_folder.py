"""A study's folder as advice needs it: its table, which runs are behind it, and what of the study is not done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wingspan import spec
from wingspan.errors import UserError, nearest
from wingspan.notes import NAME as NOTE
from wingspan.pretrain import load_run
from wingspan.proxy import MEASURES
from wingspan.results import name_of
from wingspan.runs import RunFolder, read_json
from wingspan.verbs import _arguments as arguments
from wingspan.verbs.study import at_scale, names

TABLE = "results.parquet"
_COLUMNS = ("run", "fingerprint", "objective", "width", "seed", "measure", "data", "role", "metric", "value")


@dataclass(frozen=True)
class Folder:
    """runs: fingerprint -> folder, of those that could be found. command: what goes on with the study; "" where unknown."""

    path: Path
    table: pd.DataFrame
    runs: Mapping[str, RunFolder]
    command: str
    notes: tuple[str, ...]  # what is not done, what is not known

    @property
    def unlabelled(self) -> str:
        """What adds the measures that advice without labels goes by."""
        words = self.command.split()
        asked = ",".join(arguments.take_list(words, "--measures") or self.table["measure"].map(name_of).unique())
        wanted = dict.fromkeys([*asked.split(","), *MEASURES])
        if not words:
            return f"give the command that made this table --measures {','.join(wanted)}"
        return " ".join([*words, "--measures", ",".join(wanted)])


def find(study: str, scale: str | None) -> Path:
    """The folder that STUDY means: itself, or a study's by name. Raises UserError naming the command that makes it."""
    path = Path(study)
    if (path / TABLE).is_file():
        if scale:
            raise UserError(f"--scale {scale} goes with a study's name, and {study} is a folder: leave it out.")
        return path
    if study in names():
        _, scale = at_scale(study, scale)
        path = Path("studies") / f"{study}-{scale}"
        if (path / TABLE).is_file():
            return path
        made_by = f"wingspan study {study} --scale {scale}"
        raise UserError(
            f"{path / TABLE} does not exist: {_command(path) or made_by} makes it. Kept elsewhere? Give the folder."
        )
    if path.is_dir():
        made_by = _command(path) or "wingspan study NAME --out, or wingspan measure RUN ... --out,"
        raise UserError(f"{study} holds no {TABLE}: {made_by} makes it.")
    if path.exists():
        raise UserError(f"{study} is a file: give the folder of a study, which holds {TABLE}, or a study's name.")
    raise UserError(f"'{study}' is neither a folder nor a study.{nearest(study, names())} See wingspan study --list.")


def _command(path: Path) -> str:
    return str(_note(path).get("command", ""))


def _note(path: Path) -> Mapping[str, object]:
    """study.json, {} where a folder has none. Raises UserError where it is damaged."""
    if not (path / NOTE).is_file():
        return {}
    note = read_json(path / NOTE)
    runs = note.get("runs") if isinstance(note, dict) else None
    whole = isinstance(runs, list) and all(
        isinstance(run, dict) and {"run", "fingerprint", "path", "status"} <= run.keys() for run in runs
    )
    if not whole:
        raise UserError(f"{path / NOTE} is damaged: an object with the runs of a study expected. Remove it to go without.")
    return dict(note)


def read(path: Path) -> Folder:
    """A study's folder. Raises UserError for a table that cannot be read, or is of other runs than study.json lists."""
    table = _table(path / TABLE)
    note = _note(path)
    if note:
        return _listed(path, table, note)
    found = {}
    places = (path / "runs", path.resolve().parent / "runs")  # its own, or those that studies side by side share
    for row in table.drop_duplicates("fingerprint").itertuples():
        for place in places:
            folder = RunFolder(place / str(row.run))
            if _is(folder, str(row.fingerprint)):
                found[str(row.fingerprint)] = folder
    lacking = table["fingerprint"].nunique() - len(found)
    notes = [f"{path} has no {NOTE}, so whether runs of the study are missing is not known."]
    if lacking:
        where = " nor ".join(map(str, places))
        notes.append(f"{lacking} of {table['fingerprint'].nunique()} runs are in neither {where}: their costs are unknown.")
    return Folder(path, table, found, "", tuple(notes))


def _is(folder: RunFolder, fingerprint: str) -> bool:
    try:
        return folder.started() and spec.fingerprint(load_run(folder)) == fingerprint
    except UserError:
        return False


def _listed(path: Path, table: pd.DataFrame, note: Mapping[str, object]) -> Folder:
    runs: list[dict[str, str]] = note["runs"]  # type: ignore[assignment]
    command = str(note.get("command", ""))
    known = {run["fingerprint"] for run in runs}
    strange = table[~table["fingerprint"].isin(known)].drop_duplicates("fingerprint")
    if len(strange):
        raise UserError(
            f"{path / TABLE} and {path / NOTE} are of different settings: {len(strange)} of the table's runs are not in "
            f"{NOTE} ({', '.join(strange['run'].astype(str)[:3])}). Draw the table again: {command or 'give the study again'}"
        )
    there = set(table["fingerprint"])
    left = [run for run in runs if run["status"] != "done" or run["fingerprint"] not in there]
    notes = []
    if left:
        said = [run["status"].partition(":")[0] if run["status"] != "done" else "done but not in the table" for run in left]
        counts = ", ".join(f"{count} {status}" for status, count in Counter(said).items())
        goes_on = f"; go on with: {command}" if command else ""
        verb = "are" if len(left) > 1 else "is"
        notes.append(f"{len(left)} of {len(runs)} runs {verb} not done ({counts}): the advice rests on the rest{goes_on}")
    found = {run["fingerprint"]: RunFolder(path / run["path"]) for run in runs}
    return Folder(path, table, {key: run for key, run in found.items() if run.started()}, command, tuple(notes))


def _table(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own derive from these
        raise UserError(f"{file} cannot be read as a table ({error}): make it again with the study's command.") from error
    absent = [name for name in _COLUMNS if name not in table]
    if absent:
        raise UserError(f"{file} is no table of wingspan study or measure: it has no column {', '.join(absent)}.")
    try:
        table = table.astype({"width": int, "value": float})
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} is no table of wingspan study or measure: {error}.") from error
    for name in ("task", "series"):
        table[name] = table[name].fillna("").astype(str) if name in table else ""
    if "error" not in table:  # of a version before standard errors: that of an accuracy follows from n
        right = table["value"].clip(0, 1)
        table["error"] = np.sqrt(right * (1 - right) / table["n"]) if "n" in table else math.nan
        table.loc[table["metric"] != "accuracy", "error"] = math.nan
    return table
