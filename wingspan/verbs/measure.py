"""Measure what a finished run's representation kept, on its own images or others.

wingspan measure runs/first
wingspan measure runs/first --measures linear linear_fast --data.path other_images/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from wingspan import spec
from wingspan.errors import UserError
from wingspan.measures.base import Measure
from wingspan.pretrain import Pretrain, load_run
from wingspan.progress import console
from wingspan.runs import RunFolder
from wingspan.study import measure_run
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    run: Annotated[Pretrain, tyro.conf.arg(name="")]
    measures: tuple[str, ...] = ("linear_fast",)
    """What to measure. linear: the paper's probe (100 epochs); linear_fast: standardised, 30 epochs, for small budgets."""
    device: str = "auto"
    """auto, cpu or cuda."""


def main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        arguments.parse(_Options, _Options(Pretrain()), words, "measure RUN", __doc__ or "")
    if not words or words[0].startswith("-"):
        raise UserError("which run? wingspan measure RUN [OPTIONS], RUN being the folder that wingspan pretrain wrote.")
    folder, words = RunFolder(Path(words[0])), words[1:]
    trained = load_run(folder)
    run, words = arguments.choose(words, trained)
    options = arguments.parse(_Options, _Options(run), words, "measure RUN", __doc__ or "")
    changed = [line for line in spec.differences(trained, options.run) if not line.startswith("data.")]
    if changed:
        raise UserError(
            f"{folder.path} was trained with other settings ({'; '.join(changed)}): only --data.* can be changed here."
        )
    measures = [spec.named(Measure, name) for name in options.measures]
    written = measure_run(folder, trained, options.run.data, measures, options.device)
    for name, (file, result) in zip(options.measures, written.items(), strict=True):
        table = Table(title=f"{name} on {options.run.data.label_name}, D = {trained.backbone.D}")
        for column in ("task", "accuracy", "chance", "classes", "test images"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for each in result["numbers"]:
            cells = (f"{each['value']:.2%}", f"{each['chance']:.2%}", str(each["classes"]), f"{each['n']:,}")
            table.add_row(each["task"], *cells)
        console.print(table)
        console.print(f"Wrote {file}", highlight=False, soft_wrap=True)
    console.print(f"Next: another data set, wingspan measure {folder.path} --data.path IMAGES", highlight=False, soft_wrap=True)
    return 0
