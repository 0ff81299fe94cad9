"""docs/export.md: every snippet as it stands, in a fresh process without Wingspan."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from export_trials import h_of, in_fresh_process, needed, off
from PIL import Image
from tiny_runs import command, tiny

from wingspan import augment
from wingspan.backbones.resnet import ResNet
from wingspan.export.base import formats
from wingspan.loop import pretrain
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder

DOCS = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
PICTURE, *BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
PLACES = [re.match(r"# in RUN/export/(\S+?)(,.*)?\n", block)[1] for block in BLOCKS]


@pytest.fixture(scope="module")
def standard(tmp_path_factory) -> RunFolder:
    run = tiny(backbone=ResNet("resnet18"), backbone__width=None, data__size=32, epochs=1)
    return pretrain(run, tmp_path_factory.mktemp("standard") / "run", Sitting(online=False))


def test_the_document_knows_every_form():
    assert re.findall(r"^    wingspan export RUN --to (\S+)$", DOCS, re.MULTILINE) == [
        "timm", "onnx", "torch.export", "safetensors", "hub-folder",
    ]  # fmt: skip
    assert set(PLACES) == set(formats()) - {"hub-folder"} and len(PLACES) == 5


@pytest.mark.parametrize(("block", "to"), [*zip(BLOCKS, PLACES, strict=True)], ids=lambda value: value.split("\n")[0][:60])
def test_a_snippet_gives_h(block, to, standard, tmp_path):
    needed(to)
    assert command("export", standard.path, "--to", to, "--out", tmp_path / "out") == 0
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(tmp_path / "out" / "picture.png")
    if to == "safetensors":
        assert "'layer4.1.conv2.weight': (512, 512, 3, 3)" in in_fresh_process(block, tmp_path / "out")
        return
    last = "np.save('h.npy', h.detach().numpy() if hasattr(h, 'detach') else h)"
    in_fresh_process(f"{PICTURE}\n{block}\n{last}", tmp_path / "out")
    wanted = h_of(standard, augment.plain(tiny(data__size=32).views, pixels))
    assert off(np.load(tmp_path / "out" / "h.npy"), wanted) < 1e-4
