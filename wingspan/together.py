"""Runs that are measured side by side: companies that share a trunk, drawn when every run has been trained.

Numbers from different trunks are not compared. So a result says which company it came from, and when the company changes (a
width or a seed more, a run trained anew) all of it is drawn again; what the former company left is kept in its own folder.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wingspan import spec
from wingspan.company import gather, pictures
from wingspan.data.base import Data
from wingspan.errors import UserError
from wingspan.measures.retention import SMALLEST, Retention, measured
from wingspan.members import Member, hashed, members
from wingspan.progress import console, tell
from wingspan.rcdm import denoiser, drawing
from wingspan.rcdm.kept import Drawing
from wingspan.results import Entry, Pair, about, is_store, label_of, result_file
from wingspan.runs import RunFolder, read_json, write_atomic, write_json
from wingspan.runtime import Runtime, hold_memory
from wingspan.stopping import Interrupted
from wingspan.subjects import check_side

SEED = 0  # of decoders and of the images they are judged on: the same, whatever seeds the runs have
PAGE, GRID, CURVE = "report.html", "grid.png", "curve.png"
_OWN, _OUTSIDE = 4, 2  # test images that a grid shows, and pictures from each other data set

Show = Callable[[Drawing, Path], None]
"""Writes the page and the pictures of a drawing into its folder."""


@dataclass(frozen=True)
class Party:
    """Runs and stores that are drawn together on one data set, a member a folder."""

    measure: Retention
    data: Data
    folders: tuple[RunFolder, ...]
    members: tuple[Member, ...]

    @property
    def key(self) -> str:
        """Equal for equal features of equal images, drawn by equal settings."""
        settings = spec.fingerprint({"measure": self.measure})
        return hashed(sorted(member.identity for member in self.members), settings, SEED)[:10]

    def folder(self, out: Path) -> Path:
        """Where decoders, pictures and the page are kept."""
        return out / "drawn" / f"{self.data.label_name}-{self.key}"

    def holds(self, folder: RunFolder) -> bool:
        """Whether a run's result is there and came from this company."""
        file = result_file(folder, self.data, self.measure)
        return file.exists() and read_json(file).get("company", {}).get("key") == self.key

    def done(self, out: Path) -> bool:
        """Whether nothing is left to draw, and the page is there."""
        return all(map(self.holds, self.folders)) and (self.folder(out) / PAGE).exists()


@functools.lru_cache(maxsize=4096)
def _member(path: Path, data: Data, written: int) -> Member:
    """`written` has weights that changed hashed anew."""
    return members([str(path)], data=data)[0]


def _written(folder: RunFolder) -> int:
    """Raises IndexError for a folder without a checkpoint."""
    return (folder.path if is_store(folder) else folder.checkpoints()[-1]).stat().st_mtime_ns


def parties(asked: Iterable[tuple[RunFolder, Iterable[Pair]]]) -> list[Party]:
    """The companies among folders and what is to be measured on each.

    A folder that cannot be read, or has no checkpoint yet, belongs to none: whoever trains or measures it says so.
    """
    found: dict[tuple[Retention, str], tuple[Data, dict[RunFolder, Member]]] = {}
    for folder, pairs in asked:
        for data, measure in pairs:
            if isinstance(measure, Retention) and measure.together:
                with contextlib.suppress(UserError, IndexError):
                    member = _member(folder.path, data, _written(folder))
                    found.setdefault((measure, spec.fingerprint({"data": data})), (data, {}))[1][folder] = member
    return [Party(measure, data, tuple(held), tuple(held.values())) for (measure, _), (data, held) in found.items()]


def check(pairs: Iterable[Pair]) -> None:
    """Raise UserError for what could not be drawn once all runs are trained: diffusers lacking, images too small."""
    for data, measure in pairs:
        if isinstance(measure, Retention) and measure.together:
            check_side(data, SMALLEST)
            if measure.rung == "samples":
                denoiser.require()


