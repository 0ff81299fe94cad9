"""Run a named study: pretrain over widths, probe, draw the curve, write the page.

wingspan study scenes
wingspan study cifar10 --data.path FOLDER --scale small --seeds 0 1
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import tyro

from wingspan import bill, experiments, launch, notes, spec, standing, workbench
from wingspan.costs import Bill, draw_up
from wingspan.errors import UserError, nearest
from wingspan.pretrain import Pretrain, Sitting
from wingspan.progress import console
from wingspan.results import label_of
from wingspan.slurm import Slurm
from wingspan.study import Axis, Part, Study, carry_out, plan, run_table
from wingspan.verbs import _arguments as arguments
from wingspan.verbs import _measures as asked_measures
from wingspan.verbs._sets import data_set


@dataclass(frozen=True)
class _Options:
    run: Annotated[Pretrain, tyro.conf.arg(name="")]
    sitting: Annotated[Sitting, tyro.conf.arg(name="")] = field(default_factory=Sitting)
    widths: tuple[int, ...] = ()
    """Widths D to compare, in place of the study's own."""
    seeds: tuple[int, ...] = ()
    """Seeds to repeat with, in place of the study's own. Three or more give a useful interval."""
    objectives: tuple[str, ...] = ()
    """Which of the study's objectives to run."""
    transfers: tuple[str, ...] = ()
    """Other data sets to probe: folders, Parquet files, hub ids, and published sets by name with the publisher's folder, as
    eurosat=EuroSAT/2750 or cifar=cifar-100-binary,classes=100. Settings may follow: clevr/,fit=squash."""
    out: Path | None = None
    """The study's folder. Left out: studies/ and name and scale."""
    runs: Path | None = None
    """Folder that the runs are kept in. Studies given the same one train what they have in common once. Left out: the study's
    own."""
    jobs: int = 0
    """Runs at a time. 0: on a CPU one a core, at most 4; on a GPU one. Lower it when memory runs short."""
    part: str | None = None
    """Do only this part of the plan, as 3/8 for the third of eight, and draw no page: several machines share a study so, or the
    tasks of a Slurm array. When all parts are done, the command without it draws the page."""
    where: Literal["here", "slurm"] = "here"
    """here, or slurm: a job a run, which saves itself and is queued again when its time is up, its nodes are taken away or it
    fails. The command ends once jobs are queued; given again it goes on with what is left, and at last draws the page."""
    slurm: Slurm = field(default_factory=Slurm)
    status: bool = False
    """Print where every run stands, here or on Slurm, and stop; with the rest of the words the same."""
    dry_run: bool = False
    """Print the plan with its costs and what exists already, and stop. At --scale paper the form for Slurm follows, on standard
    output."""
    tflops: float | None = None
    """With --dry-run: reckon with a device that sustains so many TFLOP/s in training, as 150 for an H100 in bf16. Give it when
    the runs are meant for another machine than this; how fast that one is you must know. Left out, finished runs of the plan
    tell the rate, or else a few steps made now."""


def names() -> list[str]:
    return sorted(each.name for each in pkgutil.iter_modules(experiments.__path__) if not each.name.startswith("_"))


def at_scale(name: str, scale: str | None) -> tuple[ModuleType, str]:
    """A study's file, and the scale asked for or small. Raises UserError for a scale that the study does not have."""
    module = importlib.import_module(f"wingspan.experiments.{name}")
    scale = scale or "small"
    if scale not in module.SCALES:
        raise UserError(f"study '{name}' has no scale '{scale}'.{nearest(scale, module.SCALES)}")
    return module, scale


def main(words: list[str]) -> int:
    words, asked = list(words), list(words)
    if not words or words[0] in ("--list", "-h", "--help"):
        _list()
        return 0
    name = words.pop(0)
    if name not in names():
        raise UserError(f"study '{name}' is not known.{nearest(name, names())} See wingspan study --list.")
    module, scale = at_scale(name, arguments.take(words, "--scale"))
    measured, changes = (arguments.take_list(words, flag) or [] for flag in ("--measures", "--set"))
    study: Study = module.study(scale)
    start, words = arguments.choose(words, study.base)
    scales = f"--scale {{{','.join(module.SCALES)}}}"
    about = "\n\n".join([module.__doc__ or "", scales, arguments.selection_help(), asked_measures.help_text()])
    options = arguments.parse(_Options, _Options(start), words, f"study {name}", about)
    study = _adapted(study, options)
    if measured or changes:
        given = asked_measures.measures(measured or [label_of(measure) for measure in study.measures], changes)
        study = dataclasses.replace(study, measures=tuple(given))
    out = options.out or Path("studies") / f"{name}-{scale}"
    command = " ".join(["wingspan", "study", *asked])
    part = None if options.part is None else Part.read(options.part)
    if options.tflops is not None and not options.dry_run:
        raise UserError(f"--tflops {options.tflops:g} is for planning alone: give it with --dry-run.")
    _check_where(options)
    if options.status:
        return 2 if any(each.state == "failed" for each in standing.show(study, out)) else 0
    if options.dry_run:
        with console.status("counting operations and memory, timing a few steps"):
            costs = draw_up(study, out, options.sitting, options.jobs, options.tflops, part)
        bill.show(costs)
        if options.where == "slurm":
            console.print(launch.told(study, out, options.slurm), highlight=False, soft_wrap=True, markup=False)
        elif scale == "paper" and part is None:
            _offer_script(costs, asked)
        return 0
    if part is not None:
        return _do_part(study, out, options, part, asked)
    failed = None
    if options.where == "slurm" and (failed := _on_slurm(study, out, options, asked)) is None:
        return 0
    printed = workbench.Printed(module.study("paper"), module.published()) if hasattr(module, "published") else None
    outcome = workbench.work(study, out, options.sitting, options.jobs, command, printed, failed)
    console.print(
        f"Wrote {outcome.page} and {out / 'results.parquet'}\nNext: open {outcome.page} in a browser", highlight=False
    )
    return 2 if outcome.failed else 0


