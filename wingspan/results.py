"""What measures found on a run: one file in the run's folder for each measure and data set, and the tables of many runs."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wingspan import features, spec
from wingspan.data.base import Data
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.measures.base import Curve, Measure, NotApplicableError, Number
from wingspan.network import load_network
from wingspan.pretrain import Pretrain, load_run
from wingspan.runs import RunFolder, read_json, write_atomic, write_json
from wingspan.runtime import Runtime
from wingspan.store import manifest

Pair = tuple[Data, Measure]


def result_file(folder: RunFolder, data: Data, measure: Measure) -> Path:
    """Where a measure of a run on a data set is kept; named by the settings of both, so other settings never mix in."""
    key = spec.fingerprint({"data": data, "measure": measure})
    return folder.results / f"{spec.kind_of(measure)}-{data.label_name}-{key}.json"


def known(folder: RunFolder, data: Data, measure: Measure) -> bool:
    """Whether this was measured on the run's last checkpoint."""
    file = result_file(folder, data, measure)
    if not file.exists() or not (is_store(folder) or folder.checkpoints()):
        return False
    return read_json(file).get("step") in (None, _step(folder))  # None: by a version that measured finished runs only


def _step(folder: RunFolder) -> int:
    if is_store(folder):
        return manifest.read(folder.path).model.step
    return int(folder.checkpoints()[-1].name.removeprefix("step-"))


def measure_run(
    folder: RunFolder, todo: Sequence[Pair], device: str, after: Callable[[], None] = lambda: None
) -> tuple[list[Path], list[str]]:
    """Measure a run on its last checkpoint, features of a data set being extracted once for all measures that need them.

    Every result is written as soon as it is there; `after` is called then. Gives the files written, and a sentence for every
    pair that failed by what the user can mend; the others are not touched by that.
    """
    run, read = _reader(folder, device)
    written, failed = [], []
    for data, pairs in itertools.groupby(todo, key=lambda pair: pair[0]):
        measures = [measure for _, measure in pairs]
        try:
            bank = read(data, set().union(*(measure.needs for measure in measures)))
        except UserError as error:
            failed.append(f"{data.label_name}: {error}")
            continue
        for measure in measures:
            began = time.monotonic()
            said = about(bank.fingerprint, _step(folder), data, bank.test.images.target, measure, run.seed)
            _progress(folder, todo, data, measure)
            try:
                check_reads(bank, measure)
                found = measure.measure(bank, run.seed)
            except NotApplicableError as error:
                result = {**said, "skipped": str(error), "numbers": []}
            except UserError as error:
                failed.append(f"{label_of(measure)} on {data.label_name}: {error}")
                continue
            else:
                result = {**said, **spec.to_json(found), "seconds": round(time.monotonic() - began, 2)}
            file = result_file(folder, data, measure)
            write_json(file, result)
            written.append(file)
            after()
    return written, failed


def about(fingerprint: str, step: int, data: Data, target: str | None, measure: Measure, seed: int) -> dict[str, Any]:
    """How a result begins: what was measured, on which images, with which settings."""
    return {
        "run": fingerprint,
        "step": step,
        "data": {"name": data.label_name, "target": target, "settings": spec.to_json(data)},
        "measure": spec.to_json(measure),
        "seed": seed,
    }


def _reader(folder: RunFolder, device: str) -> tuple[Pretrain, Callable[[Data, Collection[Need]], Bank]]:
    """A run's settings, and what gives its features of a data set: its network, or the store that the folder is."""
    if is_store(folder):
        store = features.open(folder.path)
        return load_run(folder), lambda data, needs: features.stored_bank(store)
    run, network = load_network(folder, Runtime(device, load_precision(folder)))
    return run, lambda data, needs: features.bank(network, data, spec.fingerprint(run), needs)


def is_store(folder: RunFolder) -> bool:
    """Whether a folder is a store of a run's features and not the run itself."""
    return manifest.present(folder.path)


def check_reads(bank: Bank, measure: Measure) -> None:
    """Raise NotApplicableError where a bank from a store lacks what a measure looks at."""
    label = label_of(measure)
    if bank.network is None and measure.needs & {"network", "layers"}:
        raise NotApplicableError(f"{label} looks at the network itself, which a store does not hold: measure the run.")
    if bank.test.width and not measure.reads_bits:
        raise NotApplicableError(
            f"{label} looks at values of h, and this store holds packed bits: measure the run, or store fp16."
        )


