"""Stand-ins for Slurm's commands: a queue of files that tests read and change; nothing runs but what a test starts."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from wingspan.jobs import Task

_SBATCH = r"""
if grep -q -- "--partition=nowhere" "$1"; then
    echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1
fi
id=$(( $(cat "$Q/last" 2> /dev/null || echo 100) + 1 )); echo $id > "$Q/last"; cp "$1" "$Q/$id.sh"
comment=$(sed -n 's/^#SBATCH --comment=//p' "$1"); name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1")
for each in $([ -z "$last" ] && echo $id || seq -f "${id}_%g" 0 $last); do
    echo "$each|PENDING|Resources||$comment|$name" > "$Q/jobs/$each"
done
[ -e "$Q/mute" ] && kill -9 $PPID
echo "Submitted batch job $id"
"""
_SQUEUE = r"""
[ -e "$Q/down" ] && { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
while [ $# -gt 0 ]; do case $1 in --jobs) jobs=$2;; --name) name=$2;; --format) format=$2;; esac; shift; done
found=0
for file in "$Q"/jobs/*; do
    [ -e "$file" ] || continue
    line=$(cat "$file"); id=${line%%|*}
    if [ -n "$name" ]; then [ "${line##*|}" = "$name" ] || continue
    else case ",$jobs," in *,$id,*|*,${id%%_*},*) ;; *) continue;; esac; fi
    found=1; line=${line%|*}
    [ "$format" = "%i|%T" ] && echo "$line" | cut -d'|' -f1-2 || echo "$line"
done
case $jobs in *,*|"") exit 0;; esac
[ $found = 1 ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
"""
_SCONTROL = r"""
echo "$@" >> "$Q/scontrol"
[ "$1" = requeue ] || exit 1
[ -e "$Q/jobs/$2" ] || { echo "Job/step already completing or completed for job $2" >&2; exit 1; }
sed -i 's/|[A-Z]*|[^|]*|[^|]*|/|PENDING|BeginTime||/' "$Q/jobs/$2"
"""
_SACCT = r"""
[ -e "$Q/ends" ] && cat "$Q/ends" || { echo "Slurm accounting storage is disabled" >&2; exit 1; }
"""
_SRUN = r"""
[ -e "$Q/dies" ] && exit $(cat "$Q/dies")
while [[ $1 == -* ]]; do [ "$1" = --output ] && shift; shift; done
exec "$@"
"""


@dataclass(frozen=True)
class Cluster:
    """The queue's folder, and what a test does with it."""

    folder: Path

    @staticmethod
    def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
        (folder / "jobs").mkdir(parents=True)
        (folder / "bin").mkdir()
        scripts = {"sbatch": _SBATCH, "squeue": _SQUEUE, "scontrol": _SCONTROL, "sacct": _SACCT, "srun": _SRUN}
        for name, text in scripts.items():
            file = folder / "bin" / name
            file.write_text(f"#!/bin/bash\nQ={folder}\n{text}")
            file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        return Cluster(folder)

    def ids(self) -> list[str]:
        """Jobs that wait or run."""
        return sorted((each.name for each in (self.folder / "jobs").iterdir()), key=lambda id: [*map(int, id.split("_"))])

    def becomes(self, job: str, state: str, reason: str = "None", node: str = "node1") -> None:
        _, _, _, _, *rest = (self.folder / "jobs" / job).read_text().split("|")
        (self.folder / "jobs" / job).write_text("|".join([job, state, reason, node, *rest]))

    def ends(self, job: str, as_told: str = "") -> None:
        """Neither waits nor runs any more; as_told: what sacct says of it."""
        (self.folder / "jobs" / job).unlink()
        (self.folder / "ends").unlink(missing_ok=True)
        if as_told:
            (self.folder / "ends").write_text(f"{as_told}\n")

    def asked(self) -> list[str]:
        """What scontrol was called with."""
        file = self.folder / "scontrol"
        return file.read_text().splitlines() if file.exists() else []

    def script(self, job: str) -> str:
        return (self.folder / f"{job.partition('_')[0]}.sh").read_text()

    def task(self, job: str) -> Task:
        """What was submitted."""
        [folder] = re.findall(r"submitit.core._submit (\S+)", self.script(job))
        with Path(folder, f"{job}_submitted.pkl").open("rb") as file:
            return pickle.load(file).function

    def run(self, job: str) -> subprocess.CompletedProcess[str]:
        """Run the batch script, as on a node."""
        self.becomes(job, "RUNNING")
        return subprocess.run(
            ["bash", "-c", self.script(job)],
            env=os.environ | self.environment(job),
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self, job: str) -> dict[str, str]:
        """What a job's processes find there."""
        array, _, index = job.partition("_")
        return {
            "SLURM_JOB_ID": array, "SLURMD_NODENAME": "node1", **({"SLURM_ARRAY_JOB_ID": array} if index else {}),
            **({"SLURM_ARRAY_TASK_ID": index} if index else {}),
        }  # fmt: skip
