"""Stores of features without a network: h in, a folder that `open_store` opens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from wingspan.chance import generator
from wingspan.data.scenes import Scenes
from wingspan.store import manifest as manifests
from wingspan.store.checks import INDEX
from wingspan.store.manifest import Format, Manifest, Model, SplitFacts
from wingspan.store.shards import Listed, ShardWriter, checksum
from wingspan.store.store import Store, open_store

ODD = ["a\tb", "quo\"te's", "new\nline\r", "back\\slash\\N", "\\.", "größe 鳥 🐦", "", "\\N", None, "plain.png"]
ROWS = 30


def features(rows: int, width: int, seed: int = 0) -> Tensor:
    """h (rows, width) fp16, half of it zeros, in five groups of neighbours; the first row is all zeros."""
    centres = torch.randn(5, width, generator=generator(seed, "centres"))
    h = centres[torch.arange(rows) % 5] + torch.randn(rows, width, generator=generator(seed, "rows"))
    h[:1] = 0
    return h.relu().half()


def store(
    folder: Path,
    h: Tensor,
    kind: Format = "packed",
    *,
    labels: Mapping[str, tuple[Tensor, tuple[str, ...]]] | None = None,
    quantities: Mapping[str, Tensor] | None = None,
    paths: Sequence[str | None] | None = None,
    ids: Tensor | None = None,
    threshold: float = 0.0,
) -> Store:
    """One split, "test"; `labels` are task -> (labels, class names)."""
    labels, quantities = labels or {}, quantities or {}
    classes = {task: names for task, (_, names) in labels.items()}
    facts = SplitFacts(len(h), next(iter(classes), None), classes, tuple(quantities))
    model = Model("tiny", "runs/tiny", "f00d", 6, "0" * 64)
    shard_rows = manifests.shard_rows(kind, h.shape[1])
    manifest = Manifest(model, Scenes(), h.shape[1], kind, {"test": facts}, 16, shard_rows, threshold=threshold)
    place = folder / "test"
    place.mkdir(parents=True)
    manifests.write(folder, manifest)
    listed = Listed(place)
    columns = {"id": torch.arange(len(h)) if ids is None else ids}
    columns |= {f"label {task}": values for task, (values, _) in labels.items()}
    columns |= {f"quantity {name}": values for name, values in quantities.items()}
    table = pa.table({name: pa.array(values.numpy()) for name, values in columns.items()})
    if paths is not None:
        table = table.append_column("path", pa.array(paths, pa.string()))
    pq.write_table(table, place / INDEX)
    listed.add({INDEX: checksum(place / INDEX)})
    for shard in range(manifest.shards("test")):
        writer = ShardWriter(place, shard, kind, threshold)
        rows = manifest.rows_of("test", shard)
        writer.add(h[rows.start : rows.stop])
        listed.add(writer.finish())
    return open_store(folder)


def many_columns(folder: Path, kind: Format, width: int = 21) -> Store:
    """Two tasks, one with an empty and a repeated class name, names that clash, quantities, odd paths, ids of their own."""
    labels = {
        "kind": (torch.arange(ROWS) % 4, ("crane", "", "crane", "tab\there")),
        "ID": (torch.arange(ROWS) % 2, ("no", "yes")),
        "file": (torch.zeros(ROWS, dtype=torch.int64), ("one",)),
    }
    numbers = torch.linspace(-1, 1, ROWS)
    numbers[:3] = torch.tensor([float("nan"), float("inf"), 1e-30])
    paths = (ODD * 3)[:ROWS]
    ids = torch.arange(ROWS) * 7 + 2**40
    h = features(ROWS, width)
    return store(folder, h, kind, labels=labels, quantities={"x": numbers, "code": numbers.abs()}, paths=paths, ids=ids)
