"""An index that faiss reads: exact, and the start of any other."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wingspan.errors import UserError
from wingspan.handover._content import Content, whole


def write(content: Content, out: Path) -> list[Path]:
    """An index whose ids are row numbers.

    Codes: IndexBinaryFlat of 8 ceil(D / 8) bits, the last of them zeros where D is no multiple of 8. h: IndexScalarQuantizer in
    fp16 with inner products, rows divided by their norm, so that scores are cosines up to fp16's rounding; a row of zeros
    stays zeros. Half the bytes of IndexFlatIP, which at D = 32768 takes 131 kB an image.

    faiss writes an index that it holds in memory whole. Here it writes an empty one, whose header is filled in; rows follow.
    Raises UserError when faiss is missing, or writes these indices in a form that Wingspan does not know.
    """
    header = _header(content)
    with whole(out) as (file,):
        file.write(header)
        for _, features in content.blocks(f"writing {out}"):
            rows = features if content.packed else _normalised(features)
            file.write(np.ascontiguousarray(rows.numpy()).data)
    return [out]


def _normalised(h: Tensor) -> Tensor:
    return torch.nn.functional.normalize(h.float(), dim=1, eps=1e-30).half()


def _header(content: Content) -> bytes:
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(f"--to faiss needs faiss ({error}): pip install 'wingspan[search]'.") from error
    row: np.ndarray[Any, np.dtype[Any]]
    if content.packed:
        index, serialize, counted = faiss.IndexBinaryFlat(8 * content.row_bytes), faiss.serialize_index_binary, 12
        row = np.zeros((1, content.row_bytes), np.uint8)
    else:
        index = faiss.IndexScalarQuantizer(content.width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        serialize, counted = faiss.serialize_index, 8
        row = np.zeros((1, content.width), np.float32)
    empty: bytes = serialize(index).tobytes()

    def filled(rows: int) -> bytes:
        """The number of rows, which lies at `counted`, and the bytes to follow, the header's last number."""
        return b"".join(
            [empty[:counted], struct.pack("<q", rows), empty[counted + 8 : -8], struct.pack("<Q", rows * content.row_bytes)]
        )

    index.add(row)
    if serialize(index).tobytes() != filled(1) + bytes(content.row_bytes):
        raise UserError(
            f"--to faiss: faiss {faiss.__version__} writes its indices in another form than Wingspan knows; 1.15 is known. "
            "Hand the features over as npy, and add them to an index."
        )
    return filled(len(content))
