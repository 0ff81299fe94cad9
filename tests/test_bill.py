"""What a plan is said to cost is what it costs: rates, hours, memory, and the form for a cluster."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import command, said, tiny

from wingspan import bill, costs, rate, slurm
from wingspan.costs import Bill, Line, draw_up
from wingspan.data.hub import Hub
from wingspan.data.scenes import Scenes
from wingspan.errors import UserError
from wingspan.forecast import forecast
from wingspan.measures.sparsity import Sparsity
from wingspan.objectives.byol import BYOL
from wingspan.objectives.simclr import SimCLR
from wingspan.pretrain import Pretrain, Sitting
from wingspan.rate import Rate, fit, training_flops
from wingspan.runs import RunFolder
from wingspan.sampling import Sampler, Sampling
from wingspan.study import Study, carry_out, plan, seeds, widths

CPU = Sitting(device="cpu")


def study(run: Pretrain, *seed: int, width: tuple[int, ...] = (8, 16)) -> Study:
    return Study("few", "How much?", run, {"seed": seeds(*(seed or (0,))), "width": widths(*width)}, (Sparsity(),))


def drawn(of: Study, out: Path, **more: object) -> Bill:
    return draw_up(of, out, CPU, 1, **more)  # type: ignore[arg-type]


@pytest.fixture
def no_timing(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("timed although the rate was known")

    monkeypatch.setattr(rate, "measured", refuse)


# ------------------------------------------------------------------------------------------------------------------- rate


def test_the_affine_rate_recovers_what_was_planted():
    flops = np.array([2e7, 5e7, 1e8, 4e9])
    found = fit([(f, 3e-4 + 2e-11 * f) for f in flops], "")
    assert found.fixed == pytest.approx(3e-4) and found.per_flop == pytest.approx(2e-11)
    assert found.seconds(1e9) == pytest.approx(3e-4 + 2e-2)


def test_no_part_of_a_rate_is_negative():
    falling = fit([(1e9, 2.0), (2e9, 1.0)], "")  # relative errors: 1/2 counts c/2 - 1, c/1 - 1 -> c = 1.5 / 1.25
    assert falling.per_flop == 0 and falling.fixed == pytest.approx(1.5 / 1.25)
    steep = fit([(1e9, 1.0), (2e9, 4.0)], "")  # slopes 1e-9 and 2e-9: b = sum(x) / sum(x^2) for x = flops / seconds
    assert steep.fixed == 0 and steep.per_flop == pytest.approx((1e9 + 0.5e9) / (1e18 + 0.25e18))
    lone = fit([(1e9, 3.0), (1e9, 3.0)], "")
    assert lone.fixed == 0 and lone.per_flop == pytest.approx(3e-9)


def test_training_flops_are_three_forward_passes_and_one_more_through_an_average():
    plain, averaged = tiny(objective=SimCLR()), tiny(objective=BYOL(hidden=20))
    own, more = forecast(plain, 16), forecast(averaged, 16)
    assert training_flops(plain, own) == 3 * own.forward_flops
    # what SimCLR sends forward is backbone and projector alone, as the average is
    assert training_flops(averaged, more) == pytest.approx(3 * more.forward_flops + own.forward_flops, rel=1e-3)


def test_steps_made_now_recover_what_each_image_costs(monkeypatch):
    """A step costs 0.2 s whatever its images and each view a + b FLOPs: a whole part is foretold from small ones."""
    cells = [(run, forecast(run, 16)) for run in (tiny(backbone__width=D, batch=1024, projector="") for D in (16, 4096))]
    asked = []

    def planted(run, state, runtime, images, n):
        asked.append(n)
        flops = training_flops(run, forecast(run, 16))
        return 0.2 + n * run.objective.views * (2e-3 + 1e-10 * flops)

    monkeypatch.setattr(rate, "_step_seconds", planted)
    found = rate.measured(cells, "cpu", 1)
    assert max(asked) < 1024
    for run, cost in cells:
        flops = training_flops(run, cost)
        assert found.seconds(flops) == pytest.approx(0.2 / (1024 * 2) + 2e-3 + 1e-10 * flops, rel=1e-6)


def test_real_steps_are_timed_and_leave_threads_and_randomness_alone():
    run = tiny(batch=8)
    before = torch.get_num_threads(), torch.get_rng_state()
    found = rate.measured([(run, forecast(run, 16))], "cpu", 1)
    assert found.fixed == 0 and 1e-6 < found.seconds(training_flops(run, forecast(run, 16))) < 1
    assert "1 cell, CPU with 1 thread a run, fp32" in found.basis
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_weights_that_do_not_fit_are_not_timed(monkeypatch):
    monkeypatch.setattr(rate, "free_bytes", lambda device: 1000)
    assert rate.measured([(tiny(), forecast(tiny(), 16))], "cpu", 1) is None


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf"])
def test_a_speed_that_is_none_is_refused(text, capsys):
    assert command("study", "scenes", "--scale", "smoke", "--dry-run", "--tflops", text) == 2
    assert f"--tflops {text} is no speed" in said(capsys)


def test_a_speed_without_a_dry_run_is_refused(tmp_path, capsys):
    assert command("study", "scenes", "--scale", "smoke", "--tflops", "150", "--out", tmp_path / "study") == 2
    assert "--tflops 150 is for planning alone" in said(capsys) and not (tmp_path / "study").exists()


# ------------------------------------------------------------------------------------------------------------------ costs


def test_hours_at_a_given_speed_in_closed_form(tmp_path, no_timing):
    run = tiny(data=Scenes(train=100, test=32, size=16), batch=16, epochs=3)
    found = drawn(study(run), tmp_path / "out", tflops=0.5)
    for line in found.lines:
        cost = forecast(line.cell.run, 16)
        assert line.left == pytest.approx(3 * (100 // 16) * 16 * 2 * 3 * cost.forward_flops / 0.5e12)
        assert line.memory == cost.weight_bytes + cost.activation_bytes
    assert found.left == pytest.approx(sum(line.left for line in found.lines)) == found.wall
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("imbalance", [1.0, 7.0])
def test_steps_are_those_of_the_loop(tmp_path, imbalance):
    run = tiny(data=Scenes(train=500, test=32, size=16, imbalance=2.0), sampling=Sampling(imbalance=imbalance), epochs=3)
    steps = 3 * Sampler(run.sampling, run.data.load("train"), run.batch, 0).steps_per_epoch
    (line,) = drawn(study(run, width=(8,)), tmp_path, tflops=1.0).lines
    assert line.left == pytest.approx(steps * 16 * 2 * training_flops(line.cell.run, line.cost) / 1e12)


def finish(line: Line, seconds: float, steps: int = 6) -> None:
    line.cell.folder.path.mkdir(parents=True)
    line.cell.folder.finished.write_text(json.dumps({"steps": steps, "seconds": seconds}))


def test_finished_runs_tell_the_rate(tmp_path, no_timing):
    """Two finished cells give their own pace to other seeds, and the line through them to a width between."""
    of = study(tiny(), 0, 1, width=(8, 64, 512))
    lines = draw_up(of, tmp_path, CPU, 1, tflops=1.0).lines
    flops = [training_flops(line.cell.run, line.cost) for line in lines[:3]]
    seconds = [6 * 16 * 2 * (1e-3 + 4e-9 * each) for each in flops]
    finish(lines[0], seconds[0])
    finish(lines[2], seconds[2])
    found = drawn(of, tmp_path)
    assert [line.left for line in found.lines] == pytest.approx([0, seconds[1], 0, seconds[0], seconds[1], seconds[2]])
    assert [line.spent for line in found.lines[:3]] == [seconds[0], 0, seconds[2]]
    assert found.rate.basis == "from 2 finished runs of this plan"
    assert [line.status for line in found.lines] == ["not measured", "not run"] * 2 + ["not run"] * 2
    finish(lines[1], 1000.0)  # far off any line: its own seeds go by it all the same
    assert drawn(of, tmp_path).lines[4].left == pytest.approx(1000.0)
    given = drawn(of, tmp_path, tflops=1.0)  # of another machine: what was slow here says nothing
    assert given.lines[3].left == pytest.approx(6 * 16 * 2 * flops[0] / 1e12)


def test_a_run_cut_half_way_has_half_its_hours_left(begun, tmp_path, no_timing):
    of = study(tiny(), width=(16,))
    whole = drawn(of, tmp_path, tflops=1e-3).left
    shutil.copytree(begun.path, plan(of, tmp_path)[0].folder.path)
    (line,) = drawn(of, tmp_path, tflops=1e-3).lines
    assert line.status == "cut short at 50 %" and line.left == pytest.approx(whole / 2) and line.spent > 0


def test_what_is_whole_costs_nothing(finished, tmp_path, no_timing, capsys):
    of = study(tiny(), width=(16,))
    shutil.copytree(finished.path, plan(of, tmp_path)[0].folder.path)
    assert carry_out(of, tmp_path, CPU, 1) == {}
    found = drawn(of, tmp_path)
    assert (found.left, found.lines[0].status, found.measuring.pairs) == (0, "done", 0)
    bill.show(found)
    assert "nothing is left to do" in (told := said(capsys)) and "memory " not in told.partition("runs ")[2]


def test_measuring_goes_by_what_was_timed(tmp_path, finished):
    of = study(tiny(), 0, 1, width=(16,))
    shutil.copytree(finished.path, plan(of, tmp_path)[0].folder.path)
    assert drawn(of, tmp_path, tflops=1.0).measuring.timed == 0
    assert carry_out(study(tiny(), width=(16,)), tmp_path, CPU, 1) == {}
    (file,) = plan(of, tmp_path)[0].folder.results.glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 5.0}))
    found = drawn(of, tmp_path, tflops=1.0).measuring
    assert (found.pairs, found.seconds, found.timed) == (1, 5.0, 1)


def test_images_that_nobody_knows_give_no_hours(tmp_path, no_timing, capsys):
    found = drawn(study(tiny(data=Hub(name="nobody/nothing", size=16))), tmp_path / "out")
    assert found.left is None and found.wall is None and {line.left for line in found.lines} == {None}
    assert all(line.memory > 0 for line in found.lines)
    bill.show(found)
    told = said(capsys)
    assert "nothing: unknown" in told and "training unknown" in told and not list(tmp_path.iterdir())


def test_runs_side_by_side(tmp_path):
    found = drawn(study(tiny(), width=(8, 64, 512)), tmp_path, tflops=1.0)
    lines = [replace(line, left=seconds) for line, seconds in zip(found.lines, (3.0, 1.0, 4.0), strict=True)]
    pair = replace(found, lines=lines, jobs=2)
    assert (pair.left, pair.wall) == (8.0, 5.0)  # 3 beside 1 + 4
    sizes = sorted(line.memory for line in lines)
    assert pair.memory == (sizes[2], sizes[1] + sizes[2])
    told = " ".join(bill._totals(replace(pair, free=sizes[2] + 1)))
    assert "more than the" in told and "--jobs 1" in told
    assert "more than the" not in " ".join(bill._totals(replace(pair, free=10**15)))


def test_of_many_runs_seeds_share_a_row(tmp_path, capsys):
    for repeats, rows in ((20, 40), (21, 2)):
        found = drawn(study(tiny(), *range(repeats)), tmp_path, tflops=1.0)
        bill.show(found)
        table = capsys.readouterr().err.partition("\nruns  ")[0]
        assert table.count("not run") == rows and table.count("x21 seeds") == (2 if rows == 2 else 0)
        assert f"{21} not run" in table or rows == 40
        assert found.left == pytest.approx(repeats * (found.lines[0].left + found.lines[1].left))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "unknown"), (42, "42 s"), (90, "1.5 min"), (750, "12 min"), (12_240, "3.4 h"), (4_334_400, "1,204 h (50 days)")],
)
def test_times_as_people_say_them(seconds, told):
    assert bill.spoken(seconds) == told


# ------------------------------------------------------------------------------------------------------------------ slurm


PAPER = ("study", "tab4", "--scale", "paper", "--widths", "512", "2048", "--objectives", "supervised", "--transfers", "a b/c")


def test_a_paper_plan_offers_a_script_that_bash_reads(tmp_path, monkeypatch, capsys):
    """Where no data is: nothing is written, and the hours are the closed form's for 1,281,167 images."""
    monkeypatch.chdir(tmp_path)
    assert command(*PAPER, "--dry-run", "--tflops", "150") == 0
    told = capsys.readouterr()
    assert not list(tmp_path.iterdir())
    assert subprocess.run(["bash", "-n"], input=told.out, text=True, check=False, capture_output=True).stderr == ""
    words = "wingspan study tab4 --scale paper --widths 512 2048 --objectives supervised --transfers 'a b/c'"
    assert f'\n{words} --part "$SLURM_ARRAY_TASK_ID/2" &\n' in told.out and told.out.rstrip().endswith(f"\n# {words}")
    assert "#SBATCH --array=1-2\n" in told.out and "placeholder" not in told.out
    assert "1,281,167 an epoch, as published" in told.err
    wide = next(cell.run for cell in plan_of_paper() if cell.run.backbone.D == 2048)
    seconds = 100 * (1_281_167 // 512) * 512 * 3 * forecast(wide, 224, "bf16").forward_flops / 150e12
    hours = math.ceil(1.5 * seconds / 3600)
    assert f"#SBATCH --time={hours:02d}:00:00\n" in told.out


def plan_of_paper():
    from wingspan.experiments import tab4

    return plan(tab4.study("paper").with_axis("objective", ("supervised",)), Path("nowhere"))


def test_hours_of_a_cpu_are_no_hours_of_a_cluster(tmp_path):
    found = replace(drawn(study(tiny()), tmp_path, tflops=1.0), cpu=True)
    text = bill.slurm_script(found, ["few"])
    assert "# A placeholder" in text and "--time=24:00:00" in text


def test_time_is_asked_for_in_slurm_s_way():
    def needs(hours: float) -> str:
        return slurm.script("x", ["x"], slurm.Needs(1, hours * 3600, 2**30, 2**30))

    assert "--time=01:00:00" in needs(0.1) and "--time=23:00:00" in needs(15) and "--time=1-13:00:00" in needs(24.5)
    assert "--mem=17G" in needs(1)


@pytest.mark.parametrize("status", [143, 0])
def test_a_task_whose_time_is_up_saves_and_is_queued_again_unless_it_was_done(tmp_path, status):
    """The script with stand-ins for wingspan, which notes how it is called and ends at SIGTERM, and for scontrol."""
    text = slurm.script("x", ["x", "--out", "a b"], slurm.Needs(3, None, 2**30, 2**30))
    (tmp_path / "job").write_text(text)
    stand_in = 'echo "$@" > called; trap "exit STATUS" TERM; touch ready; for i in $(seq 200); do sleep 0.05; done'
    for name, lines in (("wingspan", stand_in.replace("STATUS", str(status))), ("scontrol", 'echo "$@" > queued')):
        file = tmp_path / name
        file.write_text(f"#!/bin/bash\n{lines}\n")
        file.chmod(0o755)
    there = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "77"}
    process = subprocess.Popen(["bash", "job"], cwd=tmp_path, env=there)
    end = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == status
    assert (tmp_path / "called").read_text() == "study x --out a b --part 2/3\n"
    assert not status or (tmp_path / "queued").read_text() == "requeue 77\n"
    assert (tmp_path / "queued").exists() == (status == 143)


def test_a_task_that_fails_is_not_queued_again(tmp_path):
    (tmp_path / "wingspan").write_text("#!/bin/bash\nexit 2\n")
    (tmp_path / "wingspan").chmod(0o755)
    text = slurm.script("x", ["x"], slurm.Needs(3, None, 2**30, 2**30))
    there = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    assert subprocess.run(["bash", "-c", text], env=there, check=False).returncode == 2


def test_folders_of_runs_are_the_ones_a_study_would_use(tmp_path):
    found = drawn(study(tiny()), tmp_path, tflops=1.0)
    assert [line.cell.folder for line in found.lines] == [
        RunFolder(tmp_path / "runs" / cell.run.name) for cell in plan(study(tiny()), tmp_path)
    ]


def test_a_told_speed_is_a_rate_in_proportion():
    assert rate.told(2.0).seconds(4e12) == pytest.approx(2.0)
    with pytest.raises(UserError):
        rate.told(-1.0)
    assert isinstance(rate.told(2.0), Rate) and costs.total([1.0, None]) is None and costs.total([1.0, 2.0]) == 3.0
