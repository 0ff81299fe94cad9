"""The paper's numbers, cell by cell: a copy of the tables' lines, read by another way than the file was made."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from wingspan.errors import UserError
from wingspan.experiments import _paper

TEXT = Path(_paper.__file__).parents[3] / "shared" / "paper" / "expand_or_narrow.txt"
CSV = Path(_paper.__file__).parent / "paper.csv"
# The lines of the tables in the paper's text, with runs of tabs as one blank.
LINES = {
    "tab1": """
Nb. of Dims. 0 32 8192 16384
ImageNet Val. Acc 46.7 67.4 65.5 65.3
Inat Val. Acc 4.1 27.76 23.9 23.9
""",
    "tab2": """
512 2048 8192 32768
Supervised -6.54 -2.65 -0.84 -0.5
SimCLR -14.09 -11.0 -9.2 -7.5
VICReg -17.28 -14.5 -11.9 -9.8
""",
    "tab3": """
512 2048 4096 8192 32768
Supervised 55.25 51.53 49.66 48.66 47.64
VICReg 21.95 25.8 28.09 30.09 31.92
SimCLR 21.20 25.33 28.10 31.32 35.03
""",
    "tab4": """
Dataset Model Backbone Dimension
512 2048 4096 8192 15360 32768
IN1k 10% SimCLR 51.36 54.31 55.55 56.51 57.18 58.33
VICReg 54.72 57.96 59.13 59.88 60.38 60.45
Byol 43.11 45.94 47.71 47.95 50.61 52.37
Supervised 73.12 71.36 70.13 69.27 68.58 67.99
CIFAR10 SimCLR 77.04 80.92 82.45 82.66 83.54 85.08
VICReg 76.76 81.09 83.2 85.25 85.77 86.7
Byol 68.76 72.62 75.21 75.32 78.41 78.71
Supervised 77.19 82.84 84.96 86.83 88.63 89.38
CLEVR SimCLR 43.43 46.85 48.06 50.13 51.59 53.72
VICReg 42.12 44.75 46.96 48.03 50.92 52.75
Byol 38.56 40.35 40.47 45.44 47.93
Supervised 41.74 46.37 50.21 51.97 53.15 54.38
Places SimCLR 46.62 50.77 52.59 53.61 54.63 55.54
VICReg 46.8 50.97 52.74 54.22 55.17 55.96
Byol 44.13 48.36 50.18 50.72 52.57 53.39
Supervised 47.98 51.9 53.53 54.3 55.09 55.65
Eurosat SimCLR 87.26 88.52 88.2 89.96 90.16 91.68
VICReg 86.14 89.96 90.88 92.04 93.04 93.16
Byol 78.74 84.04 85.48 86.3 88.1 88.28
Supervised 84.46 88.82 91.54 93.64 94.96 95.92
""",
    "tab5": """
Dim Dim original m-next m-next m-rand
512 92.5 78.2 66.9 70.7 78.0
2048 91.7 74.2 64.3 66.8 75.8
4096 91.8 72.2 63.4 65.2 74.8
10240 90.1 71.5 61.3 63.7 73.4
32768 90.0 70.0 59.7 62.5 71.7
""",
    "tab6": """
No-Proj Linear (32) Linear (8192) Linear (16834)
46.7 67.4 65.5 65.3
nonlinear (128-128-128) nonlinear (32-8192) nonlinear (32-8192-8192) nonlinear (8192-8192-32)
65.1 67.4 68.9 70.1
""",
    "tab7": """
