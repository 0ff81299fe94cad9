"""One company of encoders on one data set, drawn: ridge, decoder, samples, and what each says was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from wingspan.errors import UserError
from wingspan.progress import bar
from wingspan.rcdm import denoiser, factors, sampling
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.folder import Folder
from wingspan.rcdm.judge import Judge
from wingspan.rcdm.kept import Drawing, Kept, Rung, Tiles
from wingspan.rcdm.material import Material, to_pixels, to_unit
from wingspan.rcdm.pictures import Pictures
from wingspan.rcdm.reader import Reader, train_reader
from wingspan.rcdm.ridge import Ridge, fit
from wingspan.rcdm.sampling import Sampler
from wingspan.rcdm.settings import Settings
from wingspan.rcdm.training import Conditioned, build, train
from wingspan.runs import explained, write_atomic
from wingspan.runtime import Runtime

_JUDGED = 2000  # test images that the lower rungs are judged on


def draw(
    subject: Subject,
    encoders: Sequence[Encoder],
    pictures: Pictures,
    rung: Rung,
    settings: Settings,
    folder: Path,
    seed: int,
    runtime: Runtime,
    preset: str,
    count: int = 4,
) -> Drawing:
    """Every rung up to `rung`: what is missing in `folder` is trained, then measured and drawn, `count` samples a picture.

    Raises UserError when the folder holds a decoder of other features or settings, when a picture from outside is to be drawn
    and an encoder has no network, and Interrupted after a signal; what was trained is kept.
    """
    if rung == "samples":
        denoiser.require()
    held = Folder(subject, tuple(encoders), settings, folder, seed)
    direct, material = _begun(held)
    reader = _reader(held) if rung != "ridge" else None
    judge = Judge(subject, min(_JUDGED, len(subject.test)), seed, reader)
    sampler = _sampler(material, held, rung, runtime)
    numbers: list[Kept] = []
    for at, encoder in enumerate(encoders):
        closed = material.predicted(at, encoder.test.rows(judge.rows)).clamp_(-1, 1)
        numbers += judge.ridge(encoder, material.ridges[at], closed, direct)
        if sampler.decoder is not None:
            numbers += judge.pictures(encoder, sampler.decoded(at, encoder.test.rows(judge.rows)), "decoder")
    untrusted: Mapping[str, Mapping[str, str]] = {}
    if rung == "samples":
        found, untrusted = _sampled(held, sampler, reader, direct)
        numbers += found
    tiles = _tiles(held, sampler, pictures, rung, count)
    notes = () if reader is None else reader_notes(reader)
    return Drawing(subject.name, rung, preset, tuple(encoders), tuple(numbers), tiles, untrusted, notes)


def trained(
    subject: Subject, encoders: Sequence[Encoder], settings: Settings, folder: Path, seed: int, runtime: Runtime
) -> Sampler:
    """A company's sampler alone, trained as far as is missing: for edits of h."""
    denoiser.require()
    held = Folder(subject, tuple(encoders), settings, folder, seed)
    return _sampler(_begun(held)[1], held, "samples", runtime)


def reader_notes(reader: Reader) -> tuple[str, ...]:
    """How well true factors are read off pictures, and which are not well enough."""
    told = [f"{name} {reader.r2[name]:.2f}" for name in reader.usable]
    left = [f"{name} {value:.2f}" for name, value in reader.r2.items() if name not in reader.usable]
    notes = (
        [f"True factors are read off pictures by a small network; it explains (R2 on real images): {', '.join(told)}."]
        if told
        else []
    )
    return (*notes, *([f"Not read well enough to be judged by: {', '.join(left)}."] if left else []))


# ------------------------------------------------------------------------------------------------------------------- parts


def _begun(held: Folder) -> tuple[dict[str, slice], Material]:
    """Take the folder and fit the ridges: where what is regressed from h itself stands among their targets, and the rest."""
    with explained(held.path):
        held.path.mkdir(parents=True, exist_ok=True)
    held.claim()
    direct = _direct(held.subject, held.settings)
    ridges = [_ridge(held, encoder, direct) for encoder in held.encoders]
    return direct, Material(held.subject, held.encoders, ridges, held.settings, held.seed)


def _direct(subject: Subject, settings: Settings) -> dict[str, slice]:
    """Where in a ridge's targets, behind the picture, each factor stands that is regressed from h itself."""
    sample = subject.train.batch(torch.zeros(1, dtype=torch.int64))
    sizes = {"histogram": factors.histogram((to_unit(sample) + 1) / 2).shape[1]}
    sizes |= {name: values.shape[1] for name, values in factors.truths(subject.splits["train"]).items()}
    places, start = {}, 3 * settings.ridge_side**2
    for name, size in sizes.items():
        places[name] = slice(start, start + size)
        start += size
    return places


