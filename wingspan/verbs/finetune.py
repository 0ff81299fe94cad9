"""Fine-tune a run: a classifier from what it learnt and a few labels.

wingspan finetune RUN --data.path my_photos/                  a folder of class folders, Parquet: all labels, the whole network
wingspan finetune RUN --data.path my_photos/ --what head      the backbone as it is, only the classifier
wingspan finetune RUN --labels 100                            the run's own images, 100 of them labelled; or 10%
wingspan finetune RUN --width 4096 --out runs/wide            at another width

It begins with the linear probe of the run's features as classifier, and its score on test images stands beside that of the
probe. Cut short, it goes on when the same command is given again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from wingspan import finetuned, finetuning, loop
from wingspan.backbones.base import check_width
from wingspan.data.base import Data
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.finetuning import Plan, What, Wish
from wingspan.pretrain import Pretrain, Sitting
from wingspan.progress import console, tell
from wingspan.stopping import Interrupted
from wingspan.verbs import _arguments as arguments
from wingspan.verbs._sets import data_set

_MANY = 20  # classes that a table still shows one by one


@dataclass(frozen=True)
class _Options:
    data: Annotated[Data, tyro.conf.arg(name="data")]
    sitting: Annotated[Sitting, tyro.conf.arg(name="")] = field(default_factory=Sitting)
    what: What = "whole"
    """whole: all weights follow the labels. head: only the classifier, on features that stay as they are and remain as good for
    other tasks."""
    labels: str = ""
    """How many training images are labelled: 100, or a share such as 10%. Drawn by class, another --seed draws others. Left
    out: all."""
    epochs: int = 0
    """Passes over the labelled images. 0: 20, or as many as make 200 steps."""
    batch: int = 0
    """Images a step. 0: a quarter of the labelled ones, as a power of two between 16 and 128."""
    lr: float = 0.0
    """AdamW's peak rate, whatever the batch. 0: half the run's own, within 1e-4 to 1e-3, or 3e-4 where that was not AdamW's;
    1e-4 for the head. Lower it where the result is below the probe it began with."""
    width: int | None = None
    """D, if it is to be another than the run's: channels are added, or the less needed left out."""
    seed: int = 0
    """Which images are labelled, their order and views."""
    out: Path | None = None
    """The new run's folder. Left out: runs/ and a name made from the settings."""
    json: bool = False
    """Print the scores as one JSON object in place of a table."""


def main(words: list[str]) -> int:
    words = list(words)
    if {"-h", "--help"} & set(words):
        arguments.parse(_Options, _Options(Hub()), ["--help"], "finetune RUN", __doc__ or "")
    if not words or words[0].startswith("-"):
        raise UserError(
            "which run? wingspan finetune RUN --data.path FOLDER, RUN being the folder that wingspan pretrain wrote."
        )
    path, words = Path(words[0]), words[1:]
    _, before = finetuning.source(path)
    options = arguments.parse(_Options, _Options(_data(words, before)), words, "finetune RUN", __doc__ or "")
    if options.width is not None:
        check_width(options.width)
    wish = Wish(
        options.data, options.what, options.labels, options.width, options.epochs, options.batch, options.lr, options.seed
    )
    planned = finetuning.plan(path, wish)
    out = options.out or Path("runs") / f"finetuned-{options.what}-{planned.run.name}"
    if out.resolve() == path.resolve():
        raise UserError(f"--out {out} is the run that is to be fine-tuned: choose another folder.")
    _announce(path, planned, options.what, out)
    try:
        loop.pretrain(planned.run, out, options.sitting, resume=True)
    except Interrupted as stop:
        said = str(stop).replace(f"wingspan pretrain --resume {out}", "give the same command again.")
        raise Interrupted(said, stop.signum) from None
    found = finetuned.score(out, options.sitting.device)
    if options.json:
        print(json.dumps(found))
    else:
        _show(found, out)
    return 0


def _data(words: list[str], before: Pretrain) -> Data:
    """The images to learn from, at the side that the run knows; its own where none are named. Takes the words that do."""
    named = [given for flag in ("--data", "--data.path", "--data.name") if (given := arguments.take(words, flag))]
    if len(named) > 1:
        raise UserError(f"--data, --data.path and --data.name each name the images, and {' and '.join(named)} were given: one.")
    return data_set(named[0], before.data.side) if named and named[0] != "own" else before.data


def _announce(path: Path, planned: Plan, what: What, out: Path) -> None:
    run = planned.run
    given = [count for count in planned.counts if count]
    spread = f"{min(given)}" if min(given) == max(given) else f"{min(given)} to {max(given)}"
    console.print(
        f"Fine-tuning {'the head on' if what == 'head' else 'the whole of'} {path}, D = {run.backbone.D}: {planned.images:,} "
        f"labelled images of {len(given)} classes, {spread} each; {planned.steps:,} steps of {run.batch}, {run.epochs} epochs, "
        f"rate {run.optim.lr * run.batch / 256:.0e}. Folder {out}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    tell(planned.notes)


def _show(found: dict[str, Any], out: Path) -> None:
    began, now, what = found["began"], found["now"], found["what"]
    table = Table(title=f"{found['data']['name']}, {found['n']:,} test images")
    for column in ("", "probe it began with, %", f"{what}, %", "chance, %"):
        table.add_column(column, justify="right" if column else "left")
    rows = (("accuracy", "error", "chance"), ("balanced_accuracy", "balanced_error", "balanced_chance"))
    for name, error, chance in rows:
        values = [f"{100 * each[name]:.1f} ± {100 * each[error]:.1f}" for each in (began, now)]
        table.add_row(name.replace("_", " "), *values, f"{100 * found[chance]:.1f}")
    for name in now["per_class"] if len(now["per_class"]) <= _MANY else ():
        table.add_row(f"  {name}", *(f"{100 * each['per_class'][name]['accuracy']:.1f}" for each in (began, now)))
    console.print(table)
    low, high = (100 * end for end in now["interval"])
    gain, error = 100 * found["gain"]["value"], 100 * found["gain"]["error"]
    told = (
        f"probe {100 * began['accuracy']:.1f} -> {what} {100 * now['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f})"
    )
    told += f", {gain:+.1f} ± {error:.1f} points on the same test images (standard error)."
    if gain < -2 * error:
        told += " It got worse: try a lower --lr" + (", or --what head." if what == "whole" else ".")
    console.print(
        f"{told}\nWrote {out / 'finetuned.json'}\nNext: wingspan export {out} --to onnx",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
