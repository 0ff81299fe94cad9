"""Runs and stores as encoders that are drawn together: a company a data set, its images, and references to hold them against.

Decoders of one company share a trunk, so their numbers can be compared; those of another company cannot be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wingspan import features, projector
from wingspan.chance import generator, key
from wingspan.data.base import Data, ImageSet, Split
from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.members import Member, hashed, members
from wingspan.network import Network, load_network
from wingspan.pictures import network_of
from wingspan.progress import tell
from wingspan.rcdm.encoders import Encoder, Subject
from wingspan.results import load_precision
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime
from wingspan.store import manifest as manifests
from wingspan.store.shards import codes
from wingspan.store.store import Store, open_store
from wingspan.subjects import check_side, limited, pictures, subject

__all__ = ["Company", "gather", "pictures"]

_AT_ONCE = 256
_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Company:
    """Encoders of one data set's images. notes: what a reader must know, such as where features came from."""

    subject: Subject
    encoders: tuple[Encoder, ...]
    notes: tuple[str, ...]
    data: Data


def gather(
    words: Sequence[str],
    *,
    side: int,
    layer: str = "h",
    data: Data | None = None,
    references: bool = True,
    device: str = "auto",
    limit_train: int = 0,
    seed: int = 0,
    stores: Sequence[Path | str] = (),
) -> list[Company]:
    """What folders of runs and stores hold, as companies of encoders: one for every data set that runs were trained on.

    side: pixels a side that will be drawn. layer: whose features. data: all on this one set. references: the untrained network
    of the widest run, and h that says nothing. limit_train: use only so many training images, drawn by chance from `seed`.
    stores: folders of stores that may hold a run's features already; RUN/features is looked at too. A store among the words is
    an encoder of its own; where its run is gone it has no `encode`, and a note says so. A packed store's `encode` gives codes.

    Raises UserError for a folder that holds neither, a run without a checkpoint, a layer that is not there, images smaller than
    `side`, and a store of other images than `data`.
    """
    if limit_train < 0:
        raise UserError(f"{limit_train} training images: give at least 1, or 0 for all.")
    grouped: dict[str, list[Member]] = {}
    for member in members(words, layer=layer, data=data):
        check_side(member.data, side)
        grouped.setdefault(member.images, []).append(member)
    loaded = {images: [(member, *_network(member, device)) for member in group] for images, group in grouped.items()}
    labels = Counter(group[0].data.label_name for group in grouped.values())
    made = []
    for images, group in loaded.items():
        data = group[0][0].data
        name = data.label_name if labels[data.label_name] == 1 else f"{data.label_name}-{images}"
        held = _images(data, [member.store for member, _, _ in group if member.store], limit_train, seed)
        pixels = subject(name, data, held.splits, side)
        notes = [note for _, _, note in group if note]
        if held.rows is not None:
            notes.append(f"Of the training images of {name} {limit_train:,} are used, drawn by chance.")
        encoders = []
        for member, network, _ in group:
            encoder, told = _encoder(member, network, held, stores)
            encoders.append(encoder)
            notes += [told] if told else []
        if references:
            beside, told = _references([member for member, _, _ in group], held, device)
            encoders += beside
            notes += [told] if told else []
        made.append(Company(pixels, tuple(encoders), tuple(notes), data))
    return made


# ------------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Images:
    """Both splits of a data set; `rows` of the training split where it was limited to them; `sizes` before that."""

    splits: Mapping[str, ImageSet]
    rows: Tensor | None
    sizes: Mapping[str, int]


def _images(data: Data, stores: Sequence[Store], limit: int, seed: int) -> _Images:
    """Load both splits. Raises UserError when a store holds features of more or fewer images."""
    splits: dict[str, ImageSet] = {split: data.load(split) for split in _SPLITS}
    for split, images in splits.items():
        tell(images.notes)
        for store in stores:
            if len(store.part(split)) != len(images):
                store.images(split)  # says so
    sizes = {split: len(images) for split, images in splits.items()}
    if not 0 < limit < sizes["train"]:
        return _Images(splits, None, sizes)
    rows = torch.randperm(sizes["train"], generator=generator(seed, "limited"))[:limit].sort().values
    return _Images({**splits, "train": limited(splits["train"], rows)}, rows, sizes)


# ----------------------------------------------------------------------------------------------------------------- encoders


def _network(member: Member, device: str) -> tuple[Network | None, str]:
    """A member's network, or None and why there is none."""
    if member.store is None:
        folder = RunFolder(member.path)
        return load_network(folder, Runtime(device, load_precision(folder)))[1], ""
    try:
        return network_of(member.store, device=device), ""
    except UserError as error:
        told = "Pictures from outside cannot be drawn by it, and its samples are not ranked."
        return None, f"{member.name} is drawn without its network: {error} {told}"


