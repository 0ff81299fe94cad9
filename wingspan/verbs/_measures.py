"""Which measures are meant: names with commas or spaces between them, 'all', and changes of single settings."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Sequence

from wingspan import spec
from wingspan.errors import UserError, nearest
from wingspan.measures.base import Measure
from wingspan.results import label_of


def help_text() -> str:
    """What can be measured, for the top of a verb's help."""
    lines = ["Measures (--measures NAME,NAME or all; --set NAME.FIELD=VALUE changes one):"]
    lines += [f"  {name:<14}{spec.file_class(Measure, name).title}" for name in spec.files(Measure)]
    presets = ", ".join(name for name in spec.presets(Measure))
    lines += [f"  with other settings: {presets}", "", "Settings of a measure: wingspan measure --measures NAME --help"]
    return "\n".join(lines)


def settings_text(measure: Measure) -> str:
    """A measure's title, how its numbers are read, and every field with its value and when to change it."""
    name = label_of(measure)
    lines = [f"{name}: {measure.title} ({measure.source})", f"  {measure.reading}", ""]
    said: dict[str, str] = {}
    for kind in reversed(type(measure).__mro__):
        if dataclasses.is_dataclass(kind):
            said |= said_of(kind)
    for field in dataclasses.fields(measure):
        lines.append(f"  --set {name}.{field.name}={json.dumps(getattr(measure, field.name))}")
        lines.append(f"      {said.get(field.name, '')}")
    return "\n".join(lines)


def said_of(kind: type) -> dict[str, str]:
    """The docstrings that stand below the fields of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value).replace("\n", " ")
        for field, text in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


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
        found[name] = spec.override(found[name], {field: typed(value)})
    return list(dict.fromkeys(found.values()))


def typed(text: str) -> object:
    """`50` -> 50, `true` -> True, `0.01,0.1` -> [0.01, 0.1], and any other text as it is."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return [typed(part) for part in text.split(",")] if "," in text else text
