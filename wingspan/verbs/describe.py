"""Say what a run would cost: parameters, FLOPs, memory, at any width.

wingspan describe --backbone resnet50 --width 32768
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.table import Table

from wingspan import spec
from wingspan.forecast import Forecast, forecast
from wingspan.pretrain import Pretrain
from wingspan.progress import console
from wingspan.recipes import recipe
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    run: Annotated[Pretrain, tyro.conf.arg(name="")]
    size: int = 0
    """Side of the images in pixels. 0: 224 for the ImageNet stem, 32 for the others."""
    memory: Literal["bf16", "fp32"] = "bf16"
    """Precision that the memory is counted in."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(words: list[str]) -> int:
    name = arguments.take(words := list(words), "--recipe")
    run, words = arguments.choose(words, recipe(name or "paper"))
    about = f"Say what a run would cost before anyone pays.\n\n{arguments.selection_help()}"
    options = arguments.parse(_Options, _Options(run), words, "describe", about)
    side = options.size or (224 if getattr(options.run.backbone, "stem", "imagenet") == "imagenet" else 32)
    cost = forecast(options.run, side, options.memory)
    streams = hasattr(options.run.backbone, "streamed")
    streamed = forecast(spec.override(options.run, {"backbone.streamed": "on"}), side, options.memory) if streams else None
    if options.json:
        print(
            json.dumps(
                {
                    "width": options.run.backbone.D,
                    "size": side,
                    **dataclasses.asdict(cost),
                    "streamed_activation_bytes": streamed.activation_bytes if streamed else None,
                }
            )
        )
    else:
        _table(options.run, side, cost, streamed)
    return 0


def _table(run: Pretrain, side: int, cost: Forecast, streamed: Forecast | None) -> None:
    table = Table(title=f"{run.backbone.label_name}, D = {run.backbone.D}, projector '{run.projector_text}', {side} x {side}")
    table.add_column("what")
    table.add_column("how much", justify="right")
    table.add_row("backbone parameters", f"{cost.backbone_parameters:,}")
    table.add_row("projector parameters", f"{cost.projector_parameters:,}")
    table.add_row("head parameters", f"{cost.head_parameters:,}")
    table.add_row("forward, one view", f"{cost.forward_flops / 1e9:.2f} GFLOP")
    table.add_row(f"activations, {cost.views} views, {cost.precision}", f"{cost.activation_bytes / 2**30:.2f} GiB")
    if streamed is not None:
        table.add_row("the same with the last block streamed", f"{streamed.activation_bytes / 2**30:.2f} GiB")
    table.add_row("weights, gradients, optimiser, average", f"{cost.weight_bytes / 2**30:.2f} GiB")
    table.add_row("one vector h in fp16 / in bits", f"{run.backbone.D * 2:,} / {-(-run.backbone.D // 8):,} bytes")
    console.print(table)
