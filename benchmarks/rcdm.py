"""Drawing from representations: what a step costs, how fast samples come, and whether retention is told rightly.

    python benchmarks/rcdm.py [--json] [--data FOLDER] [--only step samples projection encoders] [--seconds 110] [--threads 1]

step        a training step of cpu32 over the bare U-Net's forward and backward pass on the same batch, in turn; median ratio
samples     seconds for 8 samples of one image
projection  h is a fixed random projection of the image to 256 numbers, so that it tells the image: after --seconds of CPU time
            of training, without the ridge picture and with it, mean reciprocal rank of a sample's source among all test images
            (chance beside it), and the samples' mean squared error (of values in 0..1)
encoders    projections to 16, 64 and 256 numbers, an untrained and a trained small net, drawn together by cpu32: retention of
            pixels by samples beside what ridge and decoder explain, calibration, and whether all order them alike

--data is CIFAR-10 (folder, Parquet or hub id); left out, the embedded scenes. With scenes 'projection' has 2,000 test images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wingspan import spec
from wingspan.chance import generator
from wingspan.data.base import Data, ImageSet
from wingspan.data.scenes import Scenes
from wingspan.features import extract
from wingspan.inputs import Inputs
from wingspan.loop import pretrain
from wingspan.network import Network, load_network
from wingspan.pretrain import Sitting, prepare
from wingspan.rcdm import drawing, sampling, training
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.rcdm.judge import Judge
from wingspan.rcdm.material import Material
from wingspan.rcdm.pictures import Pictures
from wingspan.rcdm.ridge import fit
from wingspan.rcdm.sampling import Sampler
from wingspan.rcdm.settings import PRESETS, Settings
from wingspan.recipes import SMALL
from wingspan.runtime import Runtime
from wingspan.verbs._sets import data_set

PARTS = ("step", "samples", "projection", "encoders")


def subject_of(data: Data) -> Subject:
    splits: dict[str, ImageSet] = {"train": data.load("train"), "test": data.load("test")}
    return Subject(data.label_name, data.side, splits["train"].images, splits["test"].images, splits, None, data.side)


def projected(subject: Subject, D: int) -> Encoder:
    """A fixed random projection of the image to D numbers."""
    ways = torch.randn(3 * subject.side**2, D, generator=generator(0, "projection", D)) / (3 * subject.side**2) ** 0.5

    def encode(pixels: Tensor) -> Tensor:
        return pixels.float().flatten(1) / 255 @ ways

    def features(images: Any) -> Tensor:
        return torch.cat([encode(images.batch(rows)) for rows in torch.arange(len(images)).split(4096)]).half()

    train = Inputs(features(subject.train)).standardised()
    return Encoder(f"projection D={D}", "projection", f"projection-{D}", train, train.like(features(subject.test)), encode)


def encoded(subject: Subject, network: Network, name: str) -> Encoder:
    """A network's h."""
    network = network.at(subject.encoder_side)
    h = {split: extract(network, images, label=f"{name}, {split}")["h"] for split, images in subject.splits.items()}
    train = Inputs(h["train"]).standardised()
    return Encoder(name, name, name, train, train.like(h["test"]), lambda pixels: network.h(network.plain(pixels)).cpu())