def load_precision(folder: RunFolder) -> Any:
    """The precision a run was trained in is the one its features are taken in."""
    return read_json(folder.spec).get("precision", "auto")


def progress_file(folder: RunFolder) -> Path:
    """Tells whoever watches from another process how far measuring is."""
    return folder.path / ".measuring.jsonl"


def _progress(folder: RunFolder, todo: Sequence[Pair], data: Data, measure: Measure) -> None:
    at = todo.index((data, measure))
    note = f"{label_of(measure)} on {data.label_name}, {at + 1} of {len(todo)}"
    write_atomic(progress_file(folder), json.dumps({"progress": at / len(todo), "note": note}) + "\n")


def label_of(measure: Measure) -> str:
    """A measure's name in tables: its file's, a preset's, or the nearest of these with what differs: 'linear(epochs=5)'."""
    named = {spec.kind_of(measure): type(measure)()}
    named |= {name: value for name, value in spec.presets(Measure).items() if type(value) is type(measure)}
    wanted = spec.to_json(measure)

    def differing(value: Measure) -> dict[str, object]:
        return {name: wanted[name] for name, item in spec.to_json(value).items() if wanted[name] != item}

    name = min(named, key=lambda name: len(differing(named[name])))
    rest = ", ".join(f"{field}={value}" for field, value in differing(named[name]).items())
    return f"{name}({rest})" if rest else name


def name_of(label: str) -> str:
    """The file or preset that a label made by `label_of` begins with: 'linear(epochs=5)' -> 'linear'."""
    return label.partition("(")[0]


# ----------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Entry:
    """A run whose results are wanted: its folder, its settings, where it stands on further axes, and which files count."""

    folder: RunFolder
    run: Pretrain
    axes: Mapping[str, str]
    files: Collection[Path] | None = None  # None: every result in the folder


@dataclass(frozen=True)
class Tables:
    """Numbers: a row a number. Curves: a row a curve. measures: label -> settings. notes: label -> what a reader must know."""

    numbers: pd.DataFrame
    curves: pd.DataFrame
    measures: Mapping[str, Measure]
    notes: Mapping[str, Sequence[str]]


def tables(entries: Iterable[Entry]) -> Tables:
    """Everything that was measured on some runs. Results by a measure that this version does not know are left out."""
    numbers: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    measures: dict[str, Measure] = {}
    notes: dict[str, dict[str, None]] = {}
    for entry in entries:
        for measure, found in _results(entry):
            label = label_of(measure)
            measures[label] = measure
            about = {**identity(entry), "measure": label, "data": found["data"]["name"]}
            for note in [*found.get("notes", []), *([found["skipped"]] if "skipped" in found else [])]:
                notes.setdefault(label, {})[f"{about['run']}, {about['data']}: {note}"] = None
            for kind, rows, into in ((Number, found["numbers"], numbers), (Curve, found.get("curves", []), curves)):
                for row in rows:
                    row.pop("kind", None)  # the first version wrote one
                    value = spec.to_json(spec.from_json(kind, row))
                    into.append({**about, "role": _role(entry.run, found, row.get("task", "")), **value})
    return Tables(
        _floats(pd.DataFrame(numbers)), pd.DataFrame(curves), measures, {name: list(said) for name, said in notes.items()}
    )


def _results(entry: Entry) -> Iterator[tuple[Measure, dict[str, Any]]]:
    files = sorted(entry.folder.results.glob("*.json")) if entry.files is None else [f for f in entry.files if f.exists()]
    for file in files:
        found = read_json(file)
        try:
            yield spec.from_json(Measure, found["measure"]), found
        except UserError:
            continue


def _role(run: Pretrain, found: Mapping[str, Any], task: str) -> str:
    own = found["data"]["name"] == run.data.label_name and task in ("", found["data"]["target"])
    return "in-distribution" if own else "transfer"


def _floats(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of nothing but None, which pandas would call objects, hold numbers all the same."""
    return table.astype({name: float for name in ("chance", "error", "value") if name in table})


def identity(entry: Entry) -> dict[str, Any]:
    """The columns that say which run a row is of."""
    others = {axis: label for axis, label in entry.axes.items() if axis not in ("objective", "width", "seed")}
    return {
        "run": entry.folder.path.name,
        "fingerprint": spec.fingerprint(entry.run),
        "objective": entry.axes.get("objective", spec.kind_of(entry.run.objective)),
        "width": entry.run.backbone.D,
        "seed": entry.run.seed,
        **others,
    }
