"""Optional, for compare.py: Wingspan at its defaults, `wingspan.loop.step` as `wingspan pretrain` calls it."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable

import torch
from pictures import Pixels
from torch.profiler import record_function

from wingspan import augment, loop, sampling
from wingspan.backbones.resnet import ResNet
from wingspan.data.base import ImageSet, InMemory
from wingspan.objectives import simclr
from wingspan.pretrain import Pretrain, prepare
from wingspan.runtime import Runtime, hold_memory

PACKAGES = ("wingspan", "torch")


def train(options: Namespace, data: Pixels, pace: Callable[[], None]) -> None:
    run = Pretrain(
        augment=dataclasses.replace(augment.PRESETS["small"], size=32),
        backbone=ResNet(arch="resnet18", stem="cifar"),
        projector=f"{options.hidden}-{options.out}",
        batch=options.batch,
    )
    images = ImageSet(InMemory(torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()))
    runtime = Runtime("cpu")
    hold_memory()
    state = prepare(run, images, runtime)
    state.learner.train()
    if options.profile:
        for module, name, label in ((augment, "draws", "augmentation"), (augment, "apply", "augmentation"),
                                    (simclr, "nt_xent", "loss")):  # fmt: skip
            setattr(module, name, record_function(label)(getattr(module, name)))
    sampler = sampling.Sampler(run.sampling, images, run.batch, run.seed)
    pace()
    while True:
        indices = sampler.indices(state.step)
        loop.step(run, state, runtime, images, indices, images.images.batch(indices), total=10_000)
        pace()
