"""Evaluation while a run trains: a linear probe on the features that training computes anyway, and kNN after an epoch.

The run never notices: features are detached, no forward pass is added to a step, nothing is drawn from torch's generator, no
buffer is touched; weights with and without are equal to the last bit. Online numbers are for watching, not for tables:

* the probe learns from the first augmented view, with batch norm in training mode, from features that drift while it learns
  (FFCV-SSL's train_ssl.py does so too, but with a second forward pass, which moves the statistics of batch norm twice);
* its accuracy in training counts every view before the probe has learnt from it;
* an epoch's `online_test_accuracy` and `online_knn` see plain views in evaluation mode, but few images, and a probe that is
  behind the features. `wingspan measure` trains one to its end on frozen features, and usually finds more. The number of
  images follows the training set's size, so compare runs on the same data only.

It costs little: on a CPU 0.1 to 0.7 % of a step of the small net at D = 512, an epoch's test 1 to 2 % of the epoch. At
D = 32768 and 1,000 classes the probe holds 0.4 GB (weights and AdamW's two moments; 0.13 GB more for a gradient while it
steps), which every checkpoint holds too, and an image costs it 0.13 GFLOP a step beside ResNet-50's 25 for two views.

A fault in here ends the evaluation with a note, never the run.
"""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan import augment as augmentation
from wingspan.chance import generator
from wingspan.data.base import ImageSet
from wingspan.errors import UserError
from wingspan.learner import Learner
from wingspan.pretrain import Pretrain, Sitting
from wingspan.progress import tell
from wingspan.runtime import Runtime

WINDOW = 50  # steps over which accuracy in training is averaged
TEST, BANK, SHARE = 1000, 4000, 20  # most images tested and compared with; both at most a twentieth of the training images
NEIGHBOURS, TEMPERATURE = 20, 0.07  # solo-learn's kNN
FILE = "online"  # its name in a checkpoint


def rate(D: int) -> float:
    """The probe's learning rate at width D.

    AdamW moves every weight by about the rate, so a step changes a score by rate x sum(h), which grows with D: at one rate for
    all widths the wide probes would jump and the narrow ones crawl. Of 1e-4, 3e-4 ... 1e-2, the best after a few epochs of
    SimCLR on CIFAR-10 were 3e-3 to 1e-2, 1e-3 to 3e-3 and 1e-4 to 3e-4 at D = 32, 512, 4096.
    """
    return 0.02 / math.sqrt(D)


