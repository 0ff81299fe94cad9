"""What jobs on Slurm ask for, and the form of a study that sbatch takes where submitit is not installed."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from wingspan.errors import UserError

_MARGIN = 1.5  # of the hours forecast, for images that come slowly and for measuring
HOST_GIB = 16  # the interpreter, CUDA, batches on their way and features while they are measured
_LEAD = 120  # seconds before a job's end that it is told, to save


@dataclass(frozen=True)
class Slurm:
    """What every job of a study asks for. A run is a job, and all jobs of a command are one array."""

    partition: str = ""
    """Partition to queue in; sinfo lists them. Left out: the cluster's default."""
    account: str = ""
    """Account to charge. Give it when sbatch asks for one, or you have several (sacctmgr show associations user=$USER)."""
    qos: str = ""
    """Quality of service, as a cluster may have one for long jobs, or for jobs that others may preempt."""
    constraint: str = ""
    """Features that nodes must have, as 'a100|h100'. Give it where some of the partition's GPUs are too small for the widest
    run."""
    nodes: int = 1
    """Nodes a run. More than one shares each batch over all their GPUs: for a run that is too slow on one node."""
    gpus: int = 1
    """GPUs a node. Each gets a process and an equal share of the batch, so raise it when a run is too slow or too large for
    one. 0: no GPU, one process a node."""
    cpus: int = 8
    """CPU cores a process. Raise it where reading images keeps the GPU waiting; lower it where it keeps jobs in the queue."""
    mem: str = ""
    """Memory a node, as 64G. Left out: for each process 16 GiB and the weights and optimiser of the largest run (without GPUs,
    all that it needs). Raise it when a job ends as OUT_OF_MEMORY."""
    time: str = "24:00:00"
    """Time limit of a job: minutes, hours:minutes:seconds or days-hours. Less than a run takes will do, since it saves before
    the end and is queued again; short jobs often start sooner. An hour is a good least."""
    array_parallelism: int = 0
    """Jobs that may run at a time; 0: as many as the cluster lets. Give it to leave room for others, or for yourself."""
    retries: int = 2
    """How many times a run that failed is queued again by itself, before the failure is reported and it is left alone."""
    again: bool = False
    """Submit runs, too, that failed for good, and count their failures anew. Give it once you have mended what failed."""
    lines: tuple[str, ...] = ()
    """Lines for the batch script as they stand, before the run begins: '#SBATCH --reservation=course' for what has no option
    here, 'module load cuda/12.4' or 'export HF_HOME=/scratch/hf' for the environment."""

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("array_parallelism", 0), ("retries", 0)):
            if getattr(self, name) < least:
                option = f"--slurm.{name.replace('_', '-')}"
                raise UserError(f"{option} {getattr(self, name)} must be at least {least}.")
        if self.mem and not re.fullmatch(r"\d+[KMGT]?", self.mem):
            raise UserError(f"--slurm.mem '{self.mem}' is no amount of memory: write 64G, or 512M.")
        minutes(self.time)

    @property
    def processes(self) -> int:
        """Processes on each node."""
        return max(1, self.gpus)

    @property
    def lead(self) -> int:
        """Seconds before a job's end that it is told of it: enough to save, little of a short job."""
        return min(_LEAD, 15 * minutes(self.time))


def minutes(time: str) -> int:
    """Slurm's ways of writing a time limit -> minutes, rounded up. Raises UserError quoting what is none of them."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if found is None:
        raise UserError(f"--slurm.time '{time}' is no time limit: write 90 (minutes), 12:00:00 or 2-00:00:00.")
    days, *rest = found.groups()
    first, second, third = (int(each or 0) for each in rest)
    if days is not None:
        total = 1440 * int(days) + 60 * first + second + third / 60
    elif found[4] is not None:
        total = 60 * first + second + third / 60
    else:
        total = first + second / 60
    if total <= 0:
        raise UserError(f"--slurm.time '{time}' leaves no time for a run.")
    return math.ceil(total)


@dataclass(frozen=True)
class Needs:
    """What one task of the array asks for."""

    tasks: int
    seconds: float | None  # of the longest; None: not known for the devices of a cluster
    device_bytes: int  # of the largest run
    weight_bytes: int  # of it, what a checkpoint brings to the host


def script(name: str, words: Sequence[str], needs: Needs) -> str:
    """The batch script. words: those of `wingspan study ...` as the user gave them, without what only planning needs."""
    command = " ".join(shlex.quote(word) for word in ("wingspan", "study", *words))
    memory = HOST_GIB + math.ceil(needs.weight_bytes / 2**30)
    time = ["# A placeholder: --tflops X beside --dry-run gives the hours of your devices.", "#SBATCH --time=24:00:00"]
    if needs.seconds is not None:
        time = [f"#SBATCH --time={_clock(_MARGIN * needs.seconds)}"]
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name=wingspan-{name}",
            f"#SBATCH --array=1-{needs.tasks}",
            f"# The largest run needs {needs.device_bytes / 2**30:.0f} GiB on its device. Too much? --accumulate 2, 4, 8",
            "# divides the part that grows with the batch; objectives that compare images then compare within a part.",
            "#SBATCH --gres=gpu:1",
            "#SBATCH --cpus-per-task=8",
            f"#SBATCH --mem={memory}G",
            "# Less time than a run takes will do, too: it saves, and the task is queued again.",
            *time,
            "#SBATCH --signal=B:USR1@120",
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            "",
            "# Activate the environment that wingspan is installed in here.",
            f'{command} --part "$SLURM_ARRAY_TASK_ID/{needs.tasks}" &',
            "run=$!",
            "late=",
            "trap 'late=1; kill -TERM \"$run\"' USR1  # the time is nearly up: save",
            'wait "$run"; status=$?',
            'if [ -n "$late" ]; then',
            '    wait "$run"; status=$?  # the first wait ended with the signal',
            '    if [ "$status" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "fi",
            'exit "$status"',
            "",
            "# When all tasks are done, this draws the page:",
            f"# {command}",
        ]
    )


def _clock(seconds: float) -> str:
    """[days-]hours:minutes:seconds as Slurm reads it, in whole hours and at least one."""
    hours = max(1, math.ceil(seconds / 3600))
    days, rest = divmod(hours, 24)
    return f"{days}-{rest:02d}:00:00" if days else f"{rest:02d}:00:00"
