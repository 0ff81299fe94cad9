"""Which measures are meant: names with commas or spaces between them, 'all', and changes of single settings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from wingspan import spec
from wingspan.errors import UserError, nearest
from wingspan.measures.base import Measure


def help_text() -> str:
    """What can be measured, for the top of a verb's help."""
    lines = ["Measures (--measures NAME,NAME or all; --set NAME.FIELD=VALUE changes one):"]
    lines += [f"  {name:<14}{spec.file_class(Measure, name).title}" for name in spec.files(Measure)]
    presets = ", ".join(name for name in spec.presets(Measure))
    lines += [f"  with other settings: {presets}", "Image sets: --data own | scenes | FOLDER | FILE | HUB-ID ..."]
    return "\n".join(lines)


def measures(words: Sequence[str], changes: Sequence[str]) -> list[Measure]:
    """What is to be measured. 'all' is every file, in its setting for small budgets where it has one.

    Raises UserError for a name that is no measure, a change to one not named, a value of a wrong type.
    """
    names = [name for word in words for name in word.split(",") if name]
    fast = spec.presets(Measure)
    every = [f"{name}_fast" if f"{name}_fast" in fast else name for name in spec.files(Measure)]
    wanted = dict.fromkeys(each for name in names for each in (every if name == "all" else [name]))
    found = {name: spec.named(Measure, name) for name in wanted}
    for text in changes:
        path, equals, value = text.partition("=")
        name, dot, field = path.partition(".")
        if not (equals and dot):
            raise UserError(f"--set '{text}' cannot be read: write NAME.FIELD=VALUE, for instance linear.epochs=50.")
        if name not in found:
            raise UserError(f"--set '{text}': '{name}' is not among the measures asked for.{nearest(name, found)}")
        found[name] = spec.override(found[name], {field: _typed(value)})
    return list(dict.fromkeys(found.values()))


def _typed(text: str) -> object:
    """`50` -> 50, `true` -> True, `0.01,0.1` -> [0.01, 0.1], and any other text as it is."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return [_typed(part) for part in text.split(",")] if "," in text else text
