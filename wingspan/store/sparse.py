"""Rows of which only the values above 0 are kept, as a view that gives them back whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan import bits
from wingspan.store.rows import take


@dataclass(frozen=True)
class Sparse:
    """h (N, D) in fp16, decoded when asked for. Exactly what was stored, for h that is nowhere negative."""

    codes: Tensor  # (N, ceil(D / 8)) uint8: h > 0
    values: Sequence[Tensor]  # per shard (k,) fp16: what is above 0, row by row
    starts: Sequence[Tensor]  # per shard (rows + 1,) int64: where a row's values begin
    width: int
    shard_rows: int

    dtype = torch.float16

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.width

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        out = torch.zeros(len(rows), self.width, dtype=torch.float16)
        above = bits.unpack(take(self.codes, rows), self.width, torch.bool)
        shards = rows // self.shard_rows
        for shard in shards.unique().tolist():
            here = (shards == shard).nonzero().flatten()
            out[here] = self._decoded(shard, rows[here] % self.shard_rows, above[here])
        return out

    def _decoded(self, shard: int, rows: Tensor, above: Tensor) -> Tensor:
        starts, values = self.starts[shard], self.values[shard]
        first, last = starts[rows], starts[rows + 1]
        if len(rows) and int(last[-1] - first[0]) == int((last - first).sum()) and bool((rows.diff() == 1).all()):
            kept = values[int(first[0]) : int(last[-1])]  # neighbours: their values lie in one piece
        else:
            kept = torch.cat([values[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)])
        return torch.zeros(above.shape, dtype=torch.float16).masked_scatter_(above, kept)
