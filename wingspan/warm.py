"""A run's first weights where they are not drawn: what something else learnt, fitted to the width; a first classifier."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan import spec, weights
from wingspan.backbones.base import Backbone
from wingspan.backbones.timm import Timm
from wingspan.chance import generator
from wingspan.data.base import ImageSet
from wingspan.errors import UserError
from wingspan.learner import Learner
from wingspan.pretrain import Pretrain, load_run
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.width import set_width
from wingspan.width.trace import still

_AT_ONCE = 256
_NUMBERS = 2**28  # of features that a first classifier is fitted on
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
_MAY_DIFFER = {"width", "width_scope", "shortcut", "gate", "streamed", "zero_init", "drop_path"}


def begin(run: Pretrain, learner: Learner, images: ImageSet, runtime: Runtime) -> tuple[str, ...]:
    """Fill a new learner as `run.start` says; gives what is to be told. Does nothing for a run that starts from nothing.

    Raises UserError for weights that are not there or do not fit.
    """
    told: tuple[str, ...] = ()
    if run.start.weights:
        told += (_backbone(run, learner.backbone, images, runtime),)
    if run.start.head:
        told += (_head(run, learner, images, runtime),)
    if learner.average is not None:
        learner.average.load_state_dict(nn.Sequential(learner.backbone, learner.projector).state_dict())
    return told


def _backbone(run: Pretrain, backbone: nn.Module, images: ImageSet, runtime: Runtime) -> str:
    source, where = _source(run, backbone)
    if source is None:
        return f"begins with {where}, which has this very width"
    views = _views(run, images, runtime, run.start.images) if run.start.images else None
    made = set_width(
        source.to(runtime.device), run.backbone.D, images=views, narrow=run.start.narrow, new=run.start.new, seed=run.seed,
        gate=getattr(run.backbone, "gate", "none"), shortcut=getattr(run.backbone, "shortcut", "auto"), side=run.views.size,
    )  # fmt: skip
    try:
        backbone.load_state_dict(made.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"--start.weights {run.start.weights}: at width {run.backbone.D} its last block has another form than this run's; "
            f"usually --backbone.shortcut projection mends it. ({str(error).splitlines()[-1].strip()})"
        ) from error
    return f"begins with {where}, its representation fitted to D = {run.backbone.D}"


def _source(run: Pretrain, backbone: nn.Module) -> tuple[nn.Module | None, str]:
    """The module that was trained before, or None when the backbone could be filled at once; and how to call it."""
    given = run.start.weights
    path = Path(given).expanduser()
    if given == "pretrained":
        if not isinstance(run.backbone, Timm):
            raise UserError(
                f"--start.weights pretrained is for timm's models (--backbone.timm NAME), not '{spec.kind_of(run.backbone)}': "
                "give a file of weights, or the folder of a run."
            )
        return run.backbone.plain(pretrained=True), f"timm's weights of {run.backbone.timm}"
    if path.is_dir():
        return _of_run(run, path)
    if not path.exists():
        raise UserError(f"--start.weights '{given}' is not there: give a run's folder, a file of weights, or 'pretrained'.")
    return _of_file(run, backbone, path)


def _of_run(run: Pretrain, path: Path) -> tuple[nn.Module, str]:
    folder = RunFolder(path)
    other = load_run(folder).backbone
    changed = {line.partition(":")[0] for line in spec.differences(other, run.backbone)} - _MAY_DIFFER
    if changed:
        lines = [line for line in spec.differences(other, run.backbone) if line.partition(":")[0] in changed]
        raise UserError(f"--start.weights {path}: its backbone is another one ({'; '.join(lines)}).")
    if not folder.checkpoints():
        raise UserError(f"--start.weights {path} holds no checkpoint yet: wingspan pretrain --resume {path}")
    with torch.random.fork_rng(devices=[]):
        source = other.build()
    weights.read_weights(source, folder.checkpoints()[-1] / "learner.safetensors")
    return source, f"what {folder.path.name} learnt (D = {other.D})"


def _of_file(run: Pretrain, backbone: nn.Module, path: Path) -> tuple[nn.Module | None, str]:
    found = weights.read(path)
    target = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    try:
        backbone.load_state_dict(weights.fitted(found, target, str(path)))
        return None, str(path)
    except UserError:
        source = _standard(run.backbone)
        wanted = {name: tuple(value.shape) for name, value in source.state_dict().items()}
        source.load_state_dict(weights.fitted(found, wanted, str(path)))
        return source, str(path)


def _standard(backbone: Backbone) -> nn.Module:
    """The architecture as its library has it, without classifier: what files of weights are of."""
    with torch.random.fork_rng(devices=[]):
        if isinstance(backbone, Timm):
            return set_width(backbone.plain(), None, gate="none", side=backbone.side or None)
        plain = {name: value for name, value in {"width": None, "shortcut": "auto"}.items() if hasattr(backbone, name)}
        return dataclasses.replace(backbone, **plain).build()  # type: ignore[arg-type]


def _views(run: Pretrain, images: ImageSet, runtime: Runtime, count: int) -> Tensor:
    """Some training images as they are (n, 3, S, S), normalised, on the device."""
    rows = torch.randperm(len(images), generator=generator(run.seed, "start images"))[:count].sort().values
    parts = [augmentation.plain(run.views, images.images.batch(some).to(runtime.device)) for some in rows.split(_AT_ONCE)]
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------------------- the first classifier


def _head(run: Pretrain, learner: Learner, images: ImageSet, runtime: Runtime) -> str:
    """Give the classifier the weights that fit frozen features best (linear probing before fine-tuning: Kumar et al. 2022,
    arXiv:2202.10054, who show that a random head distorts what the backbone knows)."""
    labels, classes = images.task()
    rows = torch.randperm(len(images), generator=generator(run.seed, "start head"))[: max(1, _NUMBERS // run.backbone.D)]
    h = []
    with torch.inference_mode(), still(learner.backbone), runtime.autocast():
        for some in rows.split(_AT_ONCE):
            views = augmentation.plain(run.views, images.images.batch(some).to(runtime.device))
            h.append(learner.backbone(views).float())
    features, y = torch.cat(h).clone(), labels[rows].to(runtime.device)
    kept = torch.rand(len(y), generator=generator(run.seed, "start held out")).to(y.device) >= 0.2
    decay = DECAYS[2]
    if len(y) >= 10 * len(classes) and bool(kept.any()) and not bool(kept.all()):
        tried = {value: logistic(features[kept], y[kept], len(classes), value) for value in DECAYS}
        losses = {value: float(F.cross_entropy(features[~kept] @ W.T + b, y[~kept])) for value, (W, b) in tried.items()}
        decay = min(losses, key=losses.__getitem__)
    weight, bias = logistic(features, y, len(classes), decay)
    head = learner.heads["classifier"]
    with torch.no_grad():
        head.weight.copy_(weight)  # type: ignore[operator]
        head.bias.copy_(bias)  # type: ignore[operator]
    return f"the classifier begins as the linear probe of {len(rows):,} images (decay {decay:g}, of {len(DECAYS)} tried)"


def logistic(h: Tensor, y: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """h (N, D), y (N,) -> weight (C, D), bias (C,): multinomial logistic regression on standardised features, by L-BFGS."""
    mean, std = h.mean(0), h.std(0, correction=0)
    std = std + 1e-3 * std.mean() + 1e-12  # a dimension that hardly varies must not be blown up
    x = (h - mean) / std
    weight = torch.zeros(classes, h.shape[1], device=h.device, requires_grad=True)
    bias = torch.zeros(classes, device=h.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, y) + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    slope = weight.detach() / std
    return slope, bias.detach() - slope @ mean
