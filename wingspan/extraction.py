"""Features of a data set into a store, a shard at a time: what was finished stays, what a kill cut is made again, alike.

While the network looks at one batch, a thread fetches the pixels of the next and another turns the last one's features into
bytes, hashes them and writes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from wingspan import spec
from wingspan.data.base import Data, ImageSet, Split, placed
from wingspan.errors import UserError
from wingspan.features import forward, not_finite
from wingspan.network import Network
from wingspan.progress import bar, tell
from wingspan.runs import RunFolder, explained, write_atomic
from wingspan.stopping import Interrupted, Stop, stop_on_signals
from wingspan.store import checks, shards
from wingspan.store import manifest as manifests
from wingspan.store.behind import Behind
from wingspan.store.manifest import Format, Manifest, Model, SplitFacts
from wingspan.store.store import Store, open_store

_LARGEST = 65520.0  # rounds to infinity in fp16


@dataclass(frozen=True)
class Wanted:
    """What is to be stored, and how."""

    format: Format
    layer: str = "h"
    threshold: float = 0.0
    batch: int = 512
    splits: Sequence[Split] = ("train", "test")

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"--batch {self.batch} must be at least 1.")
        if self.threshold and self.format != "packed":
            raise UserError(f"--threshold {self.threshold} is for packed codes: {self.format} keeps values, not comparisons.")


def extract_to(
    folder: Path,
    network: Network,
    model: Model,
    data: Data,
    wanted: Wanted,
    *,
    beside: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Store:
    """Write features of a data set's splits into `folder`, or finish what an earlier call began there.

    The bytes are those of one uninterrupted call on the same machine. `beside`: further files of the folder, name -> text.
    `notes` are kept in the manifest. Memory holds a few batches, whatever the number of images.

    Raises UserError when the folder holds something else or features of another model, data or format, when the disk is
    full, or when features are not finite (naming the rows); Interrupted after Ctrl-C or SIGTERM.
    """
    network, data = network.at(data.side), placed(data)
    images = {split: data.load(split) for split in wanted.splits}
    for each in images.values():
        tell(each.notes)
    width = _width(network, images[wanted.splits[0]], wanted.layer)
    manifest = Manifest(
        model, data, width, wanted.format, {split: _facts(each) for split, each in images.items()}, network.augment.size,
        manifests.shard_rows(wanted.format, width), wanted.layer, wanted.threshold, network.runtime.precision, wanted.batch,
        tuple(notes),
    )  # fmt: skip
    manifest = _begun(folder, manifest)
    with RunFolder(folder).lock(), stop_on_signals() as stop:
        if not manifests.present(folder):
            _room(folder, manifest)
            for name, text in (beside or {}).items():
                write_atomic(folder / name, text)
            manifests.write(folder, manifest)
        for split, each in images.items():
            _split(folder, manifest, split, each, network, stop)
    return open_store(folder)


def _begun(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest to work by: the one that is there, when it wants the same."""
    if not folder.exists() or not any(folder.iterdir()):
        return manifest
    if not manifests.present(folder):
        left = {file.name for file in folder.iterdir()} - {"run.json", ".lock"}
        if left and any(not name.startswith(".") for name in left):
            raise UserError(f"{folder} is not empty and holds no store (found {min(left)}): choose another --out.")
        return manifest
    found = manifests.read(folder)

    def settings(value: Manifest) -> dict[str, Any]:
        """What tells one set of features from another: not where the run lies, nor how rows are dealt to shards."""
        told = spec.to_json(value)
        return {**told, "notes": [], "shard_rows": 0, "model": {**told["model"], "run": ""}}

    if (found.model.fingerprint, found.model.step, found.model.weights) != (
        manifest.model.fingerprint, manifest.model.step, manifest.model.weights,
    ):  # fmt: skip
        raise UserError(
            f"{folder} holds features of another model: of {_named(found.model)}, and {_named(manifest.model)} was given. "
            "Choose another --out, or remove the folder."
        )
    if settings(found) != settings(manifest):
        what = "; ".join(spec.differences(settings(found), settings(manifest))[:4])
        raise UserError(
            f"{folder} holds features that were made otherwise ({what}): go on with the settings they were begun with, or "
            "choose another --out."
        )
    return found


def _named(model: Model) -> str:
    return f"{model.name} at step {model.step} (weights {model.weights[:8] or 'unknown'})"


def _room(folder: Path, manifest: Manifest) -> None:
    """Raise UserError when the disk cannot hold what is to come; better now than after hours."""
    need = sum(facts.rows for facts in manifest.splits.values()) * manifest.row_bytes
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder}: {need / 1e9:.2f} GB are needed for {manifest.format} features at D = {manifest.width}, "
            f"{free / 1e9:.2f} GB are free. Choose --format packed (a sixteenth of fp16), fewer images, or another --out."
        )


