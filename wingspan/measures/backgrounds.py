"""Robustness to the background: one object before its own, another or no background (Xiao et al. 2020; the paper's Table 5).

A fine-grained linear classifier is trained on h and its answers are mapped to superclasses, as ImageNet-9 does; an answer that
maps to none is wrong. The background gap is the accuracy on mixed-same less that on mixed-rand: what it is worth that the
background goes with the class. Two kinds of data:

* images in variants. The test split has a task `variant` (original, only_fg, no_fg, only_bg_b, only_bg_t, mixed_same,
  mixed_rand, mixed_next, or 0 to 7 in that order) and a task `label`, the superclass; the training split has `label` and
  `fine`, and which goes with which there is the map. A column `source`, the image that a variant was made from, pairs the
  gap's two sides.
* `scenes`, whose test split is rendered anew in the same variants (`_variants.py`). The target's own classes are learnt, and
  nothing is mapped.

The paper scores networks trained end to end on the classes; ours is a linear probe of frozen features, whatever trained them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wingspan.data.base import ImageSet, InMemory
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.features import Bank, Need, extract
from wingspan.inputs import Inputs
from wingspan.measures._heads import Heads, Recipe, fit
from wingspan.measures._tasks import Task
from wingspan.measures._variants import VARIANTS, paired, rendered, sources, superclasses, variant_of
from wingspan.measures.base import Measure, Measured, NotApplicableError, Number
from wingspan.network import Network
from wingspan.progress import tell


@dataclass(frozen=True)
class _Answered:
    """The images of one variant: their true classes (n,), what was answered (n,), -1 for none, and their sources (n,)."""

    truth: Tensor
    answer: Tensor
    source: Tensor | None


@dataclass(frozen=True)
class _Classifier:
    heads: Heads
    inputs: Inputs

    def answers(self, h: Tensor) -> Tensor:
        """(n, D) -> (n,) int64"""
        return self.heads.scores(self.inputs.like(h))["class"].argmax(1)


@dataclass(frozen=True)
class Backgrounds(Measure):
    """Accuracy of a linear classifier as backgrounds are removed and exchanged."""

    title: ClassVar[str] = "accuracy with the background removed or exchanged, and the background gap"
    source: ClassVar[str] = "Table 5; Xiao et al. 2020, Noise or Signal"
    reading: ClassVar[str] = (
        "A column a variant, as in Table 5. The background gap is what a background of the right class is worth: the lower,"
        " the less the classifier leans on it. Accuracy on only-bg says how much the background gives away by itself."
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"train", "test", "network"})

    fine_data: str = ""
    """Path of a larger set of the `fine` classes to train the classifier on, as ImageNet-9 does; empty: the training split."""
    lr: float = 3e-3
    """Learning rate of the classifier (AdamW, on standardised features, falling to 0 on a cosine)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of the classifier's matrix. Raise it where the fine classes have few images."""
    batch: int = 128
    """Images a step: few, so that small training sets give steps enough."""
    epochs: int = 30
    """Passes over the classifier's training images."""

    def __post_init__(self) -> None:
        for name in ("lr", "batch", "epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"backgrounds: {name} {getattr(self, name)} must be positive.")
        if not self.weight_decay >= 0:
            raise UserError(f"backgrounds: weight decay {self.weight_decay} must not be negative.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        if isinstance(bank.source, Scenes):
            return self._scenes(bank, bank.source, seed)
        lacking = [f"'{name}' in the test split" for name in ("variant", "label") if name not in bank.test.images.labels]
        lacking += [f"'{name}' in the training split" for name in ("fine", "label") if name not in bank.train.images.labels]
        if lacking:
            raise NotApplicableError(
                f"'{bank.data}' shows no object before several backgrounds: columns 'variant' ({', '.join(VARIANTS)}), 'label' "
                f"(superclass) and, in the training split, 'fine' are needed, or the data set scenes. "
                f"Lacking: {', '.join(lacking)}."
            )
        return self._columns(bank, seed)

    def _scenes(self, bank: Bank, data: Scenes, seed: int) -> Measured:
        network = _network(bank)
        images = bank.test.images
        truth, classes = images.task(data.target)
        classifier = self._fit(bank.train.h, bank.train.images.labels[data.target], len(classes), None, seed)
        found = {}
        for variant, pixels in rendered(data, seed):
            h = extract(network, ImageSet(InMemory(pixels)), label=f"{variant} of {bank.data}")["h"]
            found[variant] = _Answered(truth, classifier.answers(h), torch.arange(len(truth)))
        notes = []
        if not data.bias:
            notes.append(
                "the training scenes' backdrops tell nothing of the class (bias 0): a gap is chance; try --data.bias 0.9"
            )
        if self.fine_data:
            notes.append(f"fine_data '{self.fine_data}' is not used: scenes have classes of their own")
        return _measured(found, len(classes), notes)

    def _columns(self, bank: Bank, seed: int) -> Measured:
        train, test = bank.train.images, bank.test.images
        variants = [variant_of(name) for name in test.classes["variant"]]
        rows = _originals(train)
        learnt, where = (self._fine_images(bank), f"'{self.fine_data}'") if self.fine_data else (train, "the training split")
        fine, names = learnt.task("" if self.fine_data else "fine")
        superclass = superclasses(train, rows, test.classes["label"], names, where)
        if self.fine_data:
            h = extract(_network(bank), learnt, label="features for the classifier")["h"]
            classifier = self._fit(h, fine, len(names), None, seed)
        else:
            classifier = self._fit(bank.train.h, fine, len(names), rows, seed)
        answers, source = superclass[classifier.answers(bank.test.h)], sources(bank)
        found = {}
        for number, variant in enumerate(variants):
            of = (test.labels["variant"] == number).nonzero()[:, 0]
            if len(of):
                found[variant] = _Answered(test.labels["label"][of], answers[of], None if source is None else source[of])
        notes = []
        if source is None:
            notes.append(
                "no column 'source' tells which variants were made from one image: the gap's error takes none for paired"
            )
        return _measured(found, len(test.classes["label"]), notes)

    def _fine_images(self, bank: Bank) -> ImageSet:
        side = bank.source.side if bank.source else bank.train.images.images.side
        cache = getattr(bank.source, "cache", "")
        images = Hub(path=self.fine_data, size=side, cache=cache).load("train")
        tell(images.notes)
        return images

    def _fit(self, h: Tensor, labels: Tensor, classes: int, rows: Tensor | None, seed: int) -> _Classifier:
        inputs = Inputs(h).standardised()
        recipe = Recipe(self.lr, self.weight_decay, self.batch, self.epochs, cosine=True)
        (heads,) = fit(inputs, [Task("class", classes, labels, labels[:0])], [recipe], seed, rows, label="classifier")
        return _Classifier(heads, inputs)


def _network(bank: Bank) -> Network:
    if bank.network is None:
        raise NotApplicableError(
            f"'{bank.data}': images have to be put through the network, and these are features from a file."
        )
    return bank.network


def _originals(train: ImageSet) -> Tensor:
    """Rows of the training split whose background is their own: all, where it tells no variants."""
    if "variant" not in train.labels:
        return torch.arange(len(train))
    original = torch.tensor([variant_of(name) == "original" for name in train.classes["variant"]])
    rows = original[train.labels["variant"]].nonzero()[:, 0]
    if not len(rows):
        raise UserError("no image of the training split has variant 'original': the classifier has nothing to learn from.")
    return rows


def _measured(found: dict[str, _Answered], classes: int, notes: list[str]) -> Measured:
    numbers = []
    for variant in (name for name in VARIANTS if name in found):
        of = found[variant]
        numbers.append(Task(variant.replace("_", "-"), classes, of.truth[:0], of.truth).accuracy(of.answer))
    if {"mixed_same", "mixed_rand"} <= set(found):
        same, rand = found["mixed_same"], found["mixed_rand"]
        value, error, n = paired(same.answer == same.truth, same.source, rand.answer == rand.truth, rand.source)
        numbers.append(Number("background accuracy gap", "", value, n, classes, 0.0, error=error))
    return Measured(tuple(numbers), notes=tuple(notes))
