"""Measure what runs' representations kept, on their own images or others, and write the table and the pages.

wingspan measure runs/first                                          the fast linear probe on the run's own images
wingspan measure runs/first --measures linear,mlp,knn                several measures; features are extracted once
wingspan measure codes --measures linear,knn                         a store that wingspan features wrote, read where it lies
wingspan measure runs/* --measures all --data own flowers/ mnist/    several runs and image sets, compared on one report
wingspan measure runs/first --data clevr/ --data.fit squash          options of --data.* hold for every set named by --data

--data takes own (what the run was trained on; the default), scenes, folders, files, hub ids, and published sets by name with
the publisher's folder: eurosat=EuroSAT/2750, cifar=cifar-100-binary,classes=100. Any of them may be followed by settings of its
own: clevr/,fit=squash.

What was measured before is kept and not done again. retention_decoder and retention_samples draw the runs given in one company,
with one trunk: their numbers compare within it only, and another company is drawn anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wingspan import crew, spec, together, workbench
from wingspan.data.base import Data
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.pretrain import Pretrain, load_run
from wingspan.progress import console
from wingspan.results import Entry, Pair, is_store, known, progress_file
from wingspan.runs import RunFolder
from wingspan.stopping import stop_on_signals
from wingspan.store import manifest
from wingspan.study import measure as measure_one
from wingspan.verbs import _arguments as arguments
from wingspan.verbs import _measures as asked_measures
from wingspan.verbs._numbers import show
from wingspan.verbs._sets import data_set


@dataclass(frozen=True)
class _Options:
    data: Annotated[Data, tyro.conf.arg(name="data")]
    out: Path | None = None
    """Folder of results.parquet and report.html. Left out: the run's own folder, or measured/ for several runs."""
    again: bool = False
    """Measure again what was measured before."""
    device: str = "auto"
    """auto, cpu or cuda."""
    jobs: int = 0
    """Runs at a time. 0: on a CPU one a core, at most 4; on a GPU one. Lower it when memory runs short."""


def main(words: list[str]) -> int:
    words = list(words)
    if {"-h", "--help"} & set(words):
        named = arguments.take_list(words, "--measures")
        if named:
            print("\n\n".join(map(asked_measures.settings_text, asked_measures.measures(named, []))))
            return 0
        arguments.parse(
            _Options, _Options(Hub()), ["--help"], "measure RUN [RUN ...]", f"{__doc__}\n{asked_measures.help_text()}"
        )
    paths = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    if not paths:
        raise UserError("which run? wingspan measure RUN [OPTIONS], RUN being the folder that wingspan pretrain wrote.")
    command, words = " ".join(["wingspan", "measure", *words]), words[len(paths) :]
    runs = {RunFolder(Path(path)): load_run(RunFolder(Path(path))) for path in dict.fromkeys(paths)}
    named = arguments.take_list(words, "--measures") or ["linear_fast"]
    changes = arguments.take_list(words, "--set") or []
    measures = asked_measures.measures(named, changes)
    wanted = arguments.take_list(words, "--data") or []
    wanted += [given for flag in ("--data.path", "--data.name") if (given := arguments.take(words, flag))]
    default = _default(next(iter(runs.values())), wanted)
    options = arguments.parse(_Options, _Options(default), words, "measure RUN [RUN ...]", __doc__ or "")
    settings = {
        field.name: getattr(options.data, field.name)
        for field in dataclasses.fields(default)
        if getattr(options.data, field.name) != getattr(default, field.name)
    }
    sets = {
        folder: _stored_set(folder, wanted, settings) if is_store(folder) else _data_sets(run, wanted, settings)
        for folder, run in runs.items()
    }
    asked = {folder: list(itertools.product(each, measures)) for folder, each in sets.items()}
    together.check(pair for pairs in asked.values() for pair in pairs)
    alone = {folder: [pair for pair in pairs if not pair[1].together] for folder, pairs in asked.items()}
    todo = {folder: [pair for pair in pairs if options.again or not known(folder, *pair)] for folder, pairs in alone.items()}
    failed = _carry_out(todo, options)
    out = options.out or (next(iter(runs)).path if len(runs) == 1 else Path("measured"))
    drawn = together.parties(asked.items())
    failed |= workbench.draw(drawn, out, options.device, command, failed, options.again)
    mixed = any(map(is_store, runs))  # what was read from a store is told apart from what the network itself gave
    entries = [Entry(folder, run, {"features": _form(folder)} if mixed else {}) for folder, run in runs.items()]
    show(runs, sets, measures)
    outcome = workbench.present(_with_axes(entries), out, command, failed, drawn)
    for name, message in failed.items():
        console.print(f"[red]failed:[/] {name}: {message}", highlight=False, soft_wrap=True)
    console.print(f"Wrote {outcome.page} and {out / 'results.parquet'}", highlight=False, soft_wrap=True)
    console.print(f"Next: open {outcome.page} in a browser; other images: --data FOLDER", highlight=False, soft_wrap=True)
    return 2 if failed else 0


