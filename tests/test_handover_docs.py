"""Every snippet of docs/handover.md run as it stands, its sizes measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from handover_docs import BLOCKS, COMMANDS, DOCS, D, N, assert_nearest, carry_out, sizes
from small_stores import features, store

from wingspan.handover import hand_over


def needed(text: str, *packages: str) -> None:
    for package in packages:
        if package in text and util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(tmp_path_factory.mktemp("docs"))


def test_the_document_has_snippets_for_every_tool():
    text = "".join(block for _, block in BLOCKS)
    assert len(COMMANDS) == 8 and len(BLOCKS) >= 10
    for tool in ("-- DuckDB", "-- PostgreSQL", "-- pgvector", "polars", "lancedb", "pandas", "faiss", "np.load"):
        assert tool in text


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"], ids=lambda text: text.split()[1])
def test_a_python_snippet_finds_the_nearest(text, handed, tmp_path):
    needed(text, "polars", "pandas", "lancedb", "faiss")
    place = shutil.copytree(handed, tmp_path / "docs")
    script = text + "\nprint([int(each) for each in nearest])"
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_nearest(json.loads(done.stdout.splitlines()[-1]), text)


@pytest.mark.parametrize("text", [text for _, text in BLOCKS if text.startswith("-- DuckDB")])
def test_duckdb_finds_the_nearest(text, handed, monkeypatch):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    monkeypatch.chdir(handed)
    found = duckdb.sql(text).fetchall()
    assert_nearest([row[0] for row in found], text)
    assert [row[3] for row in found] == [f"images/{row[0]}.png" for row in found]
    assert [row[2] for row in found] == [("ant", "bee", "cow", "doe", "eel")[row[0] % 5] for row in found]


def test_polars_and_duckdb_read_h_exactly(handed):
    h = features(N, D).numpy()
    polars = pytest.importorskip("polars", reason="polars is not installed")
    found = polars.read_parquet(handed / "h.parquet")["h"].to_numpy()
    assert found.dtype == np.float16 and np.array_equal(found, h)
    listed = polars.read_parquet(handed / "codes-list.parquet")["code"].to_numpy()
    assert np.array_equal(listed, np.packbits(h > 0, axis=1))
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = duckdb.sql(f"SELECT h FROM '{handed / 'h.parquet'}' ORDER BY id").fetchall()
    assert np.array_equal(np.array([row[0] for row in rows], np.float32), h.astype(np.float32))


def test_the_lancedb_index_of_the_document(handed, tmp_path):
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")
    table = lancedb.connect(tmp_path / "lance").create_table("codes", pq.read_table(handed / "codes-list.parquet"))
    (call,) = re.findall(r"`(table\.create_index\(.*\))`", DOCS.read_text())
    eval(call, {"table": table, "lancedb": lancedb})
    assert [index.columns for index in table.list_indices()] == [["code"]]


def test_faiss_maps_the_index_of_h(handed):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    (call,) = re.findall(r"`(faiss\.read_index\(.*?\))`", DOCS.read_text())
    index = eval(call.replace("h.faiss", str(handed / "h.faiss")), {"faiss": faiss})
    query = torch.nn.functional.normalize(features(N, D)[7:8].float(), dim=1).numpy()
    assert_nearest(index.search(query, 10)[1][0].tolist(), "h.faiss")


# ------------------------------------------------------------------------------------------------------------------ sizes


def test_the_table_of_sizes_follows_its_formulas():
    assert len(sizes()) == 5
    for formula, told in sizes().values():
        assert all(eval(formula, {"D": width}) == size for width, size in told.items())


@pytest.mark.parametrize("width", [2048, 32768])
@pytest.mark.parametrize(("kind", "what"), [("packed", "codes"), ("fp16", "h")])
def test_files_have_the_sizes_of_the_table(kind, what, width, tmp_path):
    """Eight rows more, and what they add."""
    told = next(size for name, (_, size) in sizes().items() if name.startswith(f"{what}: Parquet"))[width]
    grown = {}
    for rows in (4, 12):
        made = store(tmp_path / f"store{rows}", features(rows, width), kind)
        for to in ("npy", "faiss", "parquet", *(["pgvector"] if kind == "packed" else [])):
            if to == "faiss" and util.find_spec("faiss") is None:
                continue
            out = hand_over(made.part("test"), made.manifest, to, tmp_path / f"{to}{rows}")
            if to == "parquet":
                group = pq.ParquetFile(out[0]).metadata.row_group(0)
                grown[to, rows] = group.column(group.num_columns - 1).total_uncompressed_size
            else:
                grown[to, rows] = out[-1 if to == "pgvector" else 0].stat().st_size
    for to, _ in {key for key in grown if key[1] == 4}:
        more = (grown[to, 12] - grown[to, 4]) / 8
        if to == "pgvector":  # the row numbers 0-9 and 10-11, tab and newline beside
            assert 8 * more == 8 * (sizes()["codes: pgvector's COPY file"][1][width] + 2) + 10
        else:
            assert more == pytest.approx(told, rel=0.002 if to == "parquet" else 0)  # Parquet's pages have headers
