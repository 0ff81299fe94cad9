"""`wingspan study --where slurm` and `--status`: what is submitted, what never twice, and what is told of it."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_slurm import Cluster
from tiny_runs import command, cut, said, tiny

from wingspan import jobs, launch, standing
from wingspan.errors import UserError
from wingspan.jobs import Outcome
from wingspan.loop import pretrain
from wingspan.measures.sparsity import Sparsity
from wingspan.pretrain import Sitting
from wingspan.runs import RunFolder, write_json
from wingspan.slurm import Slurm, minutes
from wingspan.study import Study, carry_out, plan, widths

WORDS = [
    *("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16"),
    *("--epochs", "1", "--batch", "32", "--precision", "fp32", "--seeds", "0", "--objectives", "simclr"),
    *("--measures", "sparsity"),
]
ASK = ["--where", "slurm", "--slurm.gpus", "0", "--slurm.cpus", "1"]


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Cluster:
    return Cluster.make(tmp_path / "slurm", monkeypatch)


def few(*D: int) -> Study:
    return Study("few", "?", tiny(), {"width": widths(*D)}, (Sparsity(),))


def submitted(study: Study, out: Path, **asked: object) -> list[standing.Standing]:
    return launch.launch(study, out, Sitting(), Slurm(gpus=0, cpus=1, **asked))  # type: ignore[arg-type]


def states(study: Study, out: Path) -> list[str]:
    return [each.state for each in standing.standings(study, out)]


def outcome(study: Study, out: Path, at: int, **facts: object) -> None:
    """What a job would have left of the run at a place of the plan."""
    folder = plan(study, out)[at].folder
    given = jobs.ticket(folder)
    assert given is not None
    left = Outcome(given.token, given.job, **{"state": "running", **facts})  # type: ignore[arg-type]
    write_json(folder.path / "outcome.json", dataclasses.asdict(left))


# --------------------------------------------------------------------------------------------------------------- submitting


def test_every_run_is_a_job_of_one_array_and_none_is_submitted_twice(cluster, tmp_path):
    study = few(8, 16, 24)
    assert [each.state for each in submitted(study, tmp_path / "out")] == ["queued"] * 3
    assert cluster.ids() == ["101_0", "101_1", "101_2"]
    cluster.becomes("101_0", "RUNNING")
    assert [each.state for each in submitted(study, tmp_path / "out")] == ["running", "queued", "queued"]
    assert len(cluster.ids()) == 3
    assert [each.state for each in submitted(few(8, 32), tmp_path / "out")] == ["running", "queued"]
    assert cluster.ids()[3:] == ["102"]  # one alone is no array
    task = cluster.task("101_1")
    assert task.cell.run.backbone.D == 16 and task.sitting.device == "cpu" and len(task.pairs) == 1


def test_studies_that_share_runs_do_not_submit_each_other_s(cluster, tmp_path):
    one, other = (dataclasses.replace(few(8), name=name, runs=tmp_path / "runs") for name in ("one", "other"))
    submitted(one, tmp_path / "one")
    assert [each.job for each in submitted(other, tmp_path / "other")] == ["101"] and cluster.ids() == ["101"]


def test_what_a_job_asks_for(cluster, tmp_path):
    asked = {
        "partition": "long", "account": "me", "qos": "low", "constraint": "a100|h100", "nodes": 2, "gpus": 4, "cpus": 6,
        "mem": "64G", "time": "1-12", "array_parallelism": 2, "lines": ("module load cuda", "#SBATCH --reservation=course"),
    }  # fmt: skip
    launch.launch(few(8, 16, 24), tmp_path / "out", Sitting(), Slurm(**asked))
    script = cluster.script("101")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    wanted = {
        "partition": "long", "account": "me", "qos": "low", "constraint": "'a100|h100'", "nodes": "2", "gpus-per-node": "4",
        "ntasks-per-node": "4", "cpus-per-task": "6", "mem": "64G", "time": "2160", "array": "0-2%2", "reservation": "course",
        "signal": "USR1@120", "requeue": "", "open-mode": "append", "job-name": "wingspan-few",
    }  # fmt: skip
    assert {name: options.get(name) for name in wanted} == wanted and "wckey" not in options
    assert script.index("#SBATCH --reservation") < script.index("module load")  # sbatch reads options up to the first command
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands[0] == "module load cuda" and f"{sys.executable} -u -m submitit" in commands[2]
    assert "srun" in commands[2] and "--cpus-per-task=6 --open-mode=append --kill-on-bad-exit=1" in commands[2]
    assert cluster.task("101_0").sitting.device == "cuda"  # a node whose GPU cannot be used is an error, no slow run


def test_memory_follows_from_the_largest_run(cluster, tmp_path):
    wide = dataclasses.replace(few(8, 32768), base=tiny(projector="8192-8192"))
    weights = 4 * (32768 * 8192 + 8192 * 8192) / 2**30  # GiB of the projector alone
    assert launch.options(few(8, 16), tmp_path, Slurm())["mem"] == "17G"
    assert int(launch.options(wide, tmp_path, Slurm())["mem"][:-1]) >= 16 + 3 * weights  # with gradients and the optimiser
    assert launch.options(few(8), tmp_path, Slurm(gpus=4))["mem"] == "68G"


def test_a_submission_that_is_refused_quotes_sbatch_and_leaves_nothing(cluster, tmp_path):
    study, out = few(8, 16), tmp_path / "out"
    with pytest.raises(UserError, match="sbatch refused the jobs: sbatch: error: invalid partition specified: nowhere"):
        submitted(study, out, partition="nowhere")
    assert not list(out.rglob("job.json")) and not list((out / "slurm").iterdir()) and not cluster.ids()
    submitted(study, out)
    for job in cluster.ids():
        cluster.ends(job)
    before = [jobs.ticket(cell.folder) for cell in plan(study, out)]
    with pytest.raises(UserError, match="refused"):
        submitted(study, out, partition="nowhere")
    assert [jobs.ticket(cell.folder) for cell in plan(study, out)] == before


def test_a_command_that_is_killed_once_sbatch_took_its_jobs_starts_none_twice(cluster, tmp_path):
    """What sbatch answered is lost; the jobs are known by the token in their comment."""
    (cluster.folder / "mute").touch()
    line = [*WORDS, *ASK, "--widths", "8", "16", "--out", str(tmp_path / "out")]
    program = f"import sys; from wingspan import cli; sys.exit(cli.run({line!r}))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == -9
    (cluster.folder / "mute").unlink()
    assert len(cluster.ids()) == 2
    assert command(*line) == 0 and len(cluster.ids()) == 2
    for job in cluster.ids():
        cluster.ends(job)
    assert command(*line) == 0 and cluster.ids() == ["102_0", "102_1"]


def test_only_one_command_at_a_time_submits(cluster, tmp_path):
    with RunFolder(tmp_path / "out/runs").lock(), pytest.raises(UserError, match="another command is submitting runs"):
        submitted(few(8), tmp_path / "out")
    assert not cluster.ids()


def test_what_another_process_trains_is_not_submitted(cluster, tmp_path):
    study = few(8, 16)
    with plan(study, tmp_path)[0].folder.lock():
        assert [each.state for each in submitted(study, tmp_path)] == ["running", "queued"]
    assert cluster.ids() == ["101"]


def test_no_jobs_where_slurm_does_not_answer_or_is_not_there(cluster, tmp_path, monkeypatch):
    submitted(few(8), tmp_path / "out")
    (cluster.folder / "down").touch()
    with pytest.raises(UserError, match=r"squeue could not tell.*Unable to contact slurm controller"):
        submitted(few(8, 16), tmp_path / "out")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch was not found on PATH"):
        submitted(few(8), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'wingspan\[slurm\]'"):
        submitted(few(8), tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------ where runs stand


@pytest.mark.parametrize(
    ("left", "sacct", "state", "told"),
    [
        (None, "", "stopped", "before it began"),
        ({"state": "running"}, "OUT_OF_MEMORY", "failed", "ended as OUT_OF_MEMORY without a word"),
        ({"state": "running"}, "", "failed", "its job ended without a word"),
        ({"state": "running"}, "CANCELLED by 1000", "stopped", "CANCELLED by 1000"),
        ({"state": "saved"}, "PREEMPTED", "stopped", "PREEMPTED"),
        ({"state": "failed", "failures": 3, "message": "no such photos"}, "FAILED", "failed", "no such photos"),
        ({"state": "done"}, "COMPLETED", "not measured", ""),
    ],
)
def test_a_job_that_is_gone_is_told_by_what_it_left(left, sacct, state, told, cluster, tmp_path):
    study = few(8)
    submitted(study, tmp_path)
    if left is not None:
        outcome(study, tmp_path, 0, **left)
    cluster.ends("101", sacct)
    (found,) = standing.standings(study, tmp_path)
    assert found.state == state and told in f"{found.note} {found.message}"


def test_failures_are_counted_over_jobs_and_then_left_alone_until_again(cluster, tmp_path):
    study = few(8)
    for job in ("101", "102"):  # two deaths that nobody was left to speak of
        (found,) = submitted(study, tmp_path, retries=1)
        assert found.state == "queued" and found.job == job
        outcome(study, tmp_path, 0, failures=found.failures)
        cluster.ends(job)
    (found,) = submitted(study, tmp_path, retries=1)
    assert found.state == "failed" and found.failures == 2 and not cluster.ids()
    (found,) = submitted(study, tmp_path, retries=1, again=True)
    assert found.state == "queued" and found.failures == 0 and cluster.ids() == ["103"]


def test_a_job_that_was_cancelled_is_no_failure_and_goes_on(cluster, tmp_path):
    study = few(8)
    submitted(study, tmp_path)
    outcome(study, tmp_path, 0, state="saved")
    cluster.ends("101", "CANCELLED by 0")
    (found,) = submitted(study, tmp_path, retries=0)
    assert found.state == "queued" and found.failures == 0


def test_status_tells_progress_time_left_and_the_end_of_a_failed_run_s_log(cluster, tmp_path, capsys):
    words = [*WORDS, *ASK, "--widths", "8", "16", "24", "--out", tmp_path / "out"]
    assert command(*words) == 0
    assert f"Next: wingspan {shlex.join(map(str, words))} --status" in said(capsys)
    runs = {int(re.search(r"-D(\d+)-", each.name)[1]): each for each in (tmp_path / "out/runs").glob("*-*")}
    cluster.becomes("101_0", "RUNNING", node="gpu7")
    (runs[8] / "metrics.jsonl").write_text('{"step": 3, "progress": 0.25, "seconds_left": 200.0, "loss": 1}\n')
    given = jobs.ticket(RunFolder(runs[24]))
    left = Outcome(given.token, "101_2", "failed", "gpu8", 3, "no such photos")
    write_json(runs[24] / "outcome.json", dataclasses.asdict(left))
    Path(given.log.format(job="101_2")).write_text("".join(f"line {at}\n" for at in range(30)))
    cluster.ends("101_2")
    assert command(*words, "--status") == 2  # something failed
    told = said(capsys)
    assert "running 25 % 3 min 20 s 101_0 on gpu7, training" in told and "queued 101_1 Resources" in told
    assert "failed 3 times (--slurm.retries 2): no such photos" in told and "line 29" in told and "line 17 " not in told
    assert "3 runs: 1 running, 1 queued, 1 failed; 0 of 3 measurements made; training has 3 min 20 s left" in told
    (cluster.folder / "down").touch()
    assert command(*words, "--status") == 2
    told = said(capsys)
    assert "Unable to contact slurm controller" in told and "as last heard" in told


def test_status_of_runs_here(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # and Slurm is not asked
    study = few(8, 16, 24, 32)
    _, begun, trained, _ = plan(study, tmp_path)
    assert carry_out(few(8), tmp_path, Sitting(), jobs=1) == {}
    cut(begun.run, begun.folder.path, 3, monkeypatch)
    pretrain(trained.run, trained.folder.path)
    found = standing.standings(study, tmp_path)
    assert [each.state for each in found] == ["done", "stopped", "not measured", "not run"]
    assert [each.progress for each in found] == [1.0, 0.5, 1.0, 0.0] and found[1].left is not None
    with begun.folder.lock():
        assert states(study, tmp_path)[1] == "running"
    standing.show(study, tmp_path)
    told = said(capsys)
    assert "4 runs: 1 done, 1 stopped, 1 not measured, 1 not run; 1 of 4 measurements made" in told and "stopped 50 %" in told


# ----------------------------------------------------------------------------------------------------------- from end to end


def test_jobs_do_the_work_and_the_command_given_again_draws_the_page(cluster, tmp_path, capsys):
    out = tmp_path / "out"
    words = [*WORDS, *ASK, "--widths", "8", "16", "--slurm.retries", "0", "--out", out]
    assert command(*words) == 0 and not (out / "report.html").exists()
    ran = cluster.run("101_0")
    assert ran.returncode == 0, ran.stderr
    cluster.ends("101_0")
    (cluster.folder / "dies").write_text("137")  # the other is killed before it can say anything
    ran = cluster.run("101_1")
    assert ran.returncode == 137 and "Failure 1, --slurm.retries 0: not queued again." in ran.stdout, ran.stdout + ran.stderr
    cluster.ends("101_1")
    said(capsys)
    assert command(*words) == 2 and not cluster.ids()
    told = said(capsys)
    assert "its process was ended by SIGKILL" in told and "--slurm.again" in told and f"Wrote {out}/report.html" in told
    assert set(pd.read_parquet(out / "results.parquet").width) == {8}
    assert "failed: its process was ended by SIGKILL" in (out / "report.html").read_text()


# ----------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("time", "told"),
    [("90", 90), ("12:00:00", 720), ("2-00:00:00", 2880), ("1-12", 2160), ("1-12:30", 2190), ("5:30", 6), ("0:30", 1)],
)
def test_time_limits_are_read_as_slurm_reads_them(time, told):
    assert minutes(time) == told


@pytest.mark.parametrize("time", ["", "a day", "24h", "0", "1:2:3:4", "-5"])
def test_what_is_no_time_limit_is_quoted(time):
    with pytest.raises(UserError, match=f"--slurm.time '{time}'"):
        Slurm(time=time)


def test_short_jobs_are_told_of_their_end_later():
    assert [Slurm(time=time).lead for time in ("1", "2", "8", "24:00:00")] == [15, 30, 120, 120]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--slurm.partition", "gpu"], "--slurm.* was given (partition: '' -> 'gpu'): add --where slurm"),
        (["--where", "slurm", "--part", "1/2"], "--part 1/2 is for jobs that you submit yourself"),
        (["--where", "slurm", "--jobs", "2"], "on Slurm it is --slurm.array-parallelism"),
        (["--where", "slurm", "--slurm.mem", "lots"], "--slurm.mem 'lots' is no amount of memory"),
        (["--where", "slurm", "--slurm.nodes", "0"], "--slurm.nodes 0 must be at least 1"),
    ],
)
def test_words_that_do_not_fit_are_quoted(words, told, cluster, tmp_path, capsys):
    assert command(*WORDS, "--widths", "8", "--out", tmp_path / "out", *words) == 2
    assert told in said(capsys) and not cluster.ids() and not (tmp_path / "out").exists()


def test_a_plan_tells_what_jobs_would_ask_for(tmp_path, capsys):
    words = [*WORDS, "--widths", "8", "--dry-run", "--tflops", "1", "--out", tmp_path / "out"]
    assert command(*words, "--where", "slurm", "--slurm.partition", "long", "--slurm.gpus", "2") == 0
    told = said(capsys)
    assert "each asks for nodes 1 x 2 GPUs, 8 cores a process, 34G a node, 24:00:00 at a time, partition long" in told
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------- cluster.md


DOCS = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()


def test_the_page_tells_of_every_option_and_of_no_other():
    told = {name.replace("-", "_") for name in re.findall(r"--slurm\.([a-z-]+)", DOCS)}
    assert told == {field.name for field in dataclasses.fields(Slurm)}


def test_the_commands_of_the_page_are_read(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "me")
    lines = "\n".join(line[4:] for line in DOCS.splitlines() if line.startswith("    "))
    given = re.search(r'^STUDY="[^"]*"\nJOBS="[^"]*"$', lines, re.MULTILINE)
    commands = re.findall(r"^wingspan (study scenes .*|study \$STUDY \$JOBS --status)", lines, re.MULTILINE)
    assert given is not None and len(commands) == 3
    for line in commands:
        shell = f"{given[0]}\nset -f\nprintf '%s\\n' {line.partition('#')[0]}"
        words = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split()
        assert command(*words) == 0, said(capsys)
    assert "32 runs: 32 not run" in said(capsys) and len(cluster.ids()) > 0
