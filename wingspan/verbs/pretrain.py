"""Pretrain a backbone of width D on images.

wingspan pretrain --recipe small --objective simclr --width 1024 --out runs/first
wingspan pretrain --recipe small --data.path photos/ --objective vicreg
wingspan pretrain --resume runs/first
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wingspan import loop, processes
from wingspan.errors import UserError
from wingspan.forecast import forecast
from wingspan.pretrain import Pretrain, Sitting, load_run
from wingspan.progress import clock, console
from wingspan.recipes import RECIPES, recipe
from wingspan.runs import RunFolder, read_json
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    run: Annotated[Pretrain, tyro.conf.arg(name="")]
    sitting: Annotated[Sitting, tyro.conf.arg(name="")] = field(default_factory=Sitting)
    out: Path | None = None
    """The run's folder. Left out: runs/ and a name made from objective, backbone, width, seed and settings."""
    devices: int = 1
    """GPUs of this machine to share each batch, or processes on a CPU; they compute what one would. Several machines: begin the
    same command on each with srun or torchrun."""


def main(words: list[str]) -> int:
    given = list(words)
    resumed = arguments.take(words := list(words), "--resume")
    name = arguments.take(words, "--recipe")
    if resumed is not None and name is not None:
        raise UserError(f"--resume {resumed} goes on with the run's own settings: leave out --recipe {name}.")
    start = load_run(RunFolder(Path(resumed))) if resumed is not None else recipe(name or "paper")
    run, words = arguments.choose(words, start)
    about = (
        f"Pretrain a backbone.\n\n--recipe {{{','.join(RECIPES)}}}  the run to start from (paper when left out)\n"
        f"--resume RUN  go on with a run that was cut\n\n{arguments.selection_help()}"
    )
    options = arguments.parse(_Options, _Options(run), words, "pretrain", about)
    if resumed is not None and options.out not in (None, Path(resumed)):
        raise UserError(f"--resume {resumed} goes on in its own folder: leave out --out {options.out}.")
    path = Path(resumed) if resumed is not None else options.out or Path("runs") / options.run.name
    _check_devices(options.devices)
    if options.devices > 1 and processes.place().world == 1:
        again = f"To go on: wingspan pretrain --resume {path} --devices {options.devices}"
        return processes.launch(["pretrain", *given], options.devices, again)
    _announce(options.run, path)
    folder = loop.pretrain(options.run, path, options.sitting, resume=resumed is not None)
    facts = read_json(folder.finished)
    console.print(
        f"Trained {facts['steps']} steps in {clock(facts['seconds'])}, {facts['views_per_second']:,.0f} views/s, "
        f"last loss {facts['final_loss']:.4f}. Wrote {path}\nNext: wingspan measure {path} --measures linear",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _check_devices(count: int) -> None:
    if count < 1:
        raise UserError(f"--devices {count} must be a number of GPUs, or of processes on a CPU.")
    begun = processes.place().world
    if count > 1 and begun not in (1, count):
        raise UserError(f"--devices {count}: {begun} processes have been begun already; leave it out.")


def _announce(run: Pretrain, path: Path) -> None:
    cost = forecast(run, run.views.size)
    console.print(
        f"D = {run.backbone.D}: backbone {cost.backbone_parameters / 1e6:.1f} M parameters, projector "
        f"{cost.projector_parameters / 1e6:.1f} M, {cost.forward_flops / 1e9:.2f} GFLOP a view; about "
        f"{(cost.activation_bytes + cost.weight_bytes) / 2**30:.1f} GiB in {cost.precision}. Folder {path}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
