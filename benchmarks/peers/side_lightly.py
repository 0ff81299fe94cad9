"""Optional, for compare.py: lightly's SimCLR as its example trains it on CIFAR-10.

After examples/pytorch/simclr.py of github.com/lightly-ai/lightly, on docs.lightly.ai/self-supervised-learning as
examples/simclr.html: SimCLRTransform(input_size=32, gaussian_blur=0.0), batch 256, one forward pass a view, NTXentLoss(), SGD
at 0.06. Changed for all sides alike: the CIFAR stem (its example keeps torchvision's), the projector's widths, images in
memory. `best` adds bf16 autocast, channels_last and a fused optimiser.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from pictures import InMemory, Pixels
from torch import Tensor, nn
from torch.profiler import record_function

PACKAGES = ("lightly", "torch", "torchvision")


class SimCLR(nn.Module):
    def __init__(self, options: Namespace) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, options.hidden, options.out)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


def train(options: Namespace, data: Pixels, pace: Callable[[], None]) -> None:
    layout = torch.channels_last if options.best else torch.contiguous_format
    model = SimCLR(options).to(memory_format=layout)
    dataset = InMemory(data, SimCLRTransform(input_size=32, gaussian_blur=0.0))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=options.batch, shuffle=True, drop_last=True, num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )  # fmt: skip
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06, fused=options.best or None)
    pace()
    while True:
        for (x0, x1), _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=options.best):
                z0, z1 = (model(x.to(memory_format=layout)) for x in (x0, x1))
                with record_function("loss"):
                    loss = criterion(z0, z1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            pace()