def _ridge(held: Folder, encoder: Encoder, direct: Mapping[str, slice]) -> Ridge:
    file = held.path / "ridge" / f"{encoder.identity}.safetensors"
    if file.exists():
        return Ridge.from_tensors(safetensors.torch.load_file(file))
    subject, side = held.subject, held.settings.ridge_side
    truths = factors.truths(subject.splits["train"])

    def targets(rows: Tensor) -> Tensor:
        pictures = (to_unit(subject.train.batch(rows)) + 1) / 2
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, side)
        return torch.cat([small.flatten(1), factors.histogram(pictures), *(values[rows] for values in truths.values())], 1)

    groups = {"picture": slice(0, 3 * side**2), **direct}
    made = fit(encoder.train, targets, len(subject.train), groups=groups, label=f"ridge of {encoder.name}")
    write_atomic(file, safetensors.torch.save(made.tensors()))
    return made


def _reader(held: Folder) -> Reader | None:
    file = held.path / "reader.safetensors"
    if file.exists():
        return Reader.from_tensors(safetensors.torch.load_file(file))
    made = train_reader(held.subject, held.seed, held.settings.reader_steps)
    if made is not None:
        write_atomic(file, safetensors.torch.save(made.tensors()))
    return made


def _sampler(material: Material, held: Folder, rung: Rung, runtime: Runtime) -> Sampler:
    made: dict[str, Conditioned | None] = {"decoder": None, "denoiser": None}
    if rung != "ridge":
        made["decoder"] = _trained("decoder", material, held, runtime)
    if rung == "samples":
        made["denoiser"] = _trained("denoiser", material, held, runtime)
    return Sampler(material, made["decoder"], made["denoiser"], runtime)


def _trained(kind: str, material: Material, held: Folder, runtime: Runtime) -> Conditioned:
    """The decoder or the denoiser at the end of its course."""
    settings, E = material.settings, len(material.encoders)
    course = sampling.denoising(settings, E, held.seed) if kind == "denoiser" else sampling.decoding(settings, E)
    model = build(lambda: sampling.trunk_of(kind, settings), [e.D for e in material.encoders], settings, held.seed, runtime)
    train(model, course, material, held.path / kind, held.identity, runtime)
    return model


def _sampled(
    held: Folder, sampler: Sampler, reader: Reader | None, direct: Mapping[str, slice]
) -> tuple[list[Kept], dict[str, dict[str, str]]]:
    """What samples of test images say, and which of it breaks the trust rule; the lower rungs judged on the same images."""
    settings, material = held.settings, sampler.material
    judge = Judge(held.subject, min(settings.evaluated, len(held.subject.test)), held.seed, reader)
    n, count, found, untrusted = len(judge.rows), settings.evaluated_samples, [], {}
    begun = [sampling.noise(held.seed, k, n, settings.side, "measured") for k in range(count)]
    with bar("samples of test images", len(held.encoders), per_unit=n * count, things="samples") as shown:
        for at, encoder in enumerate(held.encoders):
            h = encoder.test.rows(judge.rows)
            samples = torch.stack([sampler.drawn(at, h, noise) for noise in begun])
            numbers = judge.samples(encoder, samples) + (judge.retrieved(encoder, samples) if settings.retrieved else [])
            lower = judge.ridge(encoder, material.ridges[at], material.predicted(at, h).clamp_(-1, 1), direct)
            lower += judge.pictures(encoder, sampler.decoded(at, h), "decoder")
            best: dict[str, float] = {}
            for kept in lower:
                best[kept.factor] = max(best.get(kept.factor, kept.value), kept.value)
            found += numbers
            untrusted[encoder.name] = judge.untrusted(encoder, numbers, best)
            shown.advance()
    return found, untrusted


def _tiles(held: Folder, sampler: Sampler, pictures: Pictures, rung: Rung, count: int) -> Tiles:
    """Every picture by every encoder: `count` samples, or on the lower rungs the one picture there is."""
    drawn = {}
    for at, encoder in enumerate(held.encoders):
        h = features_of(encoder, pictures)
        if rung == "samples":
            made = sampler.samples(at, h, count, held.seed)
        elif rung == "decoder":
            made = sampler.decoded(at, h).unsqueeze(1)
        else:
            made = sampler.material.predicted(at, h).clamp_(-1, 1).unsqueeze(1)
        drawn[encoder.name] = to_pixels(made)
    return Tiles(pictures.shown, pictures.names, tuple((pictures.rows >= 0).tolist()), drawn)


def features_of(encoder: Encoder, pictures: Pictures) -> Tensor:
    """Standardised h (P, D) of pictures: the test split's features, and for what comes from outside the network's.

    Raises UserError for an encoder without a network and pictures from outside.
    """
    own = pictures.rows >= 0
    h = torch.empty(len(own), encoder.D)
    if own.any():
        h[own] = encoder.test.rows(pictures.rows[own])
    if not own.all():
        if encoder.encode is None:
            raise UserError(
                f"{encoder.name}: pictures from outside ({pictures.names[int((~own).int().argmax())]}) have to go through the "
                "network, and there is only a store of features: leave out --images, or put the run back where the store says."
            )
        h[~own] = encoder.read(encoder.encode(pictures.pixels[~own]))
    return h