Dataset Model Backbone Dimension
Dataset Model 512 1024 2048 4096 8192 10240 12288 15360 20480 32768
Imagenet SimCLR 61.85 64.41 66.28 68.11 69.22 69.68 69.9 70.09 70.51 71.08
VICReg 63.81 66.35 68.34 70.01 71.22 71.37 71.75 71.84 71.95 72.21
Byol 57.82 60.68 62.89 64.76 65.59 66.38 66.68 67.47 68.4 68.07
Supervised 76.24 76.0 75.47 75.23 75.03 75.07 74.91 74.82 74.78 74.69
Imagenet 10% SimCLR 51.36 53.13 54.31 55.55 56.51 56.71 56.75 57.18 57.39 58.33
VICReg 54.72 56.7 57.96 59.13 59.88 60.08 60.49 60.38 60.3 60.45
Byol 43.11 44.81 45.94 47.71 47.95 49.35 49.57 50.61 52.9 52.37
Supervised 73.12 72.32 71.36 70.13 69.27 68.93 68.69 68.58 68.27 67.99
Imagenet 1% SimCLR 28.85 30.21 31.41 32.19 33.0 33.12 33.46 33.75 34.25 35.3
VICReg 33.33 34.46 34.98 35.92 36.51 36.44 36.67 36.8 36.67 37.05
Byol 21.63 23.74 25.18 27.2 28.99 29.46 30.08 30.9 32.24 33.58
Supervised 56.38 55.36 54.06 51.98 50.24 49.51 49.25 48.86 48.27 47.88
CIFAR10 SimCLR 77.04 79.26 80.92 82.45 82.66 83.42 83.75 83.54 84.01 85.08
VICReg 76.76 79.84 81.09 83.2 85.25 85.1 86.1 85.77 86.07 86.7
Byol 68.76 71.13 72.62 75.21 75.32 76.81 77.05 78.41 78.93 78.71
Supervised 77.19 80.42 82.84 84.96 86.83 87.41 87.7 88.63 88.74 89.38
CIFAR100 SimCLR 51.86 54.75 57.07 59.61 59.7 60.81 61.27 61.32 61.83 63.21
VICReg 51.93 54.77 58.47 61.01 63.94 63.69 64.69 65.47 65.12 66.9
Byol 41.19 44.31 47.1 49.96 50.34 52.1 52.72 54.0 54.65 54.68
Supervised 52.94 58.06 62.03 64.49 67.93 69.11 69.88 71.02 71.42 72.62
CLEVR-D SimCLR 43.43 44.74 46.85 48.06 50.13 50.59 49.91 51.59 51.73 53.72
VICReg 42.12 41.97 44.75 46.96 48.03 49.74 49.73 50.92 51.09 52.75
Byol 36.41 38.27 38.56 40.35 40.47 42.0 42.91 45.44 45.94 47.93
Supervised 41.74 44.63 46.37 50.21 51.97 52.33 52.31 53.15 53.11 54.38
CLEVR-C SimCLR 44.78 46.73 47.84 48.88 49.98 50.94 51.03 51.13 49.86 51.09
VICReg 42.35 44.28 46.77 48.77 49.17 50.81 50.77 51.95 52.17 52.07
Byol 35.73 37.92 38.31 38.42 38.73 39.95 42.22 44.27 44.17 44.51
Supervised 40.09 45.79 48.37 51.87 51.88 53.43 53.31 54.76 55.0 55.32
Places SimCLR 46.62 49.0 50.77 52.59 53.61 54.04 54.17 54.63 54.83 55.54
VICReg 46.8 49.0 50.97 52.74 54.22 54.48 54.9 55.17 55.49 55.96
Byol 44.13 46.37 48.36 50.18 50.72 51.44 51.94 52.57 53.34 53.39
Supervised 47.98 50.03 51.9 53.53 54.3 54.46 55.03 55.09 55.49 55.65
Eurosat SimCLR 87.26 88.58 88.52 88.2 89.96 89.7 89.8 90.48 90.16 91.68
VICReg 86.14 89.1 89.96 90.88 92.04 92.34 91.68 93.04 92.52 93.16
Byol 78.74 83.0 84.04 85.48 86.3 86.3 86.52 88.1 87.8 88.28
Supervised 84.46 87.2 88.82 91.54 93.64 94.44 94.42 94.96 95.32 95.92
""",
}
METHODS = {"SimCLR": "simclr", "VICReg": "vicreg", "Byol": "byol", "Supervised": "supervised"}
TASKS = {
    "ImageNet Val. Acc": "imagenet1k", "Inat Val. Acc": "inat18",
    "IN1k 10%": "imagenet1k-10%", "CLEVR": "clevr-distance",
    "Imagenet": "imagenet1k", "Imagenet 10%": "imagenet1k-10%", "Imagenet 1%": "imagenet1k-1%", "CIFAR10": "cifar10",
    "CIFAR100": "cifar100", "CLEVR-D": "clevr-distance", "CLEVR-C": "clevr-count", "Places": "places205", "Eurosat": "eurosat",
}  # fmt: skip
NINE = [f"imagenet9-{name}" for name in ("original", "column3", "mixed_next", "mixed_rand", "column6")]
EVERY = {"pretrained_on": "imagenet1k", "D": "", "projector": "", "setting": "uniform", "metric": "accuracy"}
COUNTS = {"tab1": 8, "tab2": 12, "tab3": 15, "tab4": 119, "tab5": 25, "tab6": 8, "tab7": 360, "fig1": 1, "sec2": 1, "sec4.1": 1}
SENTENCES = {
    "fig1": ("10", "even sees a drop of 10% accuracy in low-shot evaluation"),
    "sec2": ("80", "high degrees of sparsity (> 80%) can emerge"),
    "sec4.1": ("80", "with 80% of the examples that have half of the backbone representation's activation equal to zero"),
}
ADDRESS = ["item", "method", "pretrained_on", "D", "projector", "setting", "task", "metric"]
Cell = tuple[dict[str, str], str]


def split(line: str) -> tuple[str, list[str]]:
    """The words that a line starts with, and the numbers that it ends with."""
    found = re.fullmatch(r"(.*?) ?((?:-?\d[\d.]* )*-?\d[\d.]*)", line)
    assert found, line
    return found[1], found[2].split()


def rows(item: str) -> list[str]:
    return LINES[item].strip().splitlines()


def by_width(item: str, facts: dict[str, str], heads: int) -> list[Cell]:
    """Cells of a table with a column a D and a line a method, of one task or of the tasks named on the way."""
    head, *lines = rows(item)[heads:]
    _, widths = split(head)
    task, cells = facts["task"], []
    for line in lines:
        words, values = split(line)
        name, method = words.rsplit(" ", 1) if " " in words else ("", words)
        task = TASKS[name] if name else task
        here = {**EVERY, **facts, "method": METHODS[method], "task": task}
        # Where the text drops a cell it is the first of its line.
        cells += [({**here, "D": D}, value) for D, value in zip(widths[-len(values) :], values, strict=True)]
    return cells


def table_1() -> list[Cell]:
    head, *lines = rows("tab1")
    cells = []
    for words, values in map(split, lines):
        data = TASKS[words]
        facts = {"method": "simclr", "pretrained_on": data, "task": data, "D": "32768"}
        facts["setting"] = "longtail" if data == "inat18" else "uniform"
        for K, value in zip(split(head)[1], values, strict=True):
            cells.append(({**EVERY, **facts, "projector": "none" if K == "0" else K}, value))
    return cells


def table_5() -> list[Cell]:
    cells = []
    for line in rows("tab5")[1:]:
        D, *values = line.split()
        facts = {**EVERY, "method": "supervised", "D": D}
        cells += [({**facts, "task": task}, value) for task, value in zip(NINE, values, strict=True)]
    return cells


def table_6() -> list[Cell]:
    lines = rows("tab6")
    names = re.findall(r"No-Proj|\([\d-]+\)", lines[0] + lines[2])
    shapes = ["none" if name == "No-Proj" else name.strip("()").replace("16834", "16384") for name in names]
    values = (lines[1] + " " + lines[3]).split()
    facts = {**EVERY, "method": "simclr", "D": "32768", "task": "imagenet1k"}
    return [({**facts, "projector": shape}, value) for shape, value in zip(shapes, values, strict=True)]


def cells_of(item: str) -> list[Cell]:
    unbalanced = {"task": "imagenet1k", "setting": "unbalanced", "metric": "accuracy_change"}
    longtail = {"task": "inat18", "pretrained_on": "inat18", "setting": "longtail"}
    return {
        "tab1": table_1,
        "tab2": lambda: by_width("tab2", unbalanced, heads=0),
        "tab3": lambda: by_width("tab3", longtail, heads=0),
        "tab4": lambda: by_width("tab4", {"task": ""}, heads=1),
        "tab5": table_5,
        "tab6": table_6,
        "tab7": lambda: by_width("tab7", {"task": ""}, heads=1),
    }[item]()


def printed() -> pd.DataFrame:
    """The file as it is written: every column text."""
    return pd.read_csv(CSV, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("item", LINES)
def test_every_cell_of_a_table_is_in_the_file_as_printed_and_nothing_else_is(item: str) -> None:
    expected = {(item, *(facts[name] for name in ADDRESS[1:])): value for facts, value in cells_of(item)}
    found = printed().query("item == @item")
    assert dict(zip(found[ADDRESS].itertuples(index=False, name=None), found["value"], strict=True)) == expected


def test_the_file_has_the_number_of_cells_that_each_table_has_and_no_cell_twice() -> None:
    table = printed()
    assert table["item"].value_counts().to_dict() == COUNTS
    assert not table.duplicated(ADDRESS).any()
    assert {item: len(cells_of(item)) for item in LINES} == {item: COUNTS[item] for item in LINES}


def table_lines(text: list[str], item: str) -> list[str]:
    """The lines of a table in the paper's text: those with tabs nearest its caption, which Table 7 has below it."""
    caption = next(at for at, line in enumerate(text) if line.startswith(f"Table {item[3:]}."))
    beyond = text[:caption][::-1] if item == "tab7" else text[caption + 1 :]
    first = next(at for at, line in enumerate(beyond) if "\t" in line)
    last = next(at for at, line in enumerate(beyond) if at > first and "\t" not in line)
    lines = beyond[first:last][:: -1 if item == "tab7" else 1]
    return [re.sub(r"\t+", " ", line).strip() for line in lines]


