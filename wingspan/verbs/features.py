"""Store features of images: as packed bits a 32768-wide vector takes 4 kB; search them, probe them, hand them over.

wingspan features RUN --out kept                                of the run's own images, in the form that measuring favours
wingspan features RUN --data flowers/ --out codes --format packed
wingspan features RUN --out h --format fp16 --split test        values as they are
wingspan features codes                                         what a store holds; --check compares every checksum
wingspan features codes --to parquet --out codes.parquet        for DuckDB, Polars, LanceDB; or npy, faiss, pgvector

Extraction goes on where it was cut: give the same command again. Search a store: wingspan search codes photo.jpg
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from wingspan import storage
from wingspan.data.base import Data, Split
from wingspan.data.hub import Hub
from wingspan.errors import UserError
from wingspan.extraction import Wanted, extract_to
from wingspan.network import Network, load_network, model_of
from wingspan.pretrain import load_run
from wingspan.progress import clock, console
from wingspan.results import load_precision
from wingspan.runs import RunFolder
from wingspan.runtime import Runtime, hold_memory
from wingspan.store import manifest
from wingspan.store.manifest import Format
from wingspan.store.store import Store, open_store
from wingspan.verbs import _arguments as arguments
from wingspan.verbs._sets import data_set


@dataclass(frozen=True)
class _Options:
    data: Annotated[Data, tyro.conf.arg(name="data")]
    out: Path | None = None
    """The store's folder."""
    format: Literal["auto", "packed", "fp16", "sparse"] = "auto"
    """packed keeps h > 0, an eighth of a byte a dimension. fp16 keeps values. sparse keeps the values above 0 without loss:
    worth it where most are 0. auto measures what a linear probe would lose on bits, chooses, and says why."""
    max_loss: float = 2.0
    """For auto: points of accuracy that packing may cost, at the upper end of a 95 % interval."""
    layer: str = "h"
    """What is stored: h, or 'projector 1' and so on."""
    threshold: float = 0.0
    """Packed bits are h > threshold. Other than 0 only for representations that no ReLU has made 0."""
    split: Literal["both", "train", "test"] = "both"
    """Which images."""
    batch: int = 512
    """Images through the network at a time. Lower it where memory runs short; part of the store's identity."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class _StoreOptions:
    check: bool = False
    """Read every byte and compare it with its checksum."""
    to: Literal["", "parquet", "npy", "faiss", "pgvector"] = ""
    """Hand the features over in another tool's form."""
    out: Path | None = None
    """The file, or for pgvector the folder, to write."""
    split: str = ""
    """Which split to hand over. Left out: the only one, or train and test each with its name added to --out."""
    column: Literal["binary", "list"] = "binary"
    """Parquet's column of codes: binary for DuckDB and Polars, list (of uint8) for LanceDB."""
    codes: bool = False
    """Hand over bits (h > 0) from a store that holds values."""


def main(words: list[str]) -> int:
    words = list(words)
    if {"-h", "--help"} & set(words):
        known = words and manifest.present(Path(words[0]))
        kind, default = (_StoreOptions, _StoreOptions()) if known else (_Options, _Options(Hub()))
        arguments.parse(kind, default, ["--help"], "features STORE" if known else "features RUN", __doc__ or "")
    if not words or words[0].startswith("-"):
        raise UserError("which run? wingspan features RUN --out DIR, RUN being the folder that wingspan pretrain wrote.")
    path, rest = Path(words[0]), words[1:]
    return _look(path, rest) if manifest.present(path) else _extract(path, rest)


def _extract(path: Path, words: list[str]) -> int:
    folder = RunFolder(path)
    run = load_run(folder)
    asked = arguments.take(words, "--data") or arguments.take(words, "--data.path") or "own"
    source = run.data if asked == "own" else data_set(asked, run.data.side)
    options = arguments.parse(_Options, _Options(source), words, "features RUN", __doc__ or "")
    if options.out is None:
        raise UserError(f"where to? wingspan features {path} --out DIR")
    if not 0 <= options.max_loss <= 100:
        raise UserError(f"--max-loss {options.max_loss} is points of accuracy: from 0 to 100.")
    run, network = load_network(folder, Runtime(options.device, load_precision(folder)))
    if network.runtime.device.type == "cpu":
        hold_memory()
    kind, why = _format(options, options.out, network, run.seed)
    splits: tuple[Split, ...] = ("train", "test") if options.split == "both" else (options.split,)
    wanted = Wanted(kind, options.layer, options.threshold, options.batch, splits)
    began = time.monotonic()
    beside = {"run.json": folder.spec.read_text()}
    store = extract_to(options.out, network, model_of(folder, run), options.data, wanted, beside=beside, notes=why)
    took = time.monotonic() - began
    _show(store)
    console.print(
        f"Wrote {options.out} in {clock(took)}\nNext: wingspan search {options.out} --top 10, with pictures or rows "
        f"({store.splits[-1]}:0-7) to search for; wingspan measure {options.out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _format(options: _Options, out: Path, network: Network, seed: int) -> tuple[Format, tuple[str, ...]]:
    """The format to store in, and why; a store that was begun keeps its own."""
    if options.format != "auto":
        return options.format, ()
    if manifest.present(out):
        begun = manifest.read(out)
        return begun.format, begun.notes
    chosen = storage.choose(network, options.data, options.layer, seed, options.max_loss / 100)
    return chosen.format, chosen.why


def _look(path: Path, words: list[str]) -> int:
    options = arguments.parse(_StoreOptions, _StoreOptions(), words, "features STORE", __doc__ or "")
    store = open_store(path, verify=options.check)
    if not options.to:
        _show(store)
        if options.check:
            console.print("Every file is as it was written.", highlight=False)
        return 0
    if options.out is None:
        raise UserError(f"where to? wingspan features {path} --to {options.to} --out FILE")
    from wingspan import handover

    splits = [options.split] if options.split else list(store.splits)
    for split in splits:
        out = options.out if len(splits) == 1 else options.out.with_stem(f"{options.out.stem}-{split}")
        for file in handover.hand_over(
            store.part(split), store.manifest, options.to, out, column=options.column, codes=options.codes
        ):
            console.print(f"Wrote {file} ({file.stat().st_size / 1e6:,.1f} MB)", highlight=False, soft_wrap=True)
    console.print("Next: docs/handover.md shows how each tool reads it", highlight=False)
    return 0


def _show(store: Store) -> None:
    """What a store holds: where it comes from, a row a split, and what it would take as fp16."""
    about = store.manifest
    told = f"{about.layer} of {about.model.name} at step {about.model.step} on {about.data.label_name}, D = {about.width}"
    table = Table(title=f"{told}, {about.format}")
    for column in ("split", "images", "MB", "as fp16", "bytes an image", "labels"):
        table.add_column(column, justify="left" if column in ("split", "labels") else "right")
    for split in store.splits:
        part = store.part(split)
        size, dense = part.size, 2 * about.width * len(part)
        share = f"{size / dense:.1%} of {dense / 1e6:,.1f} MB"
        labels = ", ".join((*part.classes, *part.quantities)) or "none"
        table.add_row(split, f"{len(part):,}", f"{size / 1e6:,.2f}", share, f"{size / len(part):,.0f}", labels)
    console.print(table)
    for note in about.notes:
        console.print(note, highlight=False, soft_wrap=True)
