"""The command line: one call per verb. Imports nothing heavy until a verb is known."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import signal
import sys
from pathlib import Path

from wingspan import processes
from wingspan.errors import AgreedError, UserError, nearest

VERBS = Path(__file__).parent / "verbs"


def verbs() -> dict[str, str]:
    """Verb -> one line, read from the files' docstrings without importing them."""
    names = [found.name for found in pkgutil.iter_modules([str(VERBS)]) if not found.name.startswith("_")]
    return {name: _first_line(VERBS / f"{name}.py") for name in names}


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


_ORDER = (
    "study", "pretrain", "measure", "finetune", "advise", "report", "features", "pack", "search", "draw", "export", "describe",
    "show",
)  # fmt: skip


def contents() -> str:
    """What `wingspan --help` prints."""
    known = verbs()
    ordered = [*(name for name in _ORDER if name in known), *sorted(set(known) - set(_ORDER))]
    lines = ["Wingspan controls how wide a representation is.", "", "usage: wingspan VERB [OPTIONS]", ""]
    lines += [f"  {name:<10}{known[name]}" for name in ordered]
    return "\n".join([*lines, "", "wingspan VERB --help says when to change each value. First steps: wingspan study scenes"])


def main() -> None:
    """Entry point of the `wingspan` command. Exit status: 0 done, 2 something the user can mend, 128 + n after signal n."""
    try:
        try:
            status = run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where a reader that left can be caught, and not at exit
    except BrokenPipeError:  # as after `| head`: no one reads on, so what is left to flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    sys.exit(status)


def run(words: list[str]) -> int:
    """Carry out one command and give its exit status."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    if words[0] in ("-V", "--version"):
        from importlib import metadata

        print(f"wingspan {metadata.version('wingspan')}")
        return 0
    try:
        if words[0] not in verbs():
            raise UserError(f"'{words[0]}' is not a verb.{nearest(words[0], verbs())} See wingspan --help.")
        return _carry_out(words[0], words[1:])
    except AgreedError as error:
        if not processes.place().rank:
            print(f"wingspan: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"wingspan{_which()}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wingspan: interrupted", file=sys.stderr)
        return 130


def _carry_out(verb: str, words: list[str]) -> int:
    from wingspan.stopping import Interrupted

    if processes.place().rank:
        from wingspan import progress

        progress.hush()
    try:
        return int(importlib.import_module(f"wingspan.verbs.{verb}").main(words))
    except Interrupted as stop:
        if not processes.place().rank:
            print(f"wingspan: {stop}", file=sys.stderr)
        return 128 + stop.signum


def _which() -> str:
    here = processes.place()
    return f", process {here.rank} of {here.world}" if here.world > 1 else ""


if __name__ == "__main__":
    main()
