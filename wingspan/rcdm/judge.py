"""What pictures made from h say of h: retention a factor on every rung, ranks, and which of it may be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.rcdm import factors, retention
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.kept import Kept, Metric, Rung
from wingspan.rcdm.material import to_pixels, to_unit
from wingspan.rcdm.reader import Reader
from wingspan.rcdm.ridge import Ridge

_TRAINING = 2048  # training images that means are taken over
_AT_ONCE = 128


class Judge:
    """Test images drawn by chance, the factors read off them, and how far those vary in the data.

    rows (n,): of the test split. The means that spreads are taken about are the training images'.
    """

    def __init__(self, subject: Subject, count: int, seed: int, reader: Reader | None) -> None:
        self.subject, self.seed, self.reader = subject, seed, reader
        order = torch.randperm(len(subject.test), generator=generator(seed, "rcdm evaluated"))
        self.rows = order[:count].sort().values
        self.masks = None if subject.masks is None else subject.masks[self.rows]
        self.sources = self.read(to_unit(subject.test.batch(self.rows)))
        seen = torch.randperm(len(subject.train), generator=generator(seed, "rcdm means"))[:_TRAINING].sort().values
        pictures = (to_unit(subject.train.batch(seen)) + 1) / 2
        masked = self.read(pictures.mean(0, keepdim=True).expand(len(self.rows), -1, -1, -1) * 2 - 1)
        plain = factors.of_pictures(pictures, None, reader)
        self.means = {name: plain[name].mean(0) if name in plain else masked[name] for name in self.sources}
        for name, mean in self.means.items():
            if not (self.sources[name] - mean).any():  # these images do not differ in it
                del self.sources[name]

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """The factors of pictures (n, 3, S, S) in -1..1 of the judged rows: name -> (n, k)."""
        return factors.of_pictures((pictures + 1) / 2, self.masks, self.reader)

    def ridge(self, encoder: Encoder, ridge: Ridge, pictures: Tensor, direct: Mapping[str, slice]) -> list[Kept]:
        """R2 of every factor by closed form: those linear in the picture off the ridge picture, the others regressed."""
        found = list(self.pictures(encoder, pictures, "ridge", only=factors.LINEAR))
        h = encoder.test.rows(self.rows)
        predicted = ridge.predict(h)
        truths = {name: values[self.rows] for name, values in factors.truths(self.subject.splits["test"]).items()}
        trained = factors.truths(self.subject.splits["train"])
        for name, place in direct.items():
            source = truths.get(name, self.sources.get(name))
            mean = trained[name].mean(0) if name in trained else self.means[name]
            if source is not None and source.shape == predicted[:, place].shape and (source - mean).any():
                value = retention.r2(source, predicted[:, place], mean, self.seed)
                found.append(self._kept(encoder, name, "ridge", "r2", value))
        return found

    def pictures(self, encoder: Encoder, pictures: Tensor, rung: Rung, only: frozenset[str] | None = None) -> Iterator[Kept]:
        """R2 of the factors of one picture (n, 3, S, S) a row, in -1..1."""
        for name, predicted in self.read(pictures).items():
            if name in self.sources and (only is None or name in only):
                value = retention.r2(self.sources[name], predicted, self.means[name], self.seed)
                yield self._kept(encoder, name, rung, "r2", value)

    def samples(self, encoder: Encoder, samples: Tensor) -> list[Kept]:
        """tau, rho and kappa of every factor, from samples (s, n, 3, S, S) in -1..1."""
        read = [self.read(each) for each in samples]
        found = []
        for name, source in self.sources.items():
            made = retention.retained(source, torch.stack([each[name] for each in read]), self.means[name], self.seed)
            found.append(self._kept(encoder, name, "samples", "tau", made.tau))
            found.append(self._kept(encoder, name, "samples", "rho", made.rho))
            found.append(self._kept(encoder, name, "samples", "kappa", made.kappa))
        return found

    def retrieved(self, encoder: Encoder, samples: Tensor) -> list[Kept]:
        """Mean reciprocal and median rank of a sample's source among all test images, by the encoder's own h of the sample.

        The published measure (Bordes et al. 2022), in standardised h. Empty where there is no network to ask.
        """
        if encoder.encode is None:
            return []
        side = self.subject.encoder_side or self.subject.side
        ranked = []
        for each in samples:
            for part, rows in zip(each.split(_AT_ONCE), self.rows.split(_AT_ONCE), strict=True):
                shown = part if part.shape[-1] == side else torch.nn.functional.interpolate(part, (side, side), mode="bilinear")
                h = encoder.read(encoder.encode(to_pixels(shown)))
                ranked.append(retention.ranks(h, encoder.test, rows))
        ranks, M = torch.cat(ranked).view(len(samples), -1), len(self.subject.test)
        found = retention.reciprocal(ranks, M, self.seed)
        return [
            self._kept(encoder, "", "samples", "mrr", found["mrr"][:3], found["mrr"][3]),
            self._kept(encoder, "", "samples", "median rank", found["median rank"][:3], found["median rank"][3]),
        ]

    def untrusted(self, encoder: Encoder, numbers: list[Kept], best: Mapping[str, float]) -> dict[str, str]:
        """Factor -> what is wrong, for those whose samples break the trust rule. best: the lower rungs' highest R2."""
        by = {(kept.factor, kept.metric): kept.value for kept in numbers if kept.encoder == encoder.name}
        said = {name: retention.verdict(by[name, "tau"], by[name, "kappa"], best.get(name, -1.0)) for name in self.sources}
        return {name: sentence for name, sentence in said.items() if sentence}

    def _kept(
        self, encoder: Encoder, factor: str, rung: Rung, metric: Metric, value: tuple[float, float, float],
        chance: float | None = None,
    ) -> Kept:  # fmt: skip
        return Kept(encoder.name, factor, rung, metric, *value, n=len(self.rows), chance=chance)
