"""What a user does with a study on Slurm, and what the cluster does to it; `run.sh` starts the cluster and calls this.

Not collected by pytest. The first thing that is not as it should be ends it with an AssertionError.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

STUDY = [
    *("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16"),
    *("--batch", "16", "--precision", "fp32", "--seeds", "0", "--measures", "linear_fast", "--save-seconds", "2"),
]
SLURM = [*("--where", "slurm", "--slurm.partition", "low", "--slurm.gpus", "0", "--slurm.cpus", "1", "--slurm.mem", "1500M")]
began = time.monotonic()


def wingspan(*words: object, ends: int = 0) -> str:
    """All that a command says."""
    line = [sys.executable, "-m", "wingspan.cli", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == ends, f"status {done.returncode}: {told}"
    assert "Traceback" not in told, told
    return told


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def jobs() -> list[str]:
    return slurm("squeue", "--noheader", "--array", "--partition", "low", "--format", "%i").split()


def until(what: str, true: Callable[[], object], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"in vain: {what}\n{slurm('squeue', '--array')}"
        time.sleep(0.5)


def said(text: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)


def runs(out: Path) -> list[Path]:
    return sorted((out / "runs").glob("*-*"))


def outcome(run: Path) -> dict[str, object]:
    file = run / "outcome.json"
    return json.loads(file.read_text()) if file.exists() else {"state": "", "job": "", "failures": 0}


def job(run: Path) -> str:
    return str(json.loads((run / "job.json").read_text())["job"])


def saved(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*"))


def sittings(run: Path) -> int:
    return len(json.loads((run / "provenance.json").read_text()))


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def refused() -> None:
    """sbatch's own words reach the user, and nothing is left behind."""
    told = wingspan(*STUDY, *SLURM, "--slurm.partition", "nowhere", "--widths", 8, "--out", "refused", ends=2)
    assert "invalid partition specified: nowhere" in told and "Nothing was submitted" in told, told
    assert not list(Path("refused").rglob("job.json")) and not list(Path("refused").rglob("*.pkl")) and not jobs()
    said("a partition that does not exist: sbatch's words, nothing submitted, nothing left")


def preempted() -> None:
    """Two launchers at once start each run once; a job whose node is taken goes on from its checkpoint to the same result."""
    out = Path("preempted")
    words = [*STUDY, "--epochs", "150", "--objectives", "simclr", "--widths", "8", "16", "--out", out]
    line = [sys.executable, "-m", "wingspan.cli", *map(str, [*words, *SLURM])]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    told = [each.communicate()[0] for each in both]
    assert sorted(each.returncode for each in both) in ([0, 0], [0, 2]), told
    assert sum("Submitted 2 jobs" in each for each in told) == 1, told
    assert len(jobs()) == 2, jobs()
    said("two commands at the same moment: two runs, two jobs")
    until("both runs save", lambda: len(runs(out)) == 2 and all(saved(run) for run in runs(out)))
    told = wingspan(*words, *SLURM)
    assert "Submitted" not in told and "2 runs: 2 running" in told and len(jobs()) == 2, told
    told = wingspan(*words, *SLURM, "--status")
    assert told.count("running") >= 2 and "on one, training" in told and "%" in told, told
    print(told)
    said("the command again submits nothing; --status tells progress and time left")
    (run,) = (run for run in runs(out) if outcome(run)["node"] == "one")
    slurm("sbatch", "--partition", "high", "--nodelist", "one", "--output", "/dev/null", "--wrap", "sleep 3")
    until("the job saves itself", lambda: outcome(run)["state"] == "saved")
    told = wingspan(*words, *SLURM)
    assert "Submitted" not in told, told
    until("both runs are done", lambda: all(outcome(each)["state"] == "done" for each in runs(out)))
    assert sittings(run) == 2 and outcome(run)["failures"] == 0, outcome(run)
    until("the queue is empty", lambda: not jobs())
    assert "2 runs: 2 done; 2 of 2 measurements made" in wingspan(*words, *SLURM, "--status")
    assert not (out / "report.html").exists()
    wingspan(*words, *SLURM)
    assert (out / "report.html").exists()
    alone = [*words[:-1], "alone", "--jobs", "1", "--device", "cpu"]
    wingspan(*alone)
    pd.testing.assert_frame_equal(*(pd.read_parquet(each / "results.parquet") for each in (out, Path("alone"))))
    assert [losses(each) for each in runs(out)] == [losses(each) for each in runs(Path("alone"))]
    said("preempted: saved, queued again by Slurm, done; losses and results are those of an undisturbed run to the last bit")


