"""Optional, for compare.py: stable-pretraining's SimCLR as its README and benchmarks train it on CIFAR-10.

After benchmarks/cifar10/simclr-resnet18.py of github.com/galilai-group/stable-pretraining: its transforms, its data module, its
`Module` with `forward.simclr`, NTXEntLoss(0.5), LARS and its schedule, in Lightning's Trainer at "16-mixed", which Lightning
turns into bf16 on a CPU. Changed for all sides alike: the projector's widths, images in memory. Left out, in its favour: the
online probes, the logger and the manager. `best` adds channels_last and its batched device transforms (gpu_transforms.py).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import lightning
import stable_pretraining as spt
import torch
from pictures import InMemory, Pixels
from stable_pretraining import forward
from stable_pretraining.data import gpu_transforms as device
from stable_pretraining.data import transforms
from torch import nn
from torch.profiler import record_function

PACKAGES = ("stable-pretraining", "torch", "torchvision", "lightning", "kornia")
COLOUR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "p": 0.8}


def on_images() -> Any:
    """One view of one PIL image, as documented."""
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((32, 32)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(**COLOUR),
        transforms.RandomGrayscale(p=0.2),
        transforms.ToImage(**spt.data.static.CIFAR10),
    )


def on_batches() -> nn.Module:
    """The same operations, both views at once."""
    chain = device.GPUCompose(
        [
            device.GPURandomResizedCrop(32),
            device.GPURandomHorizontalFlip(p=0.5),
            device.GPUColorJitter(**COLOUR),
            device.GPURandomGrayscale(p=0.2),
            device.GPUNormalize(**spt.data.static.CIFAR10),
        ]
    )
    return device.StackedMultiView(chain)


class Labelled(nn.Module):
    def __init__(self, label: str, inner: nn.Module) -> None:
        super().__init__()
        self.label, self.inner = label, inner

    def forward(self, *inputs: Any) -> Any:
        with record_function(self.label):
            return self.inner(*inputs)


class EveryStep(lightning.Callback):
    def __init__(self, pace: Callable[[], None]) -> None:
        self.pace = pace

    def on_train_start(self, *_: Any) -> None:
        self.pace()

    def on_train_batch_end(self, *_: Any) -> None:
        self.pace()


def train(options: Namespace, data: Pixels, pace: Callable[[], None]) -> None:
    dataset = spt.data.FromTorchDataset(
        InMemory(data),
        names=["image", "label"],
        transform=transforms.ToImage() if options.best else transforms.MultiViewTransform([on_images(), on_images()]),
        gpu_transform=Labelled("augmentation", on_batches()) if options.best else None,
    )
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=options.batch, shuffle=True, drop_last=True, num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )  # fmt: skip
    backbone = spt.backbone.from_torchvision("resnet18", low_resolution=True)
    backbone.fc = nn.Identity()
    projector = nn.Sequential(
        nn.Linear(512, options.hidden), nn.BatchNorm1d(options.hidden), nn.ReLU(inplace=True),
        nn.Linear(options.hidden, options.out),
    )  # fmt: skip
    module = spt.Module(
        backbone=backbone,
        projector=projector,
        forward=forward.simclr,
        simclr_loss=Labelled("loss", spt.losses.NTXEntLoss(temperature=0.5)),
        optim={
            "optimizer": {"type": "LARS", "lr": 5, "weight_decay": 1e-6},
            "scheduler": {"type": "LinearWarmupCosineAnnealing"},
            "interval": "epoch",
        },
    )
    if options.best:
        module.to(memory_format=torch.channels_last)
    trainer = lightning.Trainer(
        max_epochs=1000, precision="16-mixed", accelerator="cpu", callbacks=[EveryStep(pace)], num_sanity_val_steps=0,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=spt.data.DataModule(train=loader, val=loader))
