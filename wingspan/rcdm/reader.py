"""A small network that reads true factors off pictures, so that drawn pictures can be asked what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wingspan.chance import generator, key
from wingspan.progress import bar
from wingspan.rcdm.encoders import Subject
from wingspan.runtime import multiplies_bf16

ENOUGH = 0.5
"""The R2 on real images from which a reader's word is taken."""
_BATCH, _LR, _SIDE = 128, 3e-3, 32
_LEVELS = ((64, 2), (128, 2), (128, 1))  # channels, and by what the side is divided
_TESTED = 1000  # images
_CLASSES = 100


class _Net(nn.Module):
    """Blocks of 2 x 2 pixels are folded into channels, and what is larger than 32 pixels is shrunk first: a minute's training
    reads more so, at every side."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        before, parts = 12, []
        for channels, stride in _LEVELS:
            parts += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU()]
            parts += [nn.Conv2d(channels, channels, 3, padding=1, stride=stride), nn.BatchNorm2d(channels), nn.SiLU()]
            before = channels
        self.body = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten())  # where things are is to be read, too
        self.head = nn.Linear(16 * before, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(pictures, _SIDE) if pictures.shape[-1] > _SIDE else pictures
        x = F.pixel_unshuffle(x * 2 - 1, 2).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.head(self.body(x))
        return found


@dataclass(frozen=True)
class Reader:
    """net: pictures -> outputs; places: name -> its outputs, softmax where there are several. r2: on real test images."""

    net: nn.Module
    places: Mapping[str, slice]
    r2: Mapping[str, float]

    @property
    def usable(self) -> tuple[str, ...]:
        """The names that it reads well enough."""
        return tuple(name for name, value in self.r2.items() if value >= ENOUGH)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures (n, 3, S, S) in 0..1 -> task -> probabilities (n, C); quantity -> (n, 1), standardised."""
        parts = []
        for part in pictures.split(256):
            with _autocast():
                parts.append(self.net(part).float())
        found = torch.cat(parts)
        read = {name: found[:, place] for name, place in self.places.items()}
        return {name: values.softmax(1) if values.shape[1] > 1 else values for name, values in read.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a file."""
        held = {f"net {name}": value.contiguous() for name, value in self.net.state_dict().items()}
        for name, place in self.places.items():
            held[f"place {name}"] = torch.tensor([place.start, place.stop])
            held[f"r2 {name}"] = torch.tensor(self.r2[name], dtype=torch.float64)
        return held

    @staticmethod
    def from_tensors(held: Mapping[str, Tensor]) -> Reader:
        """What `tensors` gave."""
        places = {name[6:]: slice(*value.tolist()) for name, value in held.items() if name.startswith("place ")}
        places = dict(sorted(places.items(), key=lambda item: int(item[1].start)))
        net = _Net(max(place.stop for place in places.values()))
        net.load_state_dict({name[4:]: value for name, value in held.items() if name.startswith("net ")})
        return Reader(net.eval().requires_grad_(False), places, {name: float(held[f"r2 {name}"]) for name in places})


def train_reader(subject: Subject, seed: int, steps: int = 500) -> Reader | None:
    """Train on the training images' labels and quantities for about a minute of one core; None where there are none.

    AdamW, `steps` batches of 128 on a cosine; cross-entropy a task (2 to 100 classes), squared error a standardised quantity. A
    function of the seed. None too where the test images tell nothing, for then it is not known how well it reads.
    """
    if not {"train", "test"} <= set(subject.splits):
        return None
    images, known = subject.splits["train"], _known(subject)
    if not known:
        return None
    sizes = {name: (len(images.classes[name]) if name in images.labels else 1) for name in known}
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = slice(start, start + size)
        start += size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "rcdm reader"))
        net = _Net(start).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    moments = {name: (float(values.mean()), float(values.std())) for name, values in known.items() if sizes[name] == 1}
    wanted = {name: _standard(values, moments.get(name)) for name, values in known.items()}
    _train(net, subject, wanted, places, seed, steps)
    made = Reader(net.eval().requires_grad_(False), places, {})
    return Reader(made.net, places, _tested(made, subject, moments))


def _known(subject: Subject) -> dict[str, Tensor]:
    """What both splits tell and what varies in training: labels, and quantities without gaps."""
    images, test = subject.splits["train"], subject.splits["test"]
    tasks = {
        name: values
        for name, values in images.labels.items()
        if name in test.labels and 2 <= len(images.classes[name]) <= _CLASSES and bool((values != values[0]).any())
    }
    numbers = {
        name: values
        for name, values in images.quantities.items()
        if name in test.quantities and name not in tasks and math.isfinite(spread := float(values.std())) and spread > 0
    }
    return {**tasks, **numbers}


def _standard(values: Tensor, moments: tuple[float, float] | None) -> Tensor:
    return values if moments is None else ((values - moments[0]) / moments[1]).float()


def _train(
    net: nn.Module, subject: Subject, known: Mapping[str, Tensor], places: Mapping[str, slice], seed: int, steps: int
) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=_LR, weight_decay=1e-2, fused=True)
    with bar("reader of true factors", steps, per_unit=_BATCH, things="images") as shown:
        for step in range(steps):
            warm = min(1.0, (step + 1) / max(1, min(30, steps // 10)))
            for group in optimiser.param_groups:
                group["lr"] = _LR * warm * (1 + math.cos(math.pi * step / steps)) / 2
            rows = torch.randint(len(subject.train), (_BATCH,), generator=generator(seed, "rcdm reader", step))
            with _autocast():
                found = net(subject.train.batch(rows).float() / 255).float()
            losses = []
            for name, values in known.items():
                output, wanted = found[:, places[name]], values[rows]
                losses.append(F.cross_entropy(output, wanted) if output.shape[1] > 1 else F.mse_loss(output[:, 0], wanted))
            loss = torch.stack(losses).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            shown.advance(f"loss {float(loss.detach()):.3f}")


def _tested(reader: Reader, subject: Subject, moments: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """R2 of every factor on up to 1,000 test images: of the probabilities about the classes' shares, of quantities."""
    rows = torch.linspace(0, len(subject.test) - 1, min(_TESTED, len(subject.test))).round().long().unique()
    images = subject.splits["test"]
    read = reader.read(subject.test.batch(rows).float() / 255)
    found = {}
    for name, values in read.items():
        if name in moments:
            truth = _standard(images.quantities[name][rows], moments[name]).unsqueeze(1)
        else:
            truth = F.one_hot(images.labels[name][rows], values.shape[1]).float()
        spread = (truth - truth.mean(0)).square().sum()
        found[name] = float(1 - (values - truth).square().sum() / spread) if spread > 0 else 0.0
    return found


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16("cpu"))
