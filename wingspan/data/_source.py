"""Where the encoded images are: splits of a hub id, a folder of class folders, Parquet files, WebDataset archives."""

from __future__ import annotations

import bisect
import contextlib
import glob
import hashlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wingspan.errors import UserError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".tga"}
SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val")
IN_MEMORY = 1e9  # bytes of Parquet read at once; more is copied once to a memory-mapped Arrow file by `datasets`


@dataclass(frozen=True)
class Table:
    """One split before decoding."""

    rows: Any  # datasets.Dataset
    where: Callable[[int], str]  # row -> how a message names it
    stamp: str  # changes when the files do
    pixels: Any = None  # _pages.Pages, where the images are decoded already
    target: str = ""  # the column that its maker calls the target


Splits = Mapping[str, Callable[[], Table]]


@contextlib.contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Without the log noise of `datasets` and the hub's client, without progress bars unless `bars`, and without a word to
    anybody: left alone, `datasets` tells its makers of every load, of local files too."""
    import datasets

    level, shown = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    told, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = getattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False), False
    client = logging.getLogger("huggingface_hub")
    client_level = client.level
    datasets.logging.set_verbosity_error()
    client.setLevel(logging.ERROR)
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = told
        datasets.logging.set_verbosity(level)
        client.setLevel(client_level)
        if shown:
            datasets.enable_progress_bars()


def hub_splits(name: str, config: str) -> Splits:
    """The splits of a hub id, downloaded into the Hugging Face cache. Raises UserError quoting the id."""
    import datasets

    if Path(name).expanduser().exists():
        raise UserError(f"--data.name '{name}' is a file or folder here; to read it, say --data.path {name}.")
    try:
        with quiet(bars=sys.stderr.isatty()):  # a download may take an hour
            found = datasets.load_dataset(name, config or None)
    except Exception as error:  # whatever the network, the hub and its readers raise
        raise UserError(
            f"cannot read '{name}' from the Hugging Face hub: {_line(error)} Check the spelling (owner/name),"
            " --data.config, the network and, for gated sets, `hf auth login`; local files are read with --data.path."
        ) from error

    def opener(split: str) -> Callable[[], Table]:
        rows = found[split]
        files = [Path(file["filename"]) for file in rows.cache_files]
        return lambda: Table(rows, lambda row: f"row {row} of split '{split}' of '{name}'", _stamp(files) + split)

    return {split: opener(split) for split in found}


def local_splits(path: Path, named: Sequence[str], cache: Path) -> tuple[Splits, tuple[str, ...]]:
    """The splits of what lies at `path`, and notes. `named` are the split names the user wrote.

    Parquet and tar files belong to the split that their name or folder tells (`train-00000-of-00004.parquet`,
    `test/a.tar`), to 'train' when it tells none. A folder of pictures is split by folders called train, test, val and
    so on; the folder below is the class.
    """
    if not path.exists():
        raise UserError(f"--data.path '{path}' does not exist.")
    known = {*SPLITS, *(name for name in named if name)}
    if path.is_file():
        if path.suffix not in (".parquet", ".tar"):
            raise UserError(f"--data.path '{path}' is neither a folder, nor a .parquet file, nor a .tar archive.")
        root, files = path.parent, [path]
    else:
        root, files = path, list(_walk(path))
    for suffix, opener in ((".parquet", _parquet), (".tar", _tar)):
        chosen = [file for file in files if file.suffix == suffix]
        if chosen:
            grouped = _group(chosen, lambda file: _split_of(file.relative_to(root), known))
            if len(grouped) == 1 and not known & grouped.keys():
                grouped = {"train": chosen}
            return {split: _later(opener, group, cache) for split, group in grouped.items()}, ()
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if not pictures:
        held = ", ".join(sorted({file.suffix or file.name for file in files})[:8]) or "nothing"
        raise UserError(f"no images in '{path}': it holds {held}. Looked for .parquet, .tar and {', '.join(sorted(PICTURES))}.")
    return _folders(root, pictures, known)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, sorted, so that every machine numbers the images alike; hidden ones are passed over."""
    for at, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield from (Path(at, name) for name in sorted(files) if not name.startswith("."))


def _split_of(file: Path, known: set[str]) -> str:
    shard = re.fullmatch(r"(.+?)-\d+-of-\d+(-[0-9a-f]+)?", file.stem)
    stem = shard[1] if shard else file.stem
    words = [stem, *reversed(file.parts[:-1]), *re.split(r"[^A-Za-z0-9]+", stem)]
    return next((word for word in words if word in known), stem if shard else "train")


