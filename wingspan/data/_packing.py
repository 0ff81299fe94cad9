"""Writing a packed set: decoded in order by threads, appended, and listed with a checksum once it has reached the disk.

A kill loses what was decoded since the last such moment, no more: the next sitting cuts the file there and goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout

from wingspan import spec
from wingspan.data._decode import VERSION, Pixels
from wingspan.data._encoded import Bad, Encoded, ordered
from wingspan.data._pages import BEGUN, WHOLE, Chunk, Manifest, Packing, Part, read_chunks, read_manifest, same
from wingspan.data.base import Data, ImageSet, Split, placed
from wingspan.errors import UserError
from wingspan.progress import bar
from wingspan.runs import explained, flush, write_atomic, write_json, write_whole
from wingspan.stopping import Interrupted, Stop, stop_on_signals

OnBad = Literal["error", "skip"]
CHUNK = 2**23  # bytes of pixels that one thread decodes at a time
SAVE = 2**27  # bytes of pixels that a kill may cost
PASSING = ("cache", "cache_gb", "workers", "on_bad")  # fields that change how images are read and not what they are


def pack(data: Data, out: Path, side: int, splits: tuple[Split, ...], on_bad: OnBad = "error") -> Manifest:
    """Decode the images of `data` into the folder `out`, (3, side, side) uint8 each, going on where it was cut.

    Nothing is done where all is there. Raises UserError for whatever the user can mend: a picture that cannot be decoded (with
    on_bad "skip" it is left out, and a note says so), too little room, told before anything is written, another set in `out`.
    Raises Interrupted after a signal, what was decoded being saved.
    """
    about = _about(data, side, splits)
    if out.is_dir() and (out / WHOLE).is_file():
        _check(read_manifest(out).packing, about, out)
        return read_manifest(out)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(out / ".lock").acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process packs into '{out}': wait for it, or choose another --out.") from None
    with held:
        _check_free(about, out)
        works = [_Work.begin(out, split, _opened(data, side, split), side) for split in splits]
        _check_room(works, data, out)
        write_json(
            out / BEGUN, spec.to_json(about)
        )  # only now: what could not even begin keeps no folder from a mended command
        with stop_on_signals() as stop:
            parts: dict[str, Part] = {work.split: work.carry_out(on_bad, stop) for work in works}
        manifest = Manifest(about, parts)
        write_json(out / WHOLE, spec.to_json(manifest))
        (out / BEGUN).unlink()
    return manifest


def _about(data: Data, side: int, splits: tuple[Split, ...]) -> Packing:
    if side < 1:
        raise UserError(f"--size {side} pixels: give at least 1.")
    source = {name: value for name, value in spec.to_json(placed(data)).items() if name not in PASSING}
    return Packing(side, getattr(data, "fit", "crop"), data.label_name, source, VERSION, splits)


def _check(held: Packing, wanted: Packing, out: Path) -> None:
    if changed := spec.differences(held, wanted):
        raise UserError(f"'{out}' holds a set packed otherwise ({'; '.join(changed)}): choose another --out.")


def _check_free(about: Packing, out: Path) -> None:
    """Check that the folder is empty or this command's own."""
    if (out / BEGUN).is_file():
        try:
            begun = spec.from_json(Packing, json.loads((out / BEGUN).read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"'{out / BEGUN}' is damaged ({error}): remove '{out}' and pack again.") from error
        _check(begun, about, out)
    elif found := sorted(each.name for each in out.iterdir() if not each.name.startswith(".")):
        raise UserError(f"'{out}' is not empty (it holds '{found[0]}'): choose another --out.")


def _opened(data: Data, side: int, split: Split) -> ImageSet:
    """A split, its pictures still encoded where they lie in files: each is then decoded once, here."""
    wanted = {"size": side, "store": side, "cache_gb": 0.0, "on_bad": "error"}
    fields = {field.name for field in dataclasses.fields(data)}  # type: ignore[arg-type]
    images = spec.override(data, {name: value for name, value in wanted.items() if name in fields}).load(split)
    if images.images.side != side:
        raise UserError(f"{data.label_name} gives images of {images.images.side} pixels, not {side}: say --size.")
    return images


def _check_room(works: list[_Work], data: Data, out: Path) -> None:
    need = sum(work.need for work in works)
    free = shutil.disk_usage(out).free
    if need > free:
        images = sum(len(work.images) for work in works)
        raise UserError(
            f"packing {images:,} images of {data.label_name} at {works[0].side} pixels takes {need / 1e9:,.2f} GB more "
            f"({need:,} bytes) in '{out}', where {free / 1e9:,.2f} GB are free: free some, name another place with --out, or "
            "choose a smaller --size."
        )


@dataclass
class _Work:
    """One split in the making."""

    out: Path
    split: Split
    images: ImageSet
    side: int
    chunks: list[Chunk]  # what is on the disk

    @classmethod
    def begin(cls, out: Path, split: Split, images: ImageSet, side: int) -> _Work:
        """What an earlier sitting left of a split. Raises UserError when it was begun with other images."""
        work = cls(out, split, images, side, [])
        head, chunks = read_chunks(work.listed)
        if head and head != work.head():
            raise UserError(
                f"the images have changed since packing into '{out}' began: '{split}' held {head.get('images')} then and holds "
                f"{len(images)} now, or has other labels. Remove that folder and pack again."
            )
        work.chunks = work._kept(chunks)
        return work

    @property
    def listed(self) -> Path:
        return self.out / f"{self.split}.chunks.jsonl"

    @property
    def file(self) -> Path:
        return self.out / f"{self.split}.u8"

    @property
    def image(self) -> int:
        """Bytes of one."""
        return 3 * self.side**2

    @property
    def done(self) -> int:
        """Images of the source that are dealt with."""
        return sum(chunk.taken for chunk in self.chunks)

    @property
    def need(self) -> int:
        """Bytes of pixels still to be written."""
        return (len(self.images) - self.done) * self.image

    def head(self) -> dict[str, Any]:
        """What is packed: how many images, and a digest of their labels and numbers."""
        made = hashlib.sha256()
        for name, values in [*self.images.labels.items(), *self.images.quantities.items()]:
            made.update(name.encode() + values.numpy().tobytes() + repr(self.images.classes.get(name)).encode())
        return {"images": len(self.images), "labels": made.hexdigest()}

    def _kept(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks that lie in the file as listed: all but, after a power cut, the last."""
        kept, first = [], 0
        try:
            size = self.file.stat().st_size
            with self.file.open("rb") as file:
                for at, chunk in enumerate(chunks):
                    after = first + chunk.images * self.image
                    if after > size:
                        break
                    file.seek(first)
                    if at == len(chunks) - 1 and not same(file, chunk, self.side):
                        break
                    kept.append(chunk)
                    first = after
        except FileNotFoundError:
            return []
        return kept

    def carry_out(self, on_bad: OnBad, stop: Stop) -> Part:
        """Write what is missing, then what is known of the images."""
        with explained(self.out):
            lines = [json.dumps(self.head()), *(json.dumps(spec.to_json(chunk)) for chunk in self.chunks)]
            write_atomic(self.listed, "".join(f"{line}\n" for line in lines))
            with self.file.open("ab", buffering=0) as file, self.listed.open("ab", buffering=0) as listed:
                file.truncate(sum(chunk.images for chunk in self.chunks) * self.image)
                self._append(file, listed, on_bad, stop)
        bad = [each for chunk in self.chunks for each in chunk.bad]
        kept = np.delete(np.arange(len(self.images)), [position for position, _ in bad])
        if not len(kept):
            raise UserError(f"none of the {len(self.images)} images of '{self.split}' can be decoded: {bad[0][1]}.")
        write_atomic(self.out / f"{self.split}.parquet", _rows(self.images, kept))
        first = "; ".join(self._named(each) for each in bad[:3]) + ("; ..." if len(bad) > 3 else "")
        left_out = (f"{len(bad)} of {len(self.images)} images cannot be decoded and are left out: {first}",) if bad else ()
        return Part(len(kept), self.images.target, (*self.images.notes, *left_out))

    def _append(self, file: io.FileIO, listed: io.FileIO, on_bad: OnBad, stop: Stop) -> None:
        step = max(1, CHUNK // self.image)
        starts = range(self.done, len(self.images), step)
        waiting: list[Chunk] = []

        def save() -> None:
            os.fsync(file.fileno())
            write_whole(listed.write, b"".join(json.dumps(spec.to_json(chunk)).encode() + b"\n" for chunk in waiting))
            os.fsync(listed.fileno())
            self.chunks += waiting
            waiting.clear()

        total = -(-len(self.images) // step)
        with bar(f"packing {self.split}", total, done=total - len(starts), per_unit=step, things="images") as shown:
            for start, (good, bad) in zip(starts, self._decoded(starts, step), strict=True):
                if bad and on_bad == "error":
                    save()
                    raise UserError(
                        f"cannot decode {self._named(bad[0])}. Mend it, or leave out all such with --on-bad skip, and give the "
                        "same command again: it goes on from here."
                    )
                taken = min(step, len(self.images) - start)
                waiting.append(Chunk(taken, len(good), hashlib.sha256(good.data).hexdigest(), tuple(bad)))
                write_whole(file.write, good.reshape(-1).data)
                if stop.signum or sum(chunk.images for chunk in waiting) * self.image >= SAVE:
                    save()
                shown.advance()
                if stop.signum:
                    text = f"Stopped with {self.done:,} of {len(self.images):,} images of '{self.split}' packed and saved. "
                    raise Interrupted(f"{text}To go on: give the same command again.", stop.signum)
            save()
        flush(self.out)

    def _decoded(self, starts: range, step: int) -> Iterator[tuple[Pixels, list[Bad]]]:
        images, end = self.images.images, len(self.images)
        if isinstance(images, Encoded):
            yield from ordered(images.attempt, (np.arange(at, min(at + step, end)) for at in starts), images.workers)
        else:
            for at in starts:
                yield images.batch(torch.arange(at, min(at + step, end))).numpy(), []

    def _named(self, bad: Bad) -> str:
        images = self.images.images
        return images.name(bad) if isinstance(images, Encoded) else f"image {bad[0]} ({bad[1]})"


def _rows(images: ImageSet, kept: npt.NDArray[np.int64]) -> bytes:
    """A Parquet file in the Hugging Face image layout, the images' names without their bytes, of the rows `kept`."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = None if images.names is None else images.names()
    image = "image" if "image" not in {*images.labels, *images.quantities} else "__image__"
    cells = [{"bytes": None, "path": None if names is None else names[row]} for row in kept.tolist()]
    features: dict[str, Any] = {image: datasets.Image(decode=False)}
    columns: dict[str, Any] = {image: pa.array(cells, datasets.Image().pa_type)}
    for task, values in images.labels.items():
        known = images.classes[task]
        unique = known if len(set(known)) == len(known) else tuple(map(str, range(len(known))))
        features[task] = datasets.ClassLabel(names=list(unique))
        columns[task] = values.numpy()[kept]
    for name, values in images.quantities.items():
        features[name] = datasets.Value("float32")
        columns[name] = values.numpy()[kept].astype(np.float32)
    table = pa.table(columns).replace_schema_metadata(datasets.Features(features).arrow_schema.metadata)
    held = io.BytesIO()
    pq.write_table(table, held)
    return held.getvalue()