def carry_out(found: Sequence[Party], out: Path, device: str, show: Show, again: bool = False) -> dict[str, str]:
    """Draw the companies that are not drawn yet, and write every run's result; with `again` all of them, from decoders that
    are there.

    Gives run folder name -> message for those of companies that failed. Raises Interrupted after a signal; decoders are saved.
    """
    failed: dict[str, str] = {}
    for party in found:
        others = {spec.fingerprint({"data": other.data}): other.data for other in found if other.measure == party.measure}
        others.pop(spec.fingerprint({"data": party.data}))
        try:
            if again or not party.done(out):
                _draw(party, out, device, list(others.values()), show)
        except UserError as error:
            message = str(error)
        except Interrupted:
            raise
        except Exception as error:  # memory ran out, or a fault of ours: the other companies go on, and the story is kept
            write_atomic(out / "drawn" / "error.txt", traceback.format_exc())
            message = f"{type(error).__name__}: {error} (see {out / 'drawn' / 'error.txt'})"
        else:
            continue
        message = f"{label_of(party.measure)} on {party.data.label_name}: {message}"
        console.print(message, style="red", highlight=False, soft_wrap=True, markup=False)
        for folder in party.folders:
            failed[folder.path.name] = "; ".join(filter(None, [failed.get(folder.path.name, ""), message]))
    return failed


def _draw(party: Party, out: Path, device: str, outside: Sequence[Data], show: Show) -> None:
    began, runtime = time.monotonic(), Runtime(device)
    if runtime.device.type == "cpu":
        hold_memory()
    settings, folder, rung = party.measure.settings(party.data.side), party.folder(out), party.measure.rung
    many = f"{len(party.folders)} run{'s' * (len(party.folders) > 1)}"
    console.print(f"[bold]drawing[/] {many} together on {party.data.label_name}, in {folder}", highlight=False, soft_wrap=True)
    (company,) = gather([str(each.path) for each in party.folders], side=settings.side, data=party.data, device=device)
    shown = pictures(company.subject, party.data, own=_OWN, outside=outside, most=_OUTSIDE, seed=SEED)
    made = drawing.draw(
        company.subject, company.encoders, shown, rung, settings, folder, SEED, runtime, party.measure.preset
    )  # fmt: skip
    made = replace(made, notes=(*company.notes, *made.notes))
    tell(made.notes)
    show(made, folder)
    named = {encoder.identity: encoder.name for encoder in company.encoders}
    target = company.subject.splits["test"].target
    seconds = round((time.monotonic() - began) / len(party.folders), 2)
    for each, member in zip(party.folders, party.members, strict=True):
        said = about(member.model.fingerprint, member.model.step, party.data, target, party.measure, member.seed)
        found = spec.to_json(measured(made, named[member.identity]))
        within = {"company": {"key": party.key, "with": [encoder.name for encoder in company.encoders]}}
        write_json(result_file(each, party.data, party.measure), {**said, **found, **within, "seconds": seconds})


def comparable(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without those results that another company drew than most of the others of the same measure and images."""
    files = [sorted(e.folder.results.glob("*.json")) if e.files is None else list(e.files) for e in entries]
    keys = {file: _company(file) for each in files for file in each if file.exists()}
    companies: dict[str, Counter[str]] = {}
    for file, key in keys.items():
        if key:
            companies.setdefault(file.name, Counter())[key] += 1
    chosen = {name: counted.most_common(1)[0][0] for name, counted in companies.items()}
    left = [file for file, key in keys.items() if key and key != chosen[file.name]]
    if left:
        tell([f"left out, because another company of runs was drawn for it: {', '.join(map(str, left))}"])
    return [
        replace(entry, files=[file for file in each if file not in left]) for entry, each in zip(entries, files, strict=True)
    ]


def _company(file: Path) -> str:
    found: Mapping[str, str] = read_json(file).get("company", {})
    return found.get("key", "")
