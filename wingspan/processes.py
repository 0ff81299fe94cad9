"""Which of several processes this one is, and how one machine's are begun.

torchrun and `--devices` set RANK and its kin; srun sets SLURM_PROCID and, for its own step, SLURM_STEP_NUM_TASKS (a batch
script has no step: it is one process, whatever the job asked for).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wingspan.errors import UserError

_SHUTDOWN_SECONDS = 50  # what a process has for saving, or for noticing that another is gone, before it is killed


@dataclass(frozen=True)
class Place:
    """rank of world processes, `local` of them on each of `nodes` machines. by: who began them."""

    rank: int = 0
    world: int = 1
    local: int = 1
    nodes: int = 1
    by: Literal["", "torchrun", "slurm"] = ""


def place() -> Place:
    """This process's place, from the environment. Raises UserError for numbers that do not fit together."""
    known = os.environ
    if int(known.get("WORLD_SIZE", "1")) > 1 and "RANK" in known and "MASTER_ADDR" in known:
        rank, world, local = (
            int(known["RANK"]),
            int(known["WORLD_SIZE"]),
            int(known.get("LOCAL_WORLD_SIZE", known["WORLD_SIZE"])),
        )
        return _checked(Place(rank, world, local, world // max(local, 1), "torchrun"))
    if int(known.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in known:
        rank, world, nodes = (int(known[name]) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"))
        return _checked(Place(rank, world, world // nodes, nodes, "slurm"))
    return Place()


def _checked(found: Place) -> Place:
    if found.local * found.nodes != found.world:
        raise UserError(
            f"{found.world} processes on {found.nodes} machines were begun by {found.by}, not equally many on each: give every "
            "machine the same number (srun --ntasks-per-node, torchrun --nproc-per-node)."
        )
    return found


def launch(words: Sequence[str], count: int, again: str) -> int:
    """Carry out one command in `count` processes of this machine, by PyTorch's elastic launcher; gives its exit status.

    When one process dies, the others are ended. Raises UserError naming it where it could not speak itself, with `again`, what
    to do then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed is said here
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, shutdown_timeout=_SHUTDOWN_SECONDS,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "wingspan.cli", *words)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        why = " (out of memory?)" if name == "SIGKILL" else ""
        raise UserError(f"process {rank} of {count} was ended by {name}{why}, and the others with it. {again}") from None
    return 0
