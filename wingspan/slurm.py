"""The Slurm form of a study: a job array, a part of the plan a task."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_MARGIN = 1.5  # of the hours forecast, for images that come slowly and for measuring
_HOST_GIB = 16  # the interpreter, CUDA, batches on their way and features while they are measured


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
    memory = _HOST_GIB + math.ceil(needs.weight_bytes / 2**30)
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
