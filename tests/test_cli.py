"""The command line as a stranger meets it: help, what is said, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from tiny_runs import WORDS, command, said

from wingspan import cli
from wingspan.data.hub import Hub
from wingspan.recipes import SMALL
from wingspan.verbs import _arguments as arguments


def test_help_lists_every_verb_without_waiting_for_torch():
    check = "import sys; from wingspan.cli import run; status = run(['--help']); sys.exit(status or 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert {"study", "pretrain", "measure", "describe", "show"} <= set(cli.verbs())
    for verb, line in cli.verbs().items():
        assert line and f"  {verb:<10}{line}" in told


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-c", "from wingspan.cli import main; main()", "--help"]
    left = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (left.returncode, left.stderr) == (141, "")


@pytest.mark.parametrize("verb", cli.verbs())
def test_every_verb_has_help(verb, capsys):
    assert command(verb, "--help") == 0
    assert f"wingspan {verb}" in said(capsys)


def test_version(capsys):
    assert command("--version") == 0
    assert said(capsys).startswith("wingspan 0.")


def test_describe_in_json(capsys):
    """The counts of the paper's widest model."""
    assert command("describe", "--backbone", "resnet50", "--width", "32768", "--json") == 0
    told = json.loads(said(capsys))
    assert told["backbone_parameters"] == 106472512 and told["projector_parameters"] == 402702336
    assert told["width"] == 32768 and told["forward_flops"] > 0 and told["activation_bytes"] > 0


def test_describe_in_words(capsys):
    assert command("describe", "--recipe", "small", "--width", "64", "--projector", "32") == 0
    told = said(capsys)
    assert "D = 64" in told and "projector parameters 2,048" in told and "128 / 8 bytes" in told


def test_an_option_of_one_data_set_chooses_it():
    run, left = arguments.choose(["--data.path", "photos", "--epochs", "3"], SMALL)
    assert isinstance(run.data, Hub) and left == ["--data.path", "photos", "--epochs", "3"]
    kept, _ = arguments.choose(["--data.train", "10"], SMALL)
    assert kept.data == SMALL.data


def test_the_last_of_two_widths_counts():
    run, left = arguments.choose(["--width", "8", "--backbone.arch", "small", "--width=24"], SMALL)
    assert run.backbone.D == 24 and left == ["--backbone.arch", "small"]


def test_a_recipe_s_projector_is_not_for_supervised_training():
    assert arguments.choose(["--objective", "supervised"], SMALL)[0].projector_text == ""
    assert arguments.choose(["--objective", "vicreg"], SMALL)[0].projector_text == "512-128"


def test_show_writes_a_picture(tmp_path, capsys):
    file = tmp_path / "views.png"
    words = ("--data.train", "20", "--data.size", "16", "--rows", "2", "--columns", "2", "--zoom", "1", "--out", file)
    assert command("show", "--recipe", "small", *words) == 0
    assert str(file) in said(capsys)
    assert Image.open(file).size == (2 * 3 * 18, 2 * 18)  # an image and two views, each 16 pixels and a gap of 2


def test_from_pretraining_to_numbers(tmp_path, capsys):
    """What a command says to run next is what this test runs next."""
    run = tmp_path / "run"
    assert command("pretrain", *WORDS, "--out", run) == 0
    told = said(capsys)
    assert "D = 16" in told and "Trained 6 steps" in told and f"Wrote {run} " in told
    following = told.partition("Next: wingspan ")[2].split()
    assert following == ["measure", str(run), "--measures", "linear"]
    assert command(*following[:-1], "linear_fast") == 0
    told = said(capsys)
    (file,) = (run / "results").iterdir()
    assert f"Wrote {run}/report.html" in told and "shape" in told
    numbers = {each["task"]: each for each in json.loads(file.read_text())["numbers"]}
    assert numbers["shape"]["metric"] == "accuracy" and 0 <= numbers["shape"]["value"] <= 1
    assert numbers["shape"]["n"] == 32 and f"{numbers['shape']['value']:.2%}" in told


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    assert command("pretrain", *WORDS, "--out", tmp_path / "run") == 0
    before = (tmp_path / "run" / "provenance.json").read_bytes()
    assert command("pretrain", *WORDS, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "provenance.json").read_bytes() == before
