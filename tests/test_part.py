"""Parts of a plan: together the plan, none shared, and the page is drawn by the command without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import command, said, tiny

from wingspan.errors import UserError
from wingspan.measures.sparsity import Sparsity
from wingspan.study import Part, Study, plan, seeds, widths

WORDS = [
    *("study", "scenes", "--scale", "smoke", "--data.train", "64", "--data.test", "32", "--data.size", "16"),
    *("--epochs", "1", "--batch", "32", "--precision", "fp32", "--seeds", "0", "--jobs", "1"),
    *("--objectives", "simclr", "--widths", "8", "16", "24"),
]


@pytest.mark.parametrize("parts", [1, 2, 4, 6, 9])
def test_parts_are_the_plan_and_share_nothing(parts, tmp_path):
    study = Study("few", "?", tiny(), {"seed": seeds(0, 1), "width": widths(8, 16, 24)}, (Sparsity(),))
    cells = plan(study, tmp_path)
    taken = [cell.run.name for number in range(parts) for cell in Part(number + 1, parts).of(cells)]
    assert sorted(taken) == sorted(cell.run.name for cell in cells) and len(set(taken)) == 6
    sizes = [len(Part(number + 1, parts).of(cells)) for number in range(parts)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "3", "1/0", "/4", "-1/4", "1/2/3", "1.5/2", "²/3", ""])
def test_what_is_no_part_is_quoted(text, tmp_path, capsys):
    with pytest.raises(UserError, match="is no part"):
        Part.read(text)
    assert command(*WORDS, "--out", tmp_path / "study", f"--part={text}") == 2
    assert f"--part '{text}' is no part: write 3/8" in said(capsys) and not (tmp_path / "study").exists()


def made(out: Path) -> dict[str, int]:
    files = [*out.rglob("done.json"), *out.rglob("*.safetensors"), *out.rglob("results/*.json")]
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in files}


def test_parts_do_the_work_and_the_whole_command_draws_the_page(tmp_path, capsys):
    out = tmp_path / "study"
    told = []
    for part in ("2/2", "1/2"):
        assert command(*WORDS, "--part", part, "--out", out) == 0
        assert sorted(path.name for path in out.iterdir()) == ["runs"]  # no page, no table
        told.append(said(capsys))
    again = " ".join(["wingspan", *WORDS, "--out", str(out)])
    assert f"part 2 of 2: 1 run done; when all parts are done: {again}" in told[0]
    assert f"part 1 of 2: 2 runs done; when all parts are done: {again}" in told[1]
    before = made(out)
    assert len(before) == 3 * 3
    assert command(*WORDS, "--out", out) == 0
    assert made(out) == before
    assert (out / "report.html").exists() and (out / "results.parquet").exists()


def test_a_part_with_a_failed_run_says_so(tmp_path, capsys):
    out = tmp_path / "study"
    assert command(*WORDS, "--dry-run", "--tflops", "1", "--part", "2/3", "--out", out) == 0
    (row,) = [line for line in capsys.readouterr().err.splitlines() if "not run" in line]
    (out / "runs").mkdir(parents=True)
    study_words = [*WORDS, "--out", out]
    assert command(*study_words, "--part", "2/3") == 0  # makes the folder's name known
    (done,) = (out / "runs").iterdir()
    assert done.name.endswith(row.split()[0])
    for file in sorted(done.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    done.rmdir()
    done.write_text("a file where the run's folder should be")
    capsys.readouterr()
    assert command(*study_words, "--part", "2/3") == 2
    assert "part 2 of 3: 0 runs done, 1 failed" in said(capsys)