def _encoder(member: Member, network: Network | None, images: _Images, stores: Sequence[Path | str]) -> tuple[Encoder, str]:
    """A member as an encoder, and where its features came from if that needs to be told."""
    store, told = (member.store, "") if member.store else _beside(member, images.sizes, stores)
    if store is not None:
        train, test, width = _kept(store, images.rows)
    else:
        assert network is not None
        train, test, width = *_extracted(network, member, images.splits, member.name), 0
    inputs = Inputs(train, width=width).standardised()
    encode = None if network is None else _encoding(network, member.data.side, member.layer, member.store)
    identity = _limited(member.identity, images.rows)
    run = member.model.name
    return Encoder(member.name, member.group, identity, inputs, inputs.like(test), encode, member.seed, run), told


def _limited(identity: str, rows: Tensor | None) -> str:
    """The features of some images only are others."""
    return identity if rows is None else hashed(identity, rows.tolist())


def _kept(store: Store, rows: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """A store's features of the training and the test images; D where they are packed bits, else 0."""
    bank = features.stored_bank(store)
    return bank.train.h if rows is None else bank.train.h[rows], bank.test.h, bank.train.width


def _beside(member: Member, sizes: Mapping[str, int], stores: Sequence[Path | str]) -> tuple[Store | None, str]:
    """A store that holds a run's features as they are: of the same weights, layer and images; and a note on it."""
    for path in (member.path / "features", *map(Path, stores)):
        if not manifests.present(path):
            continue
        about = manifests.read(path)
        model = (about.model.fingerprint, about.model.step, about.model.weights)
        same = model == (member.model.fingerprint, member.model.step, member.model.weights) and about.layer == member.layer
        whole = about.format != "packed" and sizes == {split: facts.rows for split, facts in about.splits.items()}
        if not (same and whole and replace(member, data=about.data).images == member.images):
            continue
        try:
            return open_store(path), f"Features of {member.name} are those that {path} holds."
        except UserError as error:  # not finished, or damaged
            return None, f"{path} is not used for {member.name}: {error}"
    return None, ""


def _extracted(network: Network, member: Member, splits: Mapping[str, ImageSet], name: str) -> tuple[Tensor, Tensor]:
    """The member's layer of the training and the test images, (N, D) and (M, D) in fp16."""
    looking, layer, data = network.at(member.data.side), member.layer, member.data
    train, test = (
        features.extract(looking, splits[split], layers=layer != "h", label=f"{name}, {data.label_name} {split}")[layer]
        for split in _SPLITS
    )
    return train, test


def _encoding(network: Network, side: int, layer: str, store: Store | None) -> Callable[[Tensor], Tensor]:
    """uint8 images -> what `Encoder.read` takes: h in fp32, or where a store keeps bits, codes."""
    looking = network.at(store.manifest.side if store else side)

    def encode(pixels: Tensor) -> Tensor:
        h = torch.cat([looking.layer(looking.plain(part), layer).cpu() for part in pixels.split(_AT_ONCE)])
        return codes(h, store.manifest.threshold) if store and store.manifest.format == "packed" else h

    return encode


# --------------------------------------------------------------------------------------------------------------- references


def _references(group: Sequence[Member], images: _Images, device: str) -> tuple[list[Encoder], str]:
    """The widest run's network before training, and h = 0 for every image; and why the first is left out, if it is."""
    encoders, told = [], ""
    try:
        encoders.append(_untrained(group, images, device))
    except UserError as error:
        told = f"The reference of an untrained network is left out: {error}"
    none = Inputs(torch.zeros(len(images.splits["train"]), 1, dtype=torch.float16)).standardised()
    test = none.like(torch.zeros(len(images.splits["test"]), 1, dtype=torch.float16))
    name = "no information"
    identity = _limited(hashed(name, group[0].images), images.rows)
    encoders.append(Encoder(name, name, identity, none, test, lambda pixels: torch.zeros(len(pixels), 1), reference=True))
    return encoders, told


def _untrained(group: Sequence[Member], images: _Images, device: str) -> Encoder:
    """With the very weights that the widest run began with: `Learner` draws the backbone's first."""
    runs = [member for member in group if member.run is not None]
    if not runs:
        raise UserError("no store says by which settings its network was built.")
    member = max(runs, key=lambda member: member.D)
    run = member.run
    assert run is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(run.seed, "init"))
        backbone, head = run.backbone.build(), projector.build(run.projector_text, run.backbone.D)
    network = Network(backbone, run.augment, Runtime(device, run.precision), head, "the untrained network")
    train, test = _extracted(network, member, images.splits, "untrained")
    inputs = Inputs(train).standardised()
    identity = _limited(hashed("untrained", member.model.fingerprint, member.layer, member.images), images.rows)
    encode = _encoding(network, member.data.side, member.layer, None)
    return Encoder(
        "untrained", "untrained", identity, inputs, inputs.like(test), encode, run.seed, member.model.name, reference=True
    )
