"""Several files seen as one array, without a copy: each is mapped right behind the one before.

So a store is one tensor to whoever reads it, however many shards it has. Every file but the last must fill whole pages:
those of the machine that reads, hence `PAGE`, the largest page that Linux or macOS uses anywhere, for the one that writes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE = 1 << 16
_READ_WRITE, _NONE = mmap.PROT_READ | mmap.PROT_WRITE, 0
_FIXED, _ANONYMOUS = 0x10, mmap.MAP_ANONYMOUS  # MAP_FIXED is 0x10 on both systems; Python does not name it
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0x40
_FAILED = ctypes.c_void_p(-1).value


def mapped(files: Sequence[Path], sizes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The bytes of `files`, of which each holds `sizes` bytes, one after the other: (sum of sizes,) uint8.

    Copy on write: whoever writes into the array changes neither a file nor another reader. It stays valid, and the files'
    space taken, until the last array or tensor over it is gone. Raises OSError.
    """
    total = sum(sizes)
    if not total:
        return np.empty(0, np.uint8)
    if any(size % mmap.PAGESIZE for size in sizes[:-1]):
        raise ValueError("only the last file may end within a page")
    base = _map(None, total, _NONE, _ANONYMOUS | mmap.MAP_PRIVATE | _NO_RESERVE, -1)
    whole = (ctypes.c_uint8 * total).from_address(base)
    weakref.finalize(whole, _unmap, base, total)
    at = base
    for file, size in zip(files, sizes, strict=True):
        handle = os.open(file, os.O_RDONLY)
        try:
            if size:
                _map(at, size, _READ_WRITE, mmap.MAP_PRIVATE | _NO_RESERVE | _FIXED, handle)
        finally:
            os.close(handle)
        at += size
    return np.ctypeslib.as_array(whole)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _map(at: int | None, size: int, protection: int, flags: int, handle: int) -> int:
    found = _libc().mmap(at, size, protection, flags, handle, 0)
    if found == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


def _unmap(base: int, size: int) -> None:
    _libc().munmap(base, size)