def _width(network: Network, images: ImageSet, layer: str) -> int:
    network.check_layer(layer)
    views = network.plain(images.images.batch(torch.arange(min(2, len(images)))))
    return int(network.layer(views, layer).shape[1])


def _facts(images: ImageSet) -> SplitFacts:
    return SplitFacts(len(images), images.target, dict(images.classes), tuple(images.quantities))


# ----------------------------------------------------------------------------------------------------------------- a split


def _split(folder: Path, manifest: Manifest, split: str, images: ImageSet, network: Network, stop: Stop) -> None:
    place = folder / split
    with explained(place):
        place.mkdir(exist_ok=True)
        for left in place.glob(".*.part"):  # of a kill
            left.unlink()
    listed = shards.Listed(place)
    _index(place, listed, images)
    todo = []
    for shard in range(manifest.shards(split)):
        wrong = checks.damage(place, manifest, split, shard) if listed.holds(checks.files_of(manifest, shard)) else ""
        if wrong:
            tell([f"{wrong} It is made again."])
        if wrong is not None:
            listed.forget(checks.files_of(manifest, shard))
            todo.append(shard)
    if not todo:
        return
    done = manifest.shards(split) - len(todo)
    if done:
        tell([f"{place}: {done} of {manifest.shards(split)} shards are there; going on with shard {todo[0]}."])
    parts = [
        (shard, rows[at : at + manifest.batch])
        for shard in todo
        for rows in [manifest.rows_of(split, shard)]
        for at in range(0, len(rows), manifest.batch)
    ]
    batches = [torch.arange(rows.start, rows.stop) for _, rows in parts]
    label = f"features of {manifest.data.label_name} {split}"
    shown = bar(label, len(parts), per_unit=min(manifest.batch, len(images)), things="images")
    with shown as progress, Behind(place, manifest, listed) as behind:
        for (shard, rows), made in zip(parts, forward(network, images, batches, manifest.layer != "h"), strict=True):
            values = made[manifest.layer]
            low, high = (float(end) for end in torch.aminmax(values))  # one fast pass, which NaN comes through
            if not -_LARGEST < low <= high < _LARGEST:
                bad = ~(values.abs() < _LARGEST).all(1)
                raise not_finite(network, label, [rows[at] for at in bad.nonzero().flatten().tolist()])
            if low < 0 and manifest.format == "sparse":
                told = (
                    f"--format sparse keeps what lies above 0, and '{manifest.layer}' has values below: choose fp16, or packed."
                )
                raise UserError(told)
            behind.add(shard, _kept(values, manifest), last=rows.stop == manifest.rows_of(split, shard).stop)
            progress.advance()
            if stop.signum is not None:
                told = f"stopped; finished shards are kept in {folder}. To go on: the same command again."
                raise Interrupted(told, stop.signum)


def _kept(values: Tensor, manifest: Manifest) -> Tensor:
    """h (n, D) in fp32 on any device -> on the CPU what a shard's writer takes: fp32 or codes for packed, else fp16."""
    if manifest.format == "packed":
        return values if values.device.type == "cpu" else shards.codes_on_device(values, manifest.threshold).cpu()
    return values.to("cpu", torch.float16)


def _index(place: Path, listed: shards.Listed, images: ImageSet) -> None:
    """What is known of every image, as a Parquet file. Raises UserError when other images were there before."""
    rows = torch.arange(len(images)) if images.rows is None else images.rows
    columns: dict[str, Any] = {"id": pa.array(rows.numpy())}
    if images.names is not None:
        columns["path"] = pa.array(images.names(), pa.string())
    columns |= {f"label {task}": pa.array(values.numpy()) for task, values in images.labels.items()}
    columns |= {f"quantity {name}": pa.array(values.float().numpy()) for name, values in images.quantities.items()}
    table, file = pa.table(columns), place / checks.INDEX
    if listed.holds([checks.INDEX]) and file.exists():
        if not pq.read_table(file).equals(table):
            raise UserError(
                f"{place} was begun with other images (their labels, paths or number differ): the data set has changed since. "
                "Choose another --out."
            )
        return
    made = pa.BufferOutputStream()
    numbers = [name for name in columns if name != "path"]
    pq.write_table(
        table, made, compression="zstd", use_dictionary=[name for name in columns if name.startswith("label ")],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in numbers if name == "id"},
    )  # fmt: skip
    write_atomic(file, made.getvalue().to_pybytes())
    listed.add({checks.INDEX: shards.checksum(file)})
