"""From words to a run: which files are chosen, then every field of them as an option."""

from __future__ import annotations

import dataclasses
import typing
from typing import TypeVar

import tyro

from wingspan import augment, spec
from wingspan.backbones.base import check_width
from wingspan.errors import UserError, nearest
from wingspan.pretrain import Pretrain

T = TypeVar("T")


def take(words: list[str], flag: str) -> str | None:
    """Remove every `--flag value` or `--flag=value` and give the last value; None when there is none.

    Raises UserError when the flag stands without a value.
    """
    value = None
    while (at := next((at for at, word in enumerate(words) if word.split("=")[0] == flag), None)) is not None:
        word = words.pop(at)
        if "=" in word:
            value = word.partition("=")[2]
        elif at == len(words) or words[at].startswith("--"):
            raise UserError(f"{flag} needs a value{f', {words[at]!r} follows' if at < len(words) else ''}.")
        else:
            value = words.pop(at)
    return value


def take_list(words: list[str], flag: str) -> list[str] | None:
    """Remove every `--flag a b ...` (up to the next option) or `--flag=a` and give all values; None when there is none.

    Raises UserError when the flag stands without a value.
    """
    found: list[str] | None = None
    while (at := next((at for at, word in enumerate(words) if word.split("=")[0] == flag), None)) is not None:
        word = words.pop(at)
        values = [word.partition("=")[2]] if "=" in word else []
        while "=" not in word and at < len(words) and not words[at].startswith("--"):
            values.append(words.pop(at))
        if not values:
            raise UserError(f"{flag} needs a value.")
        found = [*(found or []), *values]
    return found


def choose(words: list[str], run: Pretrain) -> tuple[Pretrain, list[str]]:
    """Apply what selects a file (`--objective vicreg`, `--backbone resnet18`, `--data hub`, `--augment small`) and `--width`.

    Gives the run and the words that are left. `--data.path x` selects the one data set that has a `path`, and so on.
    Raises UserError for a name that is no file or preset.
    """
    words = list(words)
    changes: dict[str, object] = {}
    for field, base in _choices().items():
        name = take(words, f"--{field}") or _implied(words, field, base, run)
        if name is not None:
            changes[field] = name
    changes |= _other_source(words, run) if "data" not in changes else {}
    preset = take(words, "--augment")
    if preset is not None:
        if preset not in augment.PRESETS:
            raise UserError(f"'{preset}' is no set of augmentations.{nearest(preset, augment.PRESETS)}")
        changes["augment"] = augment.PRESETS[preset]
    width = take(words, "--width") or take(words, "--backbone.width")
    if width is not None:
        changes["backbone.width"] = _integer(width)
    if changes.get("objective") not in (None, spec.kind_of(run.objective)) and "projector" not in changes:
        changes |= _projector_of(str(changes["objective"]), run)
    return spec.override(run, changes), words


def _projector_of(objective: str, run: Pretrain) -> dict[str, object]:
    """A recipe's projector is meant for objectives that compare views; one that has none by default gets none."""
    base = _choices()["objective"]
    return {"projector": None} if run.projector is not None and spec.named(base, objective).projector == "" else {}


def _other_source(words: list[str], run: Pretrain) -> dict[str, object]:
    """A path takes the place of a study's own hub id, and the other way round; both from the user stay an error."""
    given = {flag for flag in ("name", "path") if any(word.split("=")[0] == f"--data.{flag}" for word in words)}
    other = {"name": "path", "path": "name"}
    return {f"data.{other[flag]}": "" for flag in given if len(given) == 1 and hasattr(run.data, other[flag])}


def _choices() -> dict[str, type]:
    hints = typing.get_type_hints(Pretrain)
    return {name: hint for name, hint in hints.items() if spec.is_choice(hint)}


def _implied(words: list[str], field: str, base: type, run: Pretrain) -> str | None:
    """The one file whose options were used, when the present choice does not have them."""
    prefix = f"--{field}."
    used = {word[len(prefix) :].split("=")[0].replace("-", "_") for word in words if word.startswith(prefix)}

    def has(kind: type) -> bool:
        return used <= {each.name for each in dataclasses.fields(kind)}

    if not used or has(type(getattr(run, field))):
        return None
    able = [name for name in spec.files(base) if has(spec.file_class(base, name))]
    owners = {option: _owners(option, base) for option in sorted(used)}
    if not able and all(owners.values()):
        told = "; ".join(f"{prefix}{option.replace('_', '-')} is of {', '.join(names)}" for option, names in owners.items())
        raise UserError(f"no one --{field} has all these options ({told}): choose one.")
    return able[0] if len(able) == 1 else None


def _owners(option: str, base: type) -> list[str]:
    files = spec.files(base)
    return [name for name in files if option in {each.name for each in dataclasses.fields(spec.file_class(base, name))}]


def _integer(text: str) -> int:
    try:
        width = int(text)
    except ValueError:
        width = text  # type: ignore[assignment]
    check_width(width)
    return width


def parse(kind: type[T], default: T, words: list[str], verb: str, description: str = "") -> T:
    """Read options into a dataclass; a misspelt one ends the program with status 2 and the nearest named."""
    lines = [f"  {line}" if line.startswith("wingspan ") else line for line in description.splitlines()]
    return tyro.cli(
        kind,
        default=default,
        args=words,
        prog=f"wingspan {verb}",
        description="\n".join(lines),  # tyro flows lines together unless they are indented
        config=(tyro.conf.AvoidSubcommands,),
    )


def selection_help() -> str:
    """What can be chosen by name, for the top of a verb's help."""
    lines = ["Choose by name (each brings its own options below):"]
    for field, base in _choices().items():
        names = [*spec.files(base), *(name for name in spec.presets(base) if name not in spec.files(base))]
        lines.append(f"  --{field} {{{','.join(names)}}}")
    lines.append(f"  --augment {{{','.join(augment.PRESETS)}}}")
    lines.append("  --width D   short for --backbone.width, the width of the representation")
    return "\n".join(lines)
