"""Codes in a PostgreSQL server, bit for bit, and what is written for pgvector."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from handover_docs import BLOCKS, D, N, assert_nearest, carry_out, hamming, sizes
from small_stores import ODD, ROWS, features, many_columns, store

from wingspan import bits
from wingspan.errors import UserError
from wingspan.handover import hand_over
from wingspan.store.store import Store


def written(made: Store, out: Path) -> list[Path]:
    return hand_over(made.part("test"), made.manifest, "pgvector", out)


class Server:
    """A PostgreSQL of our own, reached by a socket in its folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder

    def run(self, program: str, *words: object, **how: object) -> None:
        """As a user that is not root, which PostgreSQL refuses to be."""
        if os.geteuid() == 0:
            who = pwd.getpwnam("nobody")
            how |= {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
            os.chown(self.folder, who.pw_uid, who.pw_gid)
        command = [str(self.programs / program), *map(str, words)]
        log = self.folder / "log"
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=False, **how
        )
        assert done.returncode == 0, done.stderr.decode() + (log.read_text() if log.exists() else "")

    def psql(self, *words: object, **how: object) -> subprocess.CompletedProcess[str]:
        command = [self.programs / "psql", "-X", "-q", "-h", self.folder, "-U", "postgres", "-d", "postgres", *words]
        return subprocess.run(list(map(str, command)), **how, capture_output=True, encoding="utf-8", timeout=60, check=False)

    def ask(self, query: str) -> object:
        """One value, as JSON."""
        done = self.psql("-A", "-t", "-c", query)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def load(self, folder: Path) -> None:
        done = self.psql("-f", f"{folder.name}.sql", cwd=folder, env={**os.environ, "PGCLIENTENCODING": "LATIN1"})
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = {float(path.parts[-3]): path for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")}
    program = found[max(found)] if found else shutil.which("initdb")
    if program is None or max(found, default=14) < 14:
        pytest.skip("no PostgreSQL from 14 on is installed")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path may not be long
    made = Server(Path(program).parent, folder)
    data = folder / "data"
    try:
        made.run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C", "--no-sync")
        made.run(
            "pg_ctl", "-D", data, "-w", "-l", folder / "log",
            "-o", f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off", "start",
        )  # fmt: skip
        try:
            yield made
        finally:
            made.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("width", [20, 21, 64])
def test_postgresql_holds_everything_that_is_known(width, server, tmp_path):
    made = many_columns(tmp_path / "store", "packed", width)
    part = made.part("test")
    written(made, tmp_path / f"Odd ta'ble-{width}")
    server.load(tmp_path / f"Odd ta'ble-{width}")
    rows = server.ask(f"SELECT json_agg(t ORDER BY id) FROM odd_ta_ble_{width} AS t")
    assert list(rows[0]) == ["id", "path", "kind", "kind_name", "ID_", "ID_name", "file", "file_name", "x", "code_", "code"]
    assert [row["id"] for row in rows] == part.ids.tolist()
    assert [row["path"] for row in rows] == (ODD * 3)[:ROWS]
    assert [row["kind_name"] for row in rows] == (["crane", "", "crane", "tab\there"] * 8)[:ROWS]
    assert [row["ID_"] for row in rows] == part.labels["ID"].tolist()
    assert np.array_equal(np.float32([row["x"] for row in rows]), part.quantities["x"].numpy(), equal_nan=True)
    codes = bits.unpack(part.bits[0:ROWS], width, torch.uint8).tolist()
    assert [row["code"] for row in rows] == ["".join(map(str, code)) for code in codes]
    facts = server.ask(f"SELECT obj_description('odd_ta_ble_{width}'::regclass)")
    assert facts["D"] == width and facts["model"]["fingerprint"] == "f00d"


@pytest.fixture(scope="module")
def loaded(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    server.load(carry_out(tmp_path_factory.mktemp("docs")) / "codes")
    return server


def test_postgresql_finds_the_nearest_of_every_image(loaded):
    codes = bits.pack(features(N, D))
    query = (
        "SELECT json_agg(near ORDER BY q) FROM (SELECT q.id AS q, (SELECT json_agg(json_build_array(d, id)) FROM (SELECT c.id, "
        "bit_count(c.code # q.code) AS d FROM codes AS c ORDER BY d, c.id LIMIT 10) AS t) AS near FROM codes AS q) AS every"
    )
    for row, found in enumerate(loaded.ask(query)):
        assert found == sorted([far, other] for other, far in enumerate(hamming(codes, row).tolist()))[:10]


def has_pgvector(server: Server) -> bool:
    return bool(server.ask("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"))


@pytest.mark.parametrize("text", [text for _, text in BLOCKS if text.startswith(("-- PostgreSQL", "-- pgvector"))])
def test_a_postgresql_snippet_finds_the_nearest(text, loaded):
    if text.startswith("-- pgvector") and not has_pgvector(loaded):
        pytest.skip("pgvector is not installed")
    done = loaded.psql("-A", "-t", "-c", text)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert_nearest([int(row[0]) for row in rows], text)
    assert [row[3] for row in rows] == [f"images/{row[0]}.png" for row in rows]


def test_a_code_takes_what_the_table_of_sizes_says(server, tmp_path):
    made = store(tmp_path / "store", features(3, 2048))
    written(made, tmp_path / "sized")
    server.load(tmp_path / "sized")
    found = server.ask("SELECT json_agg(pg_column_size(code)) FROM sized WHERE id > 0")
    assert found == [sizes()["codes: `bit(D)` in PostgreSQL"][1][2048]] * 2


def test_a_table_appears_whole_or_not_at_all(server, tmp_path):
    made = store(tmp_path / "store", features(30, 64))
    script, data = written(made, tmp_path / "cut")
    data.write_text(data.read_text()[:-20])
    assert server.psql("-f", script.name, cwd=script.parent).returncode != 0
    assert server.ask("SELECT count(*) FROM pg_tables WHERE tablename = 'cut'") == 0


# ----------------------------------------------------------------------------------------------- shapes, without a server


def test_h_beyond_what_pgvector_takes(tmp_path):
    made = store(tmp_path / "store", torch.zeros(2, 16_001, dtype=torch.float16), "fp16")
    with pytest.raises(UserError, match=r"16,000 dimensions, and h has D = 16,001.*--format packed"):
        written(made, tmp_path / "h")
    assert not (tmp_path / "h").exists()


def test_a_file_where_pgvector_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="give a folder, codes"):
        written(store(tmp_path / "store", features(3, 8)), tmp_path / "codes.sql")


@pytest.mark.parametrize(("kind", "width", "index"), [
    ("packed", 64_000, 'USING hnsw ("code" bit_hamming_ops)'), ("packed", 64_001, ""),
    ("fp16", 4_000, 'USING hnsw ("h" halfvec_cosine_ops)'), ("fp16", 4_001, ""),
])  # fmt: skip
def test_the_index_that_pgvector_can_build(kind, width, index, tmp_path):
    made = store(tmp_path / "store", torch.zeros(1, width, dtype=torch.float16), kind)
    written(made, tmp_path / "v")
    script = (tmp_path / "v" / "v.sql").read_text()
    assert ("hnsw" in script) == bool(index) and index in script
    assert ("CREATE EXTENSION IF NOT EXISTS vector;" in script) == (kind == "fp16")
    assert (f'"code" bit({width})' if kind == "packed" else f'"h" halfvec({width})') in script
