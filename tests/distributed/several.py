"""Several processes on one machine, as torchrun begins them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing


def spawn(work: Callable[[int, Path], None], world: int, folder: Path) -> None:
    """`work(rank, folder)` in each of `world` processes."""
    free = [socket.socket() for _ in range(16)]
    for each in free:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in free]
    for each in free:
        each.close()
    torch.multiprocessing.spawn(_begun, args=(work, world, folder, ports), nprocs=world)


def meet_elsewhere() -> None:
    """For a second run in the same processes: what holds on to the first one's sharded weights holds its port, too."""
    os.environ["MASTER_PORT"] = str(_PORTS.pop())


_PORTS: list[int] = []


def _begun(rank: int, work: Callable[[int, Path], None], world: int, folder: Path, ports: list[int]) -> None:
    _PORTS[:] = ports
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_PORTS.pop()), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    work(rank, folder)