def material_of(subject: Subject, encoder: Encoder, settings: Settings) -> Material:
    side = settings.ridge_side

    def targets(rows: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(subject.train.batch(rows).float() / 255, side).flatten(1)

    return Material(subject, [encoder], [fit(encoder.train, targets, len(subject.train))], settings, 0)


def model_of(material: Material, runtime: Runtime) -> training.Conditioned:
    settings = material.settings
    widths = [encoder.D for encoder in material.encoders]
    return training.build(lambda: sampling.trunk_of("denoiser", settings), widths, settings, 0, runtime)


def step(subject: Subject, runtime: Runtime, rounds: int = 9) -> dict[str, Any]:
    settings = PRESETS["cpu32"]
    material = material_of(subject, projected(subject, 2048), settings)
    model = model_of(material, runtime)
    course = sampling.denoising(settings, 1, 0)
    state = training._State(model, settings)
    times = torch.arange(settings.batch) * 1000 // settings.batch
    noisy, condition = torch.randn(settings.batch, 3, 32, 32), torch.randn(settings.batch, settings.conditioning)
    took: dict[str, list[float]] = {"step": [], "bare": []}
    for number in range(rounds + 2):
        began = time.process_time()
        training.step(state, course, material.batch(number, "timed").to(runtime.device), runtime)
        middle = time.process_time()
        state.optimiser.zero_grad(set_to_none=True)
        with runtime.autocast():
            loss = model.trunk(noisy, times, condition, noisy).float().square().mean()
        loss.backward()
        ended = time.process_time()
        if number > 1:  # the first two find their memory
            took["step"].append(middle - began)
            took["bare"].append(ended - middle)
    ratios = [one / other for one, other in zip(took["step"], took["bare"], strict=True)]
    return {
        "cpu_seconds_a_step": statistics.median(took["step"]),
        "cpu_seconds_bare": statistics.median(took["bare"]),
        "ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios),
        "width": 2048, "batch": settings.batch,
    }  # fmt: skip


def eight(subject: Subject, runtime: Runtime) -> dict[str, Any]:
    material = material_of(subject, projected(subject, 256), PRESETS["cpu32"])
    model = model_of(material, runtime).eval()
    sampler = Sampler(material, None, model, runtime)
    h = material.encoders[0].test.rows(slice(0, 1))
    took = []
    for seed in range(4):
        began = time.monotonic()
        sampler.samples(0, h, 8, seed)
        took.append(time.monotonic() - began)
    return {
        "seconds": statistics.median(took[1:]),
        "steps": material.settings.sampling_steps,
        "threads": torch.get_num_threads(),
    }


def projection(subject: Subject, runtime: Runtime, seconds: float) -> dict[str, Any]:
    encoder = projected(subject, 256)
    found: dict[str, Any] = {}
    for ridge in ("none", "residual"):
        settings = dataclasses.replace(PRESETS["cpu32"], ridge=ridge)
        material = material_of(subject, encoder, settings)
        pace = step_seconds(material, runtime)
        steps = max(1, int(seconds / pace))
        settings = dataclasses.replace(settings, steps=steps)
        material = material_of(subject, encoder, settings)
        model = model_of(material, runtime)
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            training.train(model, sampling.denoising(settings, 1, 0), material, Path(folder), "benchmark", runtime)
        spent = time.process_time() - began
        judge = Judge(subject, 256, 0, None)
        h = encoder.test.rows(judge.rows)
        sampler = Sampler(material, None, model, runtime)
        samples = torch.stack([sampler.drawn(0, h, sampling.noise(0, k, len(h), 32, "measured")) for k in range(2)])
        sources = subject.test.batch(judge.rows).float() / 255
        ranks = {kept.metric: kept for kept in judge.retrieved(encoder, samples)}
        kept = {kept.metric: kept.value for kept in judge.samples(encoder, samples) if kept.factor == "pixels"}
        found[ridge] = {
            "cpu_seconds": spent, "steps": steps, "error": float(((samples + 1) / 2 - sources).square().mean()),
            "mrr": ranks["mrr"].value, "mrr_low": ranks["mrr"].low, "mrr_high": ranks["mrr"].high,
            "chance": ranks["mrr"].chance, "median_rank": ranks["median rank"].value, "among": len(subject.test), **kept,
        }  # fmt: skip
    found["error_ratio"] = found["residual"]["error"] / found["none"]["error"]
    return found


def step_seconds(material: Material, runtime: Runtime) -> float:
    """CPU seconds of a training step, from a few on a model of its own."""
    state = training._State(model_of(material, runtime), material.settings)
    course = sampling.denoising(material.settings, 1, 0)
    took = []
    for number in range(6):
        began = time.process_time()
        training.step(state, course, material.batch(number, "timed"), runtime)
        took.append(time.process_time() - began)
    return statistics.median(took[2:])


def encoders(subject: Subject, data: Data, runtime: Runtime) -> dict[str, Any]:
    run = spec.override(
        SMALL, {"epochs": 4, "objective": "supervised", "projector": "", "backbone.width": 512, "precision": "auto"}
    )
    run = dataclasses.replace(run, data=data)
    with tempfile.TemporaryDirectory() as folder:
        place = pretrain(run, Path(folder) / "run", Sitting(online=False))
        _, network = load_network(place, runtime)
        fresh = Network(prepare(run, subject.splits["train"], runtime).learner.backbone, run.augment, runtime)
        company = [projected(subject, D) for D in (16, 64, 256)]
        company += [encoded(subject, fresh, "untrained D=512"), encoded(subject, network, "supervised D=512")]
        rows = torch.arange(4)
        pixels = subject.test.batch(rows)
        pictures = Pictures(pixels, tuple(map(str, rows.tolist())), rows, pixels)
        began = time.monotonic()
        drawn = drawing.draw(
            subject, company, pictures, "samples", PRESETS["cpu32"], Path(folder) / "drawn", 0, runtime, "cpu32"
        )
        spent = time.monotonic() - began
    metrics = (("r2", "ridge"), ("r2", "decoder"), ("tau", "samples"), ("kappa", "samples"))
    table = {
        encoder.name: {
            f"{metric}, {rung}": getattr(drawn.number(encoder.name, "pixels", metric, rung), "value", None)
            for metric, rung in metrics
        }
        for encoder in company
    }
    orders = {
        column: sorted(table, key=lambda name: table[name][column]) for column in ("r2, ridge", "r2, decoder", "tau, samples")
    }
    return {
        "seconds": spent, "encoders": table, "orders": orders, "untrusted": drawn.untrusted,
        "alike": orders["tau, samples"] == orders["r2, ridge"] == orders["r2, decoder"],
    }  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--json", action="store_true")
    words.add_argument("--data", default="")
    words.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    words.add_argument("--seconds", type=float, default=110)
    words.add_argument("--threads", type=int, default=1)
    asked = words.parse_args()
    torch.set_num_threads(asked.threads)
    data = data_set(asked.data, 32) if asked.data else Scenes()
    subject, runtime = subject_of(data), Runtime("cpu")
    found: dict[str, Any] = {"data": data.label_name, "threads": asked.threads}
    parts = {
        "step": lambda: step(subject, runtime),
        "samples": lambda: eight(subject, runtime),
        "projection": lambda: projection(subject, runtime, asked.seconds),
        "encoders": lambda: encoders(subject, data, runtime),
    }
    for name in asked.only:
        found[name] = parts[name]()
    print(json.dumps(found, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