def _check_where(options: _Options) -> None:
    if options.where == "slurm" and options.part is not None:
        raise UserError(f"--part {options.part} is for jobs that you submit yourself: leave it out with --where slurm.")
    if options.where == "slurm" and options.jobs:
        raise UserError(f"--jobs {options.jobs} is for runs on this machine; on Slurm it is --slurm.array-parallelism.")
    if options.where == "here" and options.slurm != Slurm():
        raise UserError(f"--slurm.* was given ({'; '.join(spec.differences(Slurm(), options.slurm))}): add --where slurm.")


def _on_slurm(study: Study, out: Path, options: _Options, asked: list[str]) -> dict[str, str] | None:
    """Submit what is missing; gives run folder name -> message of the runs that failed for good once no other is left to wait
    for, else None."""
    found = launch.launch(study, out, options.sitting, options.slurm)
    failed = {each.cell.folder.path.name: each.message for each in found if each.state == "failed"}
    for line in standing.failures(found):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if failed:
        console.print("To submit failed runs again: --slurm.again", highlight=False)
    if all(each.state in ("done", "failed") for each in found):
        return failed
    notes.write(study, out, run_table(study, out, failed), shlex.join(["wingspan", "study", *asked]))
    console.print(
        f"{standing.summed(study, found)}\nNext: {shlex.join(['wingspan', 'study', *asked, '--status'])}; when all runs are "
        "done, the same command without --status writes the tables and the page.",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return None


def _do_part(study: Study, out: Path, options: _Options, part: Part, asked: list[str]) -> int:
    failed = carry_out(study, out, options.sitting, options.jobs, part)
    done = len(part.of(plan(study, out))) - len(failed)
    lost = f", {len(failed)} failed" if failed else ""
    console.print(
        f"part {part.number} of {part.parts}: {done} run{'' if done == 1 else 's'} done{lost}; when all parts are done: "
        f"{shlex.join(['wingspan', 'study', *_without(asked, '--part')])}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return 2 if failed else 0


def _offer_script(costs: Bill, asked: list[str]) -> None:
    """The script alone goes to standard output, so that it can be sent into a file."""
    words = [word for word in _without(asked, "--tflops") if word.replace("_", "-") != "--dry-run"]
    console.print(f"\nOn Slurm (the same command with > {costs.study.name}.sbatch, then sbatch {costs.study.name}.sbatch):\n")
    sys.stderr.flush()
    print(bill.slurm_script(costs, words))


def _without(words: list[str], flag: str) -> list[str]:
    left = list(words)
    arguments.take(left, flag)
    return left


def _list() -> None:
    console.print("usage: wingspan study NAME [--scale SCALE] [OPTIONS]; wingspan study NAME --help\n", highlight=False)
    for name in names():
        module = importlib.import_module(f"wingspan.experiments.{name}")
        about = f"  {name:<10}{(module.__doc__ or '').partition(chr(10))[0]} ({', '.join(module.SCALES)})"
        console.print(about, highlight=False, soft_wrap=True)
        for claim in module.study("small").claims:
            console.print(f"{'':<14}claim: {claim.text}", highlight=False, soft_wrap=True)


def _changes(path: str, changed: set[str]) -> bool:
    """Whether one of the changed fields is `path` or below it."""
    return any(f"{leaf}.".startswith(f"{path}.") for leaf in changed)


def _left_alone(settings: Axis) -> set[str]:
    """What an axis exchanges as a whole at some of its labels and leaves to the user at others, as data sets."""
    exchanged = {path for overrides in settings.values() for path in overrides if path in ("data", "backbone")}
    return {path for path in exchanged if any(path not in overrides for overrides in settings.values())}


def _adapted(study: Study, options: _Options) -> Study:
    """The study with the user's settings, refused where an axis would undo them."""
    for axis, chosen in (("width", options.widths), ("seed", options.seeds), ("objective", options.objectives)):
        if chosen:
            study = study.with_axis(axis, tuple(str(each) for each in chosen))
    changed = {line.split(":")[0] for line in spec.differences(study.base, options.run)}
    for axis, settings in study.axes.items():
        left = _left_alone(settings)
        for label, overrides in settings.items():
            undone = sorted(path for path in overrides if path not in left and _changes(path, changed))
            if undone:
                raise UserError(
                    f"study '{study.name}' sets {undone[0]} itself on its axis '{axis}' ('{label}'), so your value would be "
                    f"lost: use --widths, --seeds or --objectives, or wingspan pretrain for a single run."
                )
    extra = tuple(data_set(text, options.run.data.side) for text in options.transfers)
    return dataclasses.replace(study, base=options.run, runs=options.runs, transfers=(*study.transfers, *extra))