class Probe:
    """A linear classifier of h (n, D) that learns from every step: AdamW at a constant rate, weights from zero."""

    def __init__(self, D: int, classes: int, device: torch.device) -> None:
        self.weight = nn.Parameter(torch.zeros(classes, D, device=device))
        self.bias = nn.Parameter(torch.zeros(classes, device=device))
        self.optimiser = torch.optim.AdamW([self.weight, self.bias], rate(D), fused=True)
        self.steps, self.accuracy = 0, 0.0

    def scores(self, h: Tensor) -> Tensor:
        """h (n, D) in fp32 -> (n, classes)."""
        return F.linear(h, self.weight, self.bias)

    def learn(self, h: Tensor, labels: Tensor) -> None:
        """One step on h (n, D) and labels (n,). Raises ArithmeticError, weights untouched, when the loss is not finite."""
        scores = self.scores(h)
        loss = F.cross_entropy(scores, labels)
        value, right = torch.stack([loss.detach(), (scores.argmax(1) == labels).float().mean()]).tolist()
        if not math.isfinite(value):
            raise ArithmeticError(f"the loss of its probe is {value}")
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        self.accuracy += (right - self.accuracy) / min(self.steps, WINDOW)

    def state(self) -> dict[str, Any]:
        return {
            "weight": self.weight.detach(),
            "bias": self.bias.detach(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "accuracy": self.accuracy,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave. Raises ValueError when it is of another width or number of classes."""
        if state["weight"].shape != self.weight.shape:
            raise ValueError(f"{tuple(state['weight'].shape)} found, {tuple(self.weight.shape)} expected")
        with torch.no_grad():
            self.weight.copy_(state["weight"])
            self.bias.copy_(state["bias"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.accuracy = state["steps"], state["accuracy"]


class Online:
    """Watches a run. Inside its `with` block it sees every h of the backbone in training; `after_step` gives the numbers."""

    def __init__(self, run: Pretrain, learner: Learner, images: ImageSet, runtime: Runtime, sitting: Sitting) -> None:
        self.run, self.images, self.runtime = run, images, runtime
        self.backbone, self.every = learner.backbone, sitting.online_every
        self.probe: Probe | None = None
        self._parts: list[Tensor] = []  # h of the step's parts, each (V*n, D), view after view
        self._hook: Any = None
        self._held_out: ImageSet | None = None
        if not sitting.online:
            return
        if images.target is None or len(images.classes[images.target]) < 2:
            tell(["no accuracy is shown during training: these images have no label with two classes (--data.label)."])
            return
        self.probe = Probe(run.backbone.D, len(images.classes[images.target]), runtime.device)

    def __enter__(self) -> Online:
        if self.probe is not None:
            self._hook = self.backbone.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, module: nn.Module, given: object, h: Tensor) -> None:
        if module.training and self.probe is not None:
            self._parts.append(h.detach())

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps, by file name; nothing when evaluation is off."""
        return {} if self.probe is None else {FILE: self.probe.state()}

    def restore(self, checkpoint: Path) -> None:
        """Go on with a checkpoint's probe. One that is absent or does not fit starts anew, with a note."""
        if self.probe is None:
            return
        file = checkpoint / f"{FILE}.pt"
        try:
            self.probe.load(torch.load(file, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            tell([f"{checkpoint} holds no online probe: one begins anew here, and its accuracy with it."])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            self.probe = Probe(self.run.backbone.D, len(self.probe.bias), self.runtime.device)
            reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else error
            tell([f"{file} cannot be used ({reason}): the online probe begins anew."])

    def after_step(self, indices: Tensor, step: int, per_epoch: int) -> dict[str, float]:
        """Learn from the step that was just made on the images at `indices` (B,); at an epoch's end also test.

        Gives `online_accuracy` (a running mean), `online_test_accuracy` and `online_knn`, fractions; nothing when off.
        """
        parts, self._parts = self._parts, []
        if self.probe is None:
            return {}
        try:  # whatever fails below, the run is worth more
            first = [part[: len(part) // self.run.objective.views].float() for part in parts]
            self.probe.learn(torch.cat(first), self.images.task()[0][indices].to(self.runtime.device))
        except Exception as error:
            self.probe = None
            tell([f"online evaluation ends at step {step} ({type(error).__name__}: {error}); training goes on."])
            return {}
        found = {"online_accuracy": self.probe.accuracy}
        try:
            if self.every and (step % (per_epoch * self.every) == 0 or step == per_epoch * self.run.epochs):
                with torch.random.fork_rng(devices=[]):  # whatever a data set draws while it loads
                    found |= self._tested(self.probe)
        except Exception as error:
            self.every = 0
            tell([f"online tests end at step {step} ({type(error).__name__}: {error}); training goes on."])
        return found

    def _tested(self, probe: Probe) -> dict[str, float]:
        """Accuracy of probe and kNN on a few plain test images. The most memory it needs is that of their h, (1000, D)."""
        if self._held_out is None:
            self._held_out = self.run.data.load("test")
        test, most = self._held_out, max(200, len(self.images) // SHARE)
        if test.classes.get(str(self.images.target)) != self.images.classes[str(self.images.target)]:
            raise UserError(f"the test images have no '{self.images.target}' with the same classes")
        rows, bank = _rows(test, "test", min(TEST, most)), _rows(self.images, "bank", min(BANK, most))
        labels, known = test.task(self.images.target)[0][rows], self.images.task()[0][bank]
        with _frozen(self.backbone):
            h = torch.cat(list(self._h(test, rows)))
            answers = probe.scores(h).argmax(1).cpu()
            h = F.normalize(h)
            similarity = torch.cat([(h @ F.normalize(part).T).cpu() for part in self._h(self.images, bank)], 1)
        nearest = neighbours(similarity, known, probe.bias.numel())
        return {"online_test_accuracy": _share(answers == labels), "online_knn": _share(nearest == labels)}

    def _h(self, images: ImageSet, rows: Tensor) -> Iterator[Tensor]:
        """(n, D) in fp32 of plain views, a part of a batch at a time."""
        for some in rows.split(self.run.batch // self.run.accumulate):
            views = augmentation.plain(self.run.views, images.images.batch(some).to(self.runtime.device))
            with self.runtime.autocast():
                h: Tensor = self.backbone(views)
            yield h.float()


def neighbours(similarity: Tensor, known: Tensor, classes: int) -> Tensor:
    """Cosines s (n, m) to images with labels `known` (m,) -> answers (n,), a vote of the 20 nearest, weight exp(s / 0.07)."""
    nearest = similarity.topk(min(NEIGHBOURS, similarity.shape[1]))
    votes = torch.zeros(len(similarity), classes)
    return votes.scatter_add_(1, known[nearest.indices], (nearest.values / TEMPERATURE).exp()).argmax(1)


def _rows(images: ImageSet, purpose: str, most: int) -> Tensor:
    """At most so many rows, drawn, since sets may lie in order of class; the same for every seed, so that runs compare."""
    return torch.randperm(len(images), generator=generator(0, f"online {purpose}"))[:most].sort().values


def _share(right: Tensor) -> float:
    return float(right.double().mean())


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, then every part's mode as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