@pytest.mark.skipif(not TEXT.exists(), reason="the paper's text is not beside this checkout")
def test_the_lines_of_this_test_are_those_of_the_papers_text() -> None:
    text = TEXT.read_text().splitlines()
    for item in LINES:
        assert table_lines(text, item) == rows(item), item
    for item, (value, words) in SENTENCES.items():
        assert value in words and any(words in line for line in text), item


def test_the_sentences_have_the_values_that_they_state() -> None:
    table = printed()
    for item, (value, _) in SENTENCES.items():
        assert table.loc[table["item"] == item, "value"].tolist() == [value]


def test_table_7_differs_from_table_4_in_one_cell_and_has_the_one_that_its_text_drops() -> None:
    cell = ["method", "task", "D"]
    short, full = (_paper.numbers(item).set_index(cell)["value"] for item in ("tab4", "tab7"))
    other = short[full.loc[short.index] != short]
    assert other.to_dict() == {("simclr", "eurosat", 15360): 90.16} and full["simclr", "eurosat", 15360] == 90.48
    shown = full[full.index.get_level_values("D").isin(short.index.get_level_values("D"))]
    shown = shown[shown.index.get_level_values("task").isin(short.index.get_level_values("task"))]
    assert shown.index.difference(short.index).tolist() == [("byol", "clevr-distance", 512)]
    assert full["byol", "clevr-distance", 512] == 36.41


