"""One NumPy array that is mapped into memory, and what is known of its rows beside it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wingspan.handover._content import Column, Content, whole


def write(content: Content, out: Path) -> list[Path]:
    """OUT, (N, ceil(D / 8)) uint8 or (N, D) float16, and the archive of its columns: `codes.npy`, `codes.labels.npz`.

    The archive holds arrays (N,) by their columns' names, `<task>_name` (C,) the names in label order, and `wingspan`, the
    content's facts as JSON. No file needs pickle.
    """
    beside = out.with_name(f"{out.name.removesuffix('.npy')}.labels.npz")
    shape = (len(content), content.row_bytes if content.packed else content.width)
    kind = np.dtype(np.uint8) if content.packed else np.dtype("<f2")
    arrays = {each.name: _array(each) for each in content.columns}
    with whole(out, beside) as (file, archive):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:  # np.savez has words of its own among its names
            for name, values in {**arrays, "wingspan": np.array(json.dumps(content.facts))}.items():
                with packed.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, values, allow_pickle=False)
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, features in content.blocks(f"writing {out}"):
            file.write(np.ascontiguousarray(features.numpy(), kind).data)
    return [out, beside]


def _array(column: Column) -> np.ndarray[Any, np.dtype[Any]]:
    if column.classes is not None:
        return np.array(column.classes, np.str_)
    if isinstance(column.values, Tensor):
        return column.values.numpy()
    return np.array([text or "" for text in column.values], np.str_)