def _default(run: Pretrain, wanted: Sequence[str]) -> Data:
    """The data set whose options the command line offers: the one set asked for by name, else any folder or hub id."""
    others = [text for text in wanted if text != "own"]
    if not others:
        return run.data
    named = len(others) == 1 and others[0] in spec.files(Data) and not Path(others[0]).exists()
    return spec.override(spec.named(Data, others[0]) if named else Hub(), {"size": run.data.side})


def _data_sets(run: Pretrain, wanted: Sequence[str], settings: Mapping[str, object]) -> list[Data]:
    """The image sets that a run is measured on, at the side its own images have.

    Raises UserError when two would share a name in tables.
    """
    found: list[Data] = []
    for text in wanted or ["own"]:
        if text == "own":
            found.append(run.data if wanted else dataclasses.replace(run.data, **settings))
        else:
            given = data_set(text, run.data.side)
            fields = {field.name for field in dataclasses.fields(given)}  # type: ignore[arg-type]
            common = {name: value for name, value in settings.items() if name in fields or isinstance(given, Hub)}
            found.append(dataclasses.replace(given, **common))  # type: ignore[type-var]
    names = [data.label_name for data in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--data names two image sets called '{name}': measure them one after the other with other --out.")
    return found


def _stored_set(folder: RunFolder, wanted: Sequence[str], settings: Mapping[str, object]) -> list[Data]:
    """The one image set that a store holds features of. Raises UserError when others were asked for."""
    about = manifest.read(folder.path)
    if settings or any(text != "own" for text in wanted):
        raise UserError(
            f"{folder.path} is a store of features of '{about.data.label_name}': leave out --data, or measure the run itself"
            f" ({about.model.run})."
        )
    return [about.data]


def _carry_out(plan: Mapping[RunFolder, list[Pair]], options: _Options) -> dict[str, str]:
    """Measure what is missing, several runs at a time; gives run name -> what failed."""
    todo = {folder: pairs for folder, pairs in plan.items() if pairs}
    jobs = crew.size(options.jobs, len(todo), options.device) if todo else 1
    if jobs > 1:
        tasks = {
            folder.path.name: (functools.partial(_measure, folder, pairs, options.device), progress_file(folder))
            for folder, pairs in todo.items()
        }
        return crew.work(tasks, jobs)
    failed = {folder.path.name: _measure(folder, pairs, options.device) for folder, pairs in todo.items()}
    return {name: message for name, message in failed.items() if message}


def _measure(folder: RunFolder, pairs: list[Pair], device: str) -> str | None:
    with stop_on_signals() as stop:
        try:
            return measure_one(folder, pairs, device, stop)
        except UserError as error:
            return str(error)
        finally:
            with contextlib.suppress(OSError):  # in a read-only folder, for one
                progress_file(folder).unlink()


def _form(folder: RunFolder) -> str:
    return manifest.read(folder.path).format if is_store(folder) else "from the network"


def _with_axes(entries: Sequence[Entry]) -> list[Entry]:
    """Runs that differ in more than objective, width, seed and data are told apart by it in tables and figures."""
    leaves = [_flat(spec.to_json(entry.run)) for entry in entries]
    names = dict.fromkeys(name for each in leaves for name in each)
    told = ("objective.", "backbone.width", "seed", "data.", "projector")
    axes = [
        name
        for name in names
        if not f"{name}.".startswith(told) and name not in told and len({str(each.get(name)) for each in leaves}) > 1
    ]
    return [
        dataclasses.replace(entry, axes={**entry.axes, **{name: str(each.get(name)) for name in axes}})
        for entry, each in zip(entries, leaves, strict=True)
    ]


def _flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return found