def test_the_notes_name_each_slip_where_it_is() -> None:
    noted = printed().query("note != ''").groupby("item").size().to_dict()
    renamed, shifted, other, unclear, dropped, misspelt = 23, 6, 1, 25, 1, 1
    assert noted.pop("tab4") == renamed + shifted + other
    assert noted.pop("tab5") == unclear and noted.pop("tab6") == misspelt
    assert noted.pop("tab7") == dropped + other
    assert noted == {"tab2": 12, "fig1": 1, "sec2": 1, "sec4.1": 1}


def test_table_6_repeats_what_table_1_has_on_imagenet() -> None:
    first, sixth = (
        _paper.numbers(item).query("task == 'imagenet1k'").set_index("projector")["value"] for item in ("tab1", "tab6")
    )
    assert (sixth.loc[first.index] == first).all()


def test_figure_1_states_a_larger_drop_with_few_labels_than_table_7_shows() -> None:
    table = _paper.numbers("tab7").query("method == 'supervised'").set_index(["task", "D"])["value"]
    drops = {task: round(table[task, 512] - table[task, 32768], 2) for task in ("imagenet1k-1%", "imagenet1k-10%")}
    assert drops == {"imagenet1k-1%": 8.5, "imagenet1k-10%": 5.13}
    (note,) = _paper.numbers("fig1")["note"]
    assert all(f"{drop:g}" in note for drop in drops.values())


def test_numbers_are_typed_and_whole() -> None:
    table = _paper.numbers()
    assert len(table) == sum(COUNTS.values())
    assert str(table["D"].dtype) == "Int64" and table["value"].dtype == "float64"
    text = table.drop(columns=["D", "value"])
    assert text.map(lambda cell: isinstance(cell, str)).all(axis=None)
    assert set(table.loc[table["D"].isna(), "item"]) == {"fig1", "sec2"}
    assert list(_paper.numbers("tab2").index) == list(range(COUNTS["tab2"]))


def test_an_item_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no item 'table7'.*Did you mean 'tab7'"):
        _paper.numbers("table7")
