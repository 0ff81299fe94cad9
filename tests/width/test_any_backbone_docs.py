"""docs/any_backbone.md: its Python as it stands; its commands name options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from tiny_runs import command

from wingspan import interop
from wingspan.errors import UserError

DOCS = (Path(__file__).parents[2] / "docs" / "any_backbone.md").read_text()


def test_the_python_runs_as_it_stands() -> None:
    try:
        interop.timm()
    except UserError as error:
        pytest.skip(str(error))
    blocks = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 1
    torch.manual_seed(0)
    exec(blocks[0], {})


def test_every_option_in_a_command_is_one_of_its_verb(capfd: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"^    (wingspan (?:pretrain|describe) .*)$", DOCS.replace("\\\n", ""), re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for line in found]
    assert len(lines) >= 5
    for line in lines:
        words = [word for word in shlex.split(line)[1:] if word != "..." and word[0] != "$"]
        assert command(*words, "--not-an-option") == 2
        told = "".join(capfd.readouterr())
        assert re.search(r"Unrecognized options: --not-an-option\s", told), (line, told)
