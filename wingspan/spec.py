"""A run is a typed value: frozen dataclasses to JSON and back, strictly; overrides by dotted path; a fingerprint.

A field whose type is the abstract class of a folder's `base.py` is a choice: the file's name is the name. `{"kind": "vicreg"}`
is `objectives/vicreg.py`. A file may also offer `PRESETS`, named values of its class (`resnet50` in `backbones/resnet.py`).

The fingerprint is a hash of what differs from the defaults, so a new field with a default renames no finished run. The price
is an iron rule: **a default never changes**.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from wingspan.errors import UserError, nearest

T = TypeVar("T")


def is_choice(kind: object) -> bool:
    """Whether a field of this type is chosen by a file's name: the abstract class of a folder's `base.py`."""
    return inspect.isabstract(kind) and dataclasses.is_dataclass(kind) and kind.__module__.rsplit(".", 1)[-1] == "base"


def files(base: type) -> list[str]:
    """The names of a choice: the files beside its `base.py` that do not start with an underscore."""
    package = importlib.import_module(base.__module__.rsplit(".", 1)[0])
    names = (found.name for found in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def file_class(base: type[T], name: str) -> type[T]:
    """The class that the file `name` defines for this choice. Raises UserError for a name that is no file."""
    if name not in files(base):
        folder = base.__module__.split(".")[-2]
        raise UserError(f"'{name}' is not one of {folder}.{nearest(name, files(base))}")
    module = importlib.import_module(f"{base.__module__.rsplit('.', 1)[0]}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}; it defines {len(found)}")
    return found[0]


def presets(base: type[T]) -> Mapping[str, T]:
    """Named values that the files of a choice offer beside their defaults."""
    found: dict[str, T] = {}
    for name in files(base):
        found.update(getattr(importlib.import_module(file_class(base, name).__module__), "PRESETS", {}))
    return found


def named(base: type[T], name: str) -> T:
    """The value a name stands for: a preset, or a file's class with its defaults.

    Raises UserError naming the nearest known name.
    """
    if name in files(base):
        return file_class(base, name)()
    if name in presets(base):
        return presets(base)[name]
    folder = base.__module__.split(".")[-2]
    raise UserError(f"'{name}' is not one of {folder}.{nearest(name, [*files(base), *presets(base)])}")


def kind_of(value: object) -> str:
    """The name of the file that defines a value's class."""
    return type(value).__module__.rsplit(".", 1)[-1]


# ---------------------------------------------------------------------------------------------------------------- to JSON


def to_json(value: Any, *, sparse: bool = False) -> Any:
    """A dataclass as plain JSON values; with `sparse` only the fields that differ from their class's defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {"kind": kind_of(value)} if any(is_choice(base) for base in type(value).__mro__) else {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if not (sparse and item == _default(field)):
                out[field.name] = to_json(item, sparse=sparse)
        return out
    if isinstance(value, list | tuple):
        return [to_json(item, sparse=sparse) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item, sparse=sparse) for key, item in value.items()}
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def fingerprint(value: Any) -> str:
    """Ten hexadecimal digits that name a value: equal for equal values, unchanged by new fields left at their default."""
    text = json.dumps(_canonical(to_json(value, sparse=True)), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _canonical(value: Any) -> Any:
    """Equal numbers written alike: 1 and 1.0 are the same setting."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# -------------------------------------------------------------------------------------------------------------- from JSON


def _strict(value: object, kind: type) -> Any:
    # bool is an int to Python, but `width: true` is a mistake; 1 for 1.0 is not one.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, {value!r} found")
    return value


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, _strict)

    def choice(value: object, base: type) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise TypeError(f"an object with 'kind' expected, {value!r} found")
        rest = {key: item for key, item in value.items() if key != "kind"}
        return _object(file_class(base, value["kind"]))(rest, None)

    def _object(kind: type) -> Any:
        return make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    converter.register_structure_hook_func(is_choice, choice)
    return converter


def from_json(kind: type[T], value: object, where: str = "") -> T:
    """Read a value written by `to_json`; absent fields take their defaults.

    Raises UserError for an unknown key (naming the nearest), a wrong type, an unknown kind.
    """
    try:
        return _converter().structure(value, kind)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where or kind.__name__}: {_explain(error)}") from error


def _explain(error: BaseException) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        return "; ".join(f"unknown key '{key}'.{nearest(key, known)}" for key in sorted(error.extra_fields))
    if isinstance(error, BaseExceptionGroup):
        notes = [_explain(inner) for inner in error.exceptions]
        return "; ".join(dict.fromkeys(notes))
    notes = [str(getattr(note, "name", note)) for note in getattr(error, "__notes__", [])]
    where = ".".join(note for note in notes if note.isidentifier())
    return f"{where}: {error}" if where else str(error)


# -------------------------------------------------------------------------------------------------------------- overrides


def override(value: T, changes: Mapping[str, object]) -> T:
    """A copy with dotted paths replaced: `{"objective": "vicreg", "backbone.width": 64}`. Shallow paths go first.

    For a choice, a name or a value of its class is accepted. Raises UserError for a path that does not exist, naming the
    nearest, and for a value of a wrong type.
    """
    for path in sorted(changes, key=lambda path: path.count(".")):
        value = _replace(value, path.split("."), changes[path], path)
    return value


def _replace(value: T, path: list[str], new: object, whole: str) -> T:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise UserError(f"'{whole}' does not exist: nothing lies below '{whole.rsplit('.', len(path))[0]}'.")
    hints = typing.get_type_hints(type(value))
    name = path[0]
    if name not in {field.name for field in dataclasses.fields(value)}:
        raise UserError(f"'{whole}' does not exist: no '{name}' there.{nearest(name, hints)}")
    if len(path) > 1:
        item = _replace(getattr(value, name), path[1:], new, whole)
    elif is_choice(hints[name]) and isinstance(new, str):
        item = named(hints[name], new)
    elif dataclasses.is_dataclass(new):
        item = cast(Any, new)
    else:
        item = from_json(hints[name], to_json(new), whole)
    return cast(T, dataclasses.replace(cast(Any, value), **{name: item}))


def differences(old: object, new: object) -> list[str]:
    """`path: old -> new` for every leaf in which two values differ."""
    return _leaves(to_json(old), to_json(new), "")


def _leaves(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in _leaves(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