def out_of_time(out: Path) -> list[object]:
    """A limit of two minutes for a run that takes longer."""
    words = [*STUDY, *SLURM, "--slurm.time", "2", "--epochs", "300", "--objectives", "simclr", "--widths", "8", "--out", out]
    assert "Submitted 1 job:" in wingspan(*words)
    return words


def killed(out: Path) -> None:
    """A job that dies without a word is queued again once, then reported, and left alone until --slurm.again."""
    words = [*STUDY, *SLURM, "--epochs", "80", "--objectives", "simclr", "--widths", "16", "--out", out, "--slurm.retries", "1"]
    assert "Submitted 1 job:" in wingspan(*words)
    (run,) = runs(out)
    for failures in (1, 2):
        until("it trains", lambda: outcome(run)["state"] == "running" and saved(run) and trains(run))
        os.kill(trains(run), signal.SIGKILL)
        until("the death is noted", lambda: outcome(run)["failures"] == failures)  # noqa: B023 - used at once
        said(f"killed {failures} of 2 times: noted")
    until("the job is gone", lambda: job(run) not in jobs())
    told = wingspan(*words, "--status", ends=2)
    assert "failed 2 times (--slurm.retries 1): its process was ended by SIGKILL" in " ".join(told.split()), told
    assert "the end of" in told and "not queued again" in told, told
    print(told)
    told = wingspan(*words, ends=2)
    assert "Submitted" not in told and job(run) not in jobs(), told
    assert "Submitted 1 job:" in wingspan(*words, "--slurm.again", ends=0)
    said("after its retries it is reported with its log's end, and left alone until --slurm.again")
    until("it trains", lambda: outcome(run)["state"] == "running" and trains(run))
    slurm("scancel", job(run))
    until("it ends", lambda: job(run) not in jobs())
    assert outcome(run)["state"] in ("saved", "running") and outcome(run)["failures"] == 0
    told = wingspan(*words, "--status")
    assert "stopped" in told and "CANCELLED" in told, told
    before = job(run)
    assert "Submitted 1 job:" in wingspan(*words) and job(run) != before
    said("cancelled by scancel: stays stopped, and the command goes on with it")
    until("it is done", lambda: outcome(run)["state"] == "done")


def spread() -> None:
    """One run over two nodes, a process each; told that its time is up, both stop at the same step and it is queued again."""
    here = ["--slurm.nodes", "2", "--slurm.lines", "export MASTER_ADDR=127.0.0.1"]  # no name server knows these nodes
    out = Path("spread")
    words = [*STUDY, *SLURM, *here, "--epochs", "60", "--objectives", "simclr", "--widths", "8", "--out", out]
    assert "Submitted 1 job:" in wingspan(*words)
    (run,) = runs(out)
    until("it trains", lambda: outcome(run)["state"] == "running" and saved(run))
    assert slurm("squeue", "--noheader", "--jobs", job(run), "--format", "%D %N").split() == ["2", "one,two"]
    slurm("scancel", "--signal", "USR1", job(run))
    until("it saves", lambda: outcome(run)["state"] == "saved")
    until("it is done", lambda: outcome(run)["state"] == "done")
    steps = [step for step, _ in losses(run)]
    assert steps == list(range(1, len(steps) + 1)) and sittings(run) == 2 and outcome(run)["failures"] == 0
    assert len(list((out / "slurm").glob("*_log.out"))) == 2  # one a process
    said("a run over two nodes: both processes save and stop together, and it goes on to its end")


def trains(run: Path) -> int:
    """The process that holds the run's metrics open; 0: none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(file.resolve() == (run / "metrics.jsonl").resolve() for file in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return 0


def main(work: str) -> None:
    os.chdir(work)
    refused()
    preempted()
    words = out_of_time(Path("long"))
    killed(Path("killed"))
    (run,) = runs(Path("long"))
    until("the long run is done", lambda: outcome(run)["state"] == "done", 400)
    assert sittings(run) > 1 and outcome(run)["failures"] == 0, outcome(run)
    steps = [step for step, _ in losses(run)]
    assert steps == list(range(1, len(steps) + 1))
    until("the queue is empty", lambda: not jobs())
    wingspan(*words)
    assert (Path("long") / "report.html").exists()
    said(f"a limit of two minutes: saved before it, queued again, done in {sittings(run)} jobs, every step once")
    spread()


if __name__ == "__main__":
    main(sys.argv[1])
