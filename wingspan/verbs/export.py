"""Export a run for other tools: timm, ONNX, torch.export, safetensors, the Hugging Face hub.

wingspan export RUN --to timm             timm's model with a last block of width D, and the code that builds it
wingspan export RUN --to onnx             for onnxruntime; any batch size
wingspan export RUN --to torch.export     for PyTorch alone
wingspan export RUN --to safetensors      the weights by name
wingspan export RUN --to hub-folder       as timm, ready for hf upload

Every form is loaded and compared with the network before it gets its name, and comes with a model card and preprocessing.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wingspan.errors import UserError
from wingspan.export import export
from wingspan.export.base import formats
from wingspan.progress import console
from wingspan.verbs import _arguments as arguments


@dataclass(frozen=True)
class _Options:
    to: str = ""
    """safetensors, timm, torch.export, onnx or hub-folder."""
    out: Path | None = None
    """The folder to write. Left out: RUN/export/ and the form's name."""
    output: Literal["auto", "h", "classes"] = "auto"
    """h: the representation; classes: logits of a supervised run's classifier. auto: classes of a fine-tuned run, else h."""
    size: int = 0
    """Side of the images in pixels, where it is to differ from that of training. 0: that of training."""


def main(words: list[str]) -> int:
    words = list(words)
    if {"-h", "--help"} & set(words):
        arguments.parse(_Options, _Options(), ["--help"], "export RUN", __doc__ or "")
    if not words or words[0].startswith("-"):
        raise UserError("which run? wingspan export RUN --to onnx, RUN being the folder that wingspan pretrain wrote.")
    run = Path(words[0])
    options = arguments.parse(_Options, _Options(), words[1:], "export RUN", __doc__ or "")
    if not options.to:
        raise UserError(f"to what? wingspan export {run} --to FORM, one of {', '.join(formats())}.")
    made = export(run, options.to, options.out, None if options.output == "auto" else options.output, options.size)
    for name, size in made.files.items():
        console.print(f"Wrote {made.folder / name} ({size / 1e6:,.2f} MB)", highlight=False, soft_wrap=True, markup=False)
    checked = made.checked
    console.print(
        f"Checked: {checked.how}; largest difference {checked.difference:.1e} of the largest output. {checked.note}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    console.print(f"Next: cd {made.folder} and\n\n{checked.load}", highlight=False, soft_wrap=True, markup=False)
    return 0
