"""In which form features are kept: as bits where a probe loses little by it, else what loses nothing in the fewest bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wingspan import spec
from wingspan.chance import generator
from wingspan.data.base import Data, ImageSet
from wingspan.features import Bank, Split, extract
from wingspan.measures.base import Measure, NotApplicableError, Number
from wingspan.measures.binary import Binary
from wingspan.network import Network
from wingspan.store.manifest import Format

_TRAIN, _TEST = 5_000, 10_000  # images looked at: the error of a gap comes from the test images
_WORTH = 0.8  # of fp16's bytes: sparse rows are slower to read, so they must save something


@dataclass(frozen=True)
class Chosen:
    """A format, and sentences with the figures it was chosen by."""

    format: Format
    why: tuple[str, ...]


def choose(network: Network, data: Data, layer: str, seed: int, allowed: float) -> Chosen:
    """Measure on up to 5,000 training and 10,000 test images what bits would cost, then choose.

    packed where a linear probe on h > 0 loses at most `allowed` (a fraction of the test images) at the upper end of its 95 %
    interval, on every task; else sparse where values above 0 are few and none is below; else fp16. Images without labels
    cannot tell what bits cost, so they are kept without loss.
    """
    network.check_layer(layer)
    network = network.at(data.side)
    images = {"train": _some(data.load("train"), _TRAIN, seed), "test": _some(data.load("test"), _TEST, seed)}
    h = {
        split: extract(network, each, layers=layer != "h", label=f"trial features of {data.label_name} {split}")[layer]
        for split, each in images.items()
    }
    bank = Bank(data.label_name, Split(h["train"], images["train"]), Split(h["test"], images["test"]), "")
    bits, cost = _bits(bank, seed, allowed)
    if bits:
        return Chosen("packed", (cost,))
    share = _bytes(h["test"])
    D = h["test"].shape[1]
    if share is None:
        return Chosen("fp16", (cost, f"fp16, {2 * D:,} bytes an image: sparse is no choice, '{layer}' has values below 0."))
    told = f"sparse would take {share:.0%} of fp16's {2 * D:,} bytes an image"
    return Chosen("sparse", (cost, f"sparse: {told}.")) if share <= _WORTH else Chosen("fp16", (cost, f"fp16: {told}."))


def _bits(bank: Bank, seed: int, allowed: float) -> tuple[bool, str]:
    """Whether bits will do, and the sentence that says so."""
    fast = spec.presets(Measure)["binary_fast"]
    assert isinstance(fast, Binary)
    try:
        numbers = replace(fast, probes=("linear",)).measure(bank, seed).numbers
    except NotApplicableError as error:
        return False, f"what bits cost is not known ({error}) so nothing is given up."
    lost = [number for number in numbers if number.metric == "accuracy lost to binarising"]
    worst = max(lost, key=_upper)
    before = next(n.value for n in numbers if (n.metric, n.task, n.series) == ("accuracy", worst.task, "linear"))
    fits = _upper(worst) <= allowed
    told = (
        f"a linear probe of '{worst.task}' reads {before:.1%} from h and loses {100 * worst.value:.1f} ± "
        f"{196 * (worst.error or 0):.1f} points on bits ({worst.n:,} test images, 95 % interval"
        f"{', the most of ' + str(len(lost)) + ' tasks' if len(lost) > 1 else ''})"
    )
    verdict = "at most" if fits else "which may be above"
    return fits, f"{'packed' if fits else 'not packed'}: {told}, {verdict} the {100 * allowed:g} points allowed (--max-loss)."


def _upper(lost: Number) -> float:
    return lost.value + 1.96 * (lost.error or 0)


def _bytes(h: Tensor) -> float | None:
    """The share of fp16's bytes that sparse takes; None where values lie below 0."""
    parts = h.split(max(1, 2**24 // h.shape[1]))
    if any(bool((part < 0).any()) for part in parts):
        return None
    return 1 / 16 + sum(int((part > 0).sum()) for part in parts) / h.numel()


def _some(images: ImageSet, most: int, seed: int) -> ImageSet:
    if len(images) <= most:
        return images
    chosen = torch.randperm(len(images), generator=generator(seed, "storage"))[:most].sort().values
    return images.take(chosen)
