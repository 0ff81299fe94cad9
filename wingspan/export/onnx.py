"""model.onnx: a graph with its weights, for onnxruntime and everything else that reads ONNX, any batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from wingspan.errors import UserError
from wingspan.export.base import Checked, Subject, check, library
from wingspan.export.torch_export import graph

LIMIT = 1e-4
_IN_ONE_FILE = 1.9e9  # bytes: a file of ONNX ends at 2 GB; what is larger lies beside


def write(subject: Subject, place: Path) -> Checked:
    """Raises UserError when onnx, onnxscript or onnxruntime is missing, or when the file differs from the network."""
    for name in ("onnx", "onnxscript"):
        library(name)
    runtime = library("onnxruntime")
    file = place / "model.onnx"
    size = sum(value.numel() * value.element_size() for value in subject.module.state_dict().values())
    _export(subject, file, external=size > _IN_ONE_FILE)
    session = runtime.InferenceSession(str(file), _options(runtime), providers=["CPUExecutionProvider"])
    wanted = subject.expected()
    off = 0.0
    for n in (1, len(wanted)):
        (found,) = session.run(None, {"images": subject.images[:n].numpy()})
        off = max(off, check(torch.from_numpy(found), wanted[:n], LIMIT, file.name))
    lines = (
        f'import onnxruntime\nsession = onnxruntime.InferenceSession("{file.name}")\n'
        f'({subject.gives},) = session.run(None, {{"images": images}})  # float32 (B, {subject.width})'
    )
    return Checked(off, f"run by onnxruntime {runtime.__version__} on {subject.images_are}", lines, library="onnx")


def _export(subject: Subject, file: Path, *, external: bool) -> None:
    program = graph(subject)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it tells its progress
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program, (), file, dynamo=True, input_names=["images"], output_names=[subject.gives], external_data=external,
                verbose=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        name = subject.run.backbone.label_name
        raise UserError(f"{name} cannot be written as ONNX: {error}. Try --to torch.export or --to timm.") from error
    finally:
        logger.setLevel(level)


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options
