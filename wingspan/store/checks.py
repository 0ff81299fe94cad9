"""Whether a store is whole: every file that was listed is there, of its size, and where asked with its checksum."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wingspan.errors import UserError
from wingspan.progress import bar
from wingspan.store import shards
from wingspan.store.manifest import Manifest

INDEX = "index.parquet"


def check(path: Path, manifest: Manifest, verify: bool) -> None:
    """Raises UserError when shards are still to be made, and naming a file that is missing, truncated or damaged.

    `verify` reads every byte and compares checksums.
    """
    for split in manifest.splits:
        missing = len(unfinished(path, manifest, split))
        if missing:
            whole = manifest.shards(split)
            raise UserError(
                f"{path}: {whole - missing} of {whole} shards of split '{split}' are extracted. Go on with the command that "
                f"began it: wingspan features ... --out {path}"
            )
    for split in manifest.splits:
        for shard in range(manifest.shards(split)):
            wrong = damage(path / split, manifest, split, shard)
            if wrong:
                raise UserError(f"{wrong} {_repair(path)}")
        if verify:
            _compare(path, split)


def _compare(path: Path, split: str) -> None:
    sums = shards.read_sums(path / split)
    with bar(f"checking {path / split}", len(sums), things="files") as shown:
        for name, value in sums.items():
            file = path / split / name
            if not file.exists() or shards.checksum(file) != value:
                raise UserError(f"{file} is damaged: its checksum is not the one in {shards.SUMS}. {_repair(path)}")
            shown.advance()


def _repair(path: Path) -> str:
    return (
        "Copy it again from where it is whole; or remove it and give the command that made the store once more, which makes "
        f"what is missing: wingspan features ... --out {path}"
    )


def files_of(manifest: Manifest, shard: int) -> list[str]:
    return [shards.name(shard, suffix) for suffix in shards.SUFFIXES[manifest.format]]


def unfinished(path: Path, manifest: Manifest, split: str) -> list[int]:
    """The shards of a split that are still to be made."""
    sums = shards.read_sums(path / split)
    every = range(manifest.shards(split))
    return list(every) if INDEX not in sums else [n for n in every if not {*files_of(manifest, n)} <= sums.keys()]


def damage(folder: Path, manifest: Manifest, split: str, shard: int) -> str | None:
    """A sentence about a file of a shard that is missing or has another size than it was written with."""
    for name in files_of(manifest, shard):
        file, wanted = folder / name, _size(folder, manifest, split, shard, name)
        if not file.exists():
            return f"{file} is missing."
        found = file.stat().st_size
        if wanted is not None and found != wanted:
            return f"{file} is {'truncated' if found < wanted else 'too long'}: {found:,} bytes, {wanted:,} expected."
    return None


def _size(folder: Path, manifest: Manifest, split: str, shard: int, name: str) -> int | None:
    """Bytes that a file must have; None where what tells it is itself damaged."""
    rows = len(manifest.rows_of(split, shard))
    if name.endswith(".starts"):
        return 8 * (rows + 1)
    if name.endswith(".values"):
        starts = folder / shards.name(shard, "starts")
        size = starts.stat().st_size if starts.exists() else 0
        return 2 * int(np.fromfile(starts, np.int64, offset=size - 8)[0]) if size == 8 * (rows + 1) else None
    return rows * manifest.row_bytes