def _folders(root: Path, pictures: list[Path], known: set[str]) -> tuple[Splits, tuple[str, ...]]:
    relative = {file: file.relative_to(root).parts for file in pictures}
    notes = []
    if any(parts[0] in known and len(parts) > 1 for parts in relative.values()):
        inside = {file: parts for file, parts in relative.items() if parts[0] in known}
        if len(inside) < len(relative):
            notes.append(f"{len(relative) - len(inside)} images outside the split folders of '{root}' are left out")
        grouped = _group(list(inside), lambda file: relative[file][0])
        below = 1
    else:
        grouped, below = {"train": pictures}, 0
    splits = {}
    several = len({parts[below] for parts in relative.values() if len(parts) > below + 1}) > 1  # one folder is no label
    for split, files in grouped.items():
        classed = [file for file in files if len(relative[file]) > below + 1]
        if classed and len(classed) < len(files):
            notes.append(f"{len(files) - len(classed)} images beside the class folders of split '{split}' are left out")
        names = [relative[file][below] for file in classed if several]
        splits[split] = _later(_pictures, classed or files, names)
    return splits, tuple(notes)


def _pictures(files: list[Path], names: list[str]) -> Table:
    import datasets

    features: dict[str, Any] = {"image": datasets.Image(decode=False)}
    columns: dict[str, list[Any]] = {"image": [{"bytes": None, "path": str(file)} for file in files]}
    if names:
        classes = sorted(set(names))
        index = {name: label for label, name in enumerate(classes)}
        features["label"] = datasets.ClassLabel(names=classes)
        columns["label"] = [index[name] for name in names]
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return Table(rows, lambda row: f"row {row}, '{files[row]}'", _stamp(files))


def _parquet(files: list[Path], cache: Path) -> Table:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        counts, needs = [], 0  # bytes once unpacked: a small file may hold very many
        for file in files:
            about = pq.read_metadata(file)
            counts.append(about.num_rows)
            needs += sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        if needs <= IN_MEMORY:
            parts = [pq.ParquetFile(file).read() for file in files]
            rows = datasets.Dataset(pa.concat_tables(parts, promote_options="default"))
        else:
            rows = _copied("parquet", files, cache)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise UserError(f"cannot read the Parquet files {_listed(files)}: {_line(error)}") from error
    starts = list(itertools.accumulate(counts, initial=0))

    def where(row: int) -> str:
        file = bisect.bisect_right(starts, row) - 1
        return f"row {row - starts[file]} of '{files[file]}'"

    return Table(rows, where, _stamp(files))


def _tar(files: list[Path], cache: Path) -> Table:
    rows = _copied("webdataset", files, cache)
    names = rows.select_columns(["__key__", "__url__"])

    def where(row: int) -> str:
        told = names[row]
        return f"row {row}, '{told['__key__']}' in '{told['__url__']}'"

    return Table(rows, where, _stamp(files))


def _copied(builder: str, files: list[Path], cache: Path) -> Any:
    """Rows in memory-mapped Arrow files under the cache folder, one folder for each state of the files: never stale."""
    import datasets

    folder = cache / "arrow" / _stamp(files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache folder '{cache}' ({error.strerror}): name another with --data.cache."
        ) from error
    escaped = [glob.escape(str(file.absolute())) for file in files]
    with quiet():
        try:
            return datasets.load_dataset(builder, data_files={"train": escaped}, split="train", cache_dir=str(folder))
        except Exception as error:  # tarfile's, Arrow's and datasets' own
            raise UserError(
                f"cannot read {_listed(files)} as {builder} into the cache folder '{cache}': {_line(error)}"
            ) from error


def namer(rows: Any, image: str, wanted: npt.NDArray[np.int64]) -> Callable[[], list[str]] | None:
    """What gives the paths or names that the image column of a datasets.Dataset holds beside the bytes, of the rows `wanted`;
    None where it holds none. Strings are made when they are asked for: a million of them take a hundred megabytes."""
    flat = rows.select_columns([image]).flatten()  # a struct's fields become columns, so that no image is read
    if f"{image}.path" not in flat.column_names:
        return None
    paths = flat.select_columns([f"{image}.path"]).with_format("arrow")
    if not len(wanted) or paths[wanted[:1]].column(0)[0].as_py() is None:
        return None
    return lambda: [path or "" for path in paths[wanted].column(0).to_pylist()]


def _stamp(files: Sequence[Path]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            state = file.stat()
            made.update(f"{file.absolute()} {state.st_size} {state.st_mtime_ns}\n".encode())
        except OSError:
            made.update(f"{file.absolute()} missing\n".encode())
    return made.hexdigest()


def _group(files: list[Path], split: Callable[[Path], str]) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = {}
    for file in files:
        grouped.setdefault(split(file), []).append(file)
    return grouped


def _later(opener: Callable[..., Table], *arguments: Any) -> Callable[[], Table]:
    return lambda: opener(*arguments)


def _listed(files: Sequence[Path]) -> str:
    return f"'{files[0]}'" + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _line(error: BaseException) -> str:
    """The first line of an exception and of what caused it."""
    cause = error.__cause__
    text = " ".join((str(e).strip() or type(e).__name__).splitlines()[0] for e in (error, cause) if e is not None)
    return text if text.endswith((".", "!", "?")) else text + "."
