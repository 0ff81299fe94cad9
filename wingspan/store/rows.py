"""Rows of features that are read a few at a time: a tensor, memory-mapped maybe, or a view that decodes what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Rows(Protocol):
    """(N, columns) of one dtype. A torch.Tensor of two dimensions is one."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """rows: a slice with step 1, or indices (n,) int64 -> (n, columns)."""
        ...


@dataclass(frozen=True)
class View:
    """Other rows, seen through a function: decoded, packed or compared when they are asked for, and never kept."""

    source: Rows
    columns: int
    dtype: torch.dtype
    through: Callable[[Tensor], Tensor]  # (n, columns of source) -> (n, columns) of dtype

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.columns

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.through(take(self.source, rows))


def take(source: Rows, rows: slice | Tensor) -> Tensor:
    """source[rows], by the faster of PyTorch's two ways to take rows of a tensor at indices."""
    if isinstance(source, Tensor) and isinstance(rows, Tensor):
        return source.index_select(0, rows)
    return source[rows]
