"""A run's folder -> what is exported of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan import spec
from wingspan.augment import Augment
from wingspan.chance import generator
from wingspan.data.base import ImageSet
from wingspan.errors import UserError
from wingspan.export.base import Output, Subject
from wingspan.network import load_network
from wingspan.pretrain import Pretrain
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.weights import read_weights

_IMAGES = 8


def subject(folder: RunFolder, output: Output | None, size: int) -> Subject:
    """What to export of a run's last checkpoint. `output` None: classes of a fine-tuned run, else h. `size` 0: training's side.

    Raises UserError for a folder without run or checkpoint, classes of a run that has none, or a side it does not take.
    """
    if size < 0:
        raise UserError(f"--size {size} must be a side in pixels, or left out for that of training.")
    run, network = load_network(folder, Runtime("cpu", "fp32"))
    backbone = network.backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in backbone.modules():
        if isinstance(getattr(module, "streamed", None), str):
            module.streamed = "off"
    last = folder.checkpoints()[-1]
    if output is None:
        output = "classes" if run.start.weights and _classifies(run) else "h"
    images = _images(run)
    views = run.views if not size else spec.override(run.views, {"size": size})
    shown, told = _shown(views, images)
    classifier: nn.Linear | None = None
    classes: tuple[str, ...] = ()
    if output == "classes":
        classifier = _classifier(run, folder)
        classes = _names(images, classifier.out_features)
    made = Subject(
        folder, run, spec.fingerprint(run), int(last.name.removeprefix("step-")), backbone, classifier, classes, views.size,
        shown, told,
    )  # fmt: skip
    try:
        finite = bool(torch.isfinite(made.expected()).all())
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{folder.path} cannot look at images of {views.size} pixels (--size): {error}") from error
    if not finite:
        raise UserError(f"{folder.path}: its network gives NaN or infinity on {told}, so there is nothing to export.")
    return made


def _classifies(run: Pretrain) -> bool:
    return run.objective.supervised and not run.projector_text


def _classifier(run: Pretrain, folder: RunFolder) -> nn.Linear:
    if not run.objective.supervised:
        kind = spec.kind_of(run.objective)
        raise UserError(
            f"--output classes: {folder.path} learnt {kind}, which has no classes. Leave it out, or fine-tune the run."
        )
    if run.projector_text:
        raise UserError(
            f"--output classes: the classifier of {folder.path} stands on its projector '{run.projector_text}' and not on h. "
            "Export h (--output h)."
        )
    file = folder.checkpoints()[-1] / "learner.safetensors"
    made = nn.Linear(run.backbone.D, _rows(file))
    read_weights(made, file, "heads.classifier.")
    return made.eval().requires_grad_(False)


def _rows(file: object) -> int:
    import safetensors

    with safetensors.safe_open(file, "pt") as opened:
        return int(opened.get_slice("heads.classifier.bias").get_shape()[0])


def _images(run: Pretrain) -> ImageSet | None:
    """The run's images for testing, None where they cannot be read here: an export must not need them."""
    try:
        return run.data.load("test")
    except (UserError, OSError):
        return None


def _shown(views: Augment, images: ImageSet | None) -> tuple[Tensor, str]:
    """Preprocessed images (n, 3, size, size) to check with, and what they are."""
    if images is None or not len(images):
        drawn = torch.randint(0, 256, (_IMAGES, 3, views.size, views.size), generator=generator(0, "export"), dtype=torch.uint8)
        return augmentation.plain(views, drawn).contiguous(), f"{_IMAGES} random images, since the run's own could not be read"
    count = min(_IMAGES, len(images))
    return augmentation.plain(
        views, images.images.batch(torch.arange(count))
    ).contiguous(), f"{count} test images of the run's data"


def _names(images: ImageSet | None, count: int) -> tuple[str, ...]:
    if images is not None and images.target is not None and len(images.classes[images.target]) == count:
        return images.classes[images.target]
    return tuple(map(str, range(count)))
