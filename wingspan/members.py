"""Which runs and stores words name, and what each is called among the others: before anything large is loaded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wingspan import projector, spec
from wingspan.data.base import Data, changed, placed
from wingspan.errors import UserError, nearest
from wingspan.network import model_of
from wingspan.pretrain import Pretrain, load_run
from wingspan.progress import tell
from wingspan.results import is_store
from wingspan.runs import RunFolder
from wingspan.store.manifest import Model
from wingspan.store.store import Store, open_store

_ELSEWHERE = ("cache", "workers", "cache_gb")  # fields of image sets that change no image


@dataclass(frozen=True)
class Member:
    """A run's folder, or a store's, before anything large is loaded.

    run: the settings it was trained with, None where a store knows none. data: whose images it is asked about. D: width of the
    layer. group, name: what figures call it among the members of its data set.
    """

    path: Path
    run: Pretrain | None
    model: Model
    data: Data
    layer: str
    D: int
    store: Store | None = None
    group: str = ""
    name: str = ""

    @property
    def packed(self) -> bool:
        return self.store is not None and self.store.manifest.format == "packed"

    @property
    def seed(self) -> int:
        return self.run.seed if self.run else 0

    @property
    def images(self) -> str:
        """Equal for equal images, wherever they are cached and however their folder was written."""
        return spec.fingerprint({"data": plain(self.data)})

    @property
    def identity(self) -> str:
        """Equal where features are."""
        bits = [self.store.manifest.threshold] if self.store and self.packed else []
        return hashed(self.model.fingerprint, self.model.step, self.model.weights, self.layer, self.images, *bits)


def members(words: Sequence[str], *, layer: str = "h", data: Data | None = None) -> list[Member]:
    """The runs and stores that words name, told apart by name; nothing large is loaded. Raises UserError as `gather` does."""
    found: dict[str, Member] = {}
    for word in words:
        member = _member(Path(word), layer, data)
        if member.identity in found:
            tell([f"{word} holds the same features as {found[member.identity].path}, and is left out."])
        found.setdefault(member.identity, member)
    if not found:
        raise UserError("which runs? Give the folders that wingspan pretrain wrote, or stores that wingspan features wrote.")
    if data is not None:
        one_side(list(found.values()))
    grouped: dict[str, list[Member]] = {}
    for member in found.values():
        grouped.setdefault(member.images, []).append(member)
    return [member for group in grouped.values() for member in _named(group)]


def one_side(found: Sequence[Member]) -> int:
    """The side in pixels that all were trained at. Raises UserError where they differ: one set of images cannot suit all."""
    sides = {member.run.data.side if member.run else member.data.side: member.path for member in found}
    if len(sides) > 1:
        told = ", ".join(f"{path} at {side} pixels" for side, path in sides.items())
        raise UserError(f"runs of different sides cannot be shown the same images ({told}): draw them one after the other.")
    return next(iter(sides))


def _member(path: Path, layer: str, data: Data | None) -> Member:
    folder = RunFolder(path)
    if is_store(folder):
        return _stored(open_store(path), layer, data)
    if not folder.started():
        told = "does not exist" if not path.exists() else "holds neither a run nor a store of features"
        raise UserError(f"'{path}' {told}: give a folder that wingspan pretrain or wingspan features wrote.")
    run = load_run(folder)
    if not folder.checkpoints():
        raise UserError(f"{path} holds no checkpoint yet: wingspan pretrain --resume {path}")
    widths = {"h": run.backbone.D}
    widths |= {f"projector {at + 1}": width for at, width in enumerate(projector.widths(run.projector_text))}
    if layer not in widths:
        raise UserError(f"--layer '{layer}': {path} has no such layer.{nearest(layer, widths)}")
    return Member(path, run, model_of(folder, run), data or run.data, layer, widths[layer])


def _stored(store: Store, layer: str, data: Data | None) -> Member:
    about, folder = store.manifest, RunFolder(store.path)
    if about.layer != layer:
        raise UserError(
            f"--layer '{layer}': {store.path} holds features of layer '{about.layer}': give --layer '{about.layer}'."
        )
    run = load_run(folder) if folder.started() else None
    member = Member(store.path, run, about.model, about.data, layer, about.width, store)
    if data is not None and replace(member, data=data).images != member.images:
        raise UserError(
            f"{store.path} is a store of features of '{about.data.label_name}', and --data names '{data.label_name}': leave "
            f"out --data, or give the run itself ({about.model.run or 'which the store does not know'})."
        )
    return member


def _named(group: Sequence[Member]) -> list[Member]:
    """Members of one data set with names of their own: objective and D, then seed, settings, fingerprint, step, weights."""
    made: list[Member] = []
    bases: dict[str, list[Member]] = {}
    for member in group:
        base = spec.kind_of(member.run.objective) if member.run else member.model.name
        base += (", packed" if member.packed else "") + (f", {member.layer}" if member.layer != "h" else "")
        bases.setdefault(base, []).append(replace(member, group=base))
    for same in bases.values():
        made += _told_apart(same)
    seeds: dict[tuple[str, int], set[int]] = {}
    for member in made:
        seeds.setdefault((member.group, member.D), set()).add(member.seed)
    named = [replace(m, name=f"{m.group} D={m.D}" + (f" seed={m.seed}" if len(seeds[m.group, m.D]) > 1 else "")) for m in made]
    order = list(dict.fromkeys(member.group for member in named))
    return sorted(named, key=lambda member: (order.index(member.group), member.D, member.seed))


def _told_apart(same: Sequence[Member]) -> list[Member]:
    """Members of one objective: where two share D and seed, what of the settings differs becomes part of their group."""
    settings = _differing([member.run for member in same])
    ways: list[Callable[[Member], str]] = [
        lambda member: member.model.fingerprint,
        lambda member: f"step {member.model.step}",
        lambda member: member.model.weights[:6],
    ]
    found = list(same)
    if _clashes(found):
        found = [replace(m, group=", ".join([m.group, *told])) for m, told in zip(found, settings, strict=True)]
    for way in ways:
        values = {place: {way(m) for m in found if _place(m) == place} for place in _clashes(found)}
        found = [replace(m, group=f"{m.group}, {way(m)}") if len(values.get(_place(m), ())) > 1 else m for m in found]
    return found


def _place(member: Member) -> tuple[str, int, int]:
    return member.group, member.D, member.seed


def _clashes(found: Sequence[Member]) -> set[tuple[str, int, int]]:
    return {place for place, count in Counter(map(_place, found)).items() if count > 1}


def _differing(runs: Sequence[Pretrain | None]) -> list[list[str]]:
    """For every run the settings, D and seed apart, in which the runs are not all alike: "projector=32-16"."""
    leaves = [dict(_leaves(spec.to_json(replace(run, data=plain(run.data))))) if run else {} for run in runs]
    if len({run.data.label_name for run in runs if run}) > 1:  # then its name says enough of it
        leaves = [
            {**{name: value for name, value in each.items() if not name.startswith("data.")}, "data": run.data.label_name}
            for run, each in zip(runs, leaves, strict=True)
            if run
        ]
    names = dict.fromkeys(name for each in leaves for name in each if name not in ("backbone.width", "seed"))
    told = [name for name in names if len({str(each.get(name)) for each in leaves}) > 1]
    return [[f"{name}={each[name]}" for name in told if name in each] for each in leaves]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        yield from _leaves(item, f"{prefix}{name}.") if isinstance(item, Mapping) else [(f"{prefix}{name}", item)]


def plain(data: Data) -> Data:
    """The same images, whatever folder the command was given in and wherever they are cached."""
    return changed(placed(data), lambda field, value: field.default if field.name in _ELSEWHERE else value)


def hashed(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
