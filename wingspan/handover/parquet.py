"""Parquet, for DuckDB, Polars, pandas, LanceDB and whatever else reads tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from wingspan.handover._content import Column, Content, whole


def write(content: Content, out: Path, column: Literal["binary", "list"] = "binary") -> list[Path]:
    """One file: the columns, then `code` or `h`; its metadata holds `wingspan`, the content's facts as JSON."""
    size = content.row_bytes
    if content.packed:
        vector = ("code", pa.binary(size) if column == "binary" else pa.list_(pa.uint8(), size))
    else:
        vector = ("h", pa.list_(pa.float16(), content.width))
    fields = [(each.name, _type(each)) for each in content.columns]
    schema = pa.schema([*fields, vector], metadata={"wingspan": json.dumps(content.facts)})
    known = [name for name, _ in fields]
    named = [each.name for each in content.columns if each.classes is not None]
    with (
        whole(out) as (file,),
        # Codes are neither repeated nor ordered: a dictionary or bounds of them are bytes that serve nobody.
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=named, write_statistics=known) as writer,
    ):
        for at, features in content.blocks(f"writing {out}"):
            arrays = [_array(each, at) for each in content.columns]
            batch = pa.record_batch([*arrays, _vectors(features, vector[1])], schema=schema)
            writer.write_batch(batch, row_group_size=len(batch))
    return [out]


def _type(column: Column) -> Any:
    if column.classes is not None:
        return pa.dictionary(pa.int32(), pa.string())
    if not isinstance(column.values, Tensor):
        return pa.string()
    if column.values.is_floating_point():
        return pa.float32()
    return pa.int64() if column.name == "id" else pa.int32()


def _array(column: Column, at: slice) -> Any:
    values = column.values[at]
    if not isinstance(values, Tensor):
        return pa.array(values, pa.string())
    if column.classes is None:
        return pa.array(values.numpy()).cast(_type(column))
    # Two classes of one name (ImageNet has them) would make a dictionary that pandas refuses.
    places = {name: place for place, name in enumerate(dict.fromkeys(column.classes))}
    of_label = np.array([places[name] for name in column.classes], np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(of_label[values.numpy()]), pa.array(list(places), pa.string()))


def _vectors(features: Tensor, kind: Any) -> Any:
    values = np.ascontiguousarray(features.numpy())
    if pa.types.is_fixed_size_binary(kind):
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
