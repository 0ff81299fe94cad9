"""What other tools read out of a hand-over, against what the store holds."""

from __future__ import annotations

import errno
import json
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_stores import ODD, ROWS, features, many_columns, store
from torch import Tensor

from wingspan import bits
from wingspan.errors import UserError
from wingspan.handover import _content, hand_over
from wingspan.store.store import Part, Store

TOOLS = ("parquet", "npy", "faiss", "pgvector")


def plain(folder: Path, kind: str = "packed", rows: int = ROWS, width: int = 21) -> Store:
    return store(folder, features(rows, width), kind)


def handed(made: Store, to: str, out: Path, **more) -> list[Path]:
    if to == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    return hand_over(made.part("test"), made.manifest, to, out, **more)


def stored(made: Store) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, bytes) and h (N, D) as the store has them."""
    part = made.part("test")
    return part.bits[0 : len(part)].numpy(), part.dense[0 : len(part)].numpy()


def vectors(tool: str, out: Path, width: int) -> np.ndarray:
    """The codes or h that a tool's own reader finds."""
    if tool == "npy":
        return np.load(out, mmap_mode="r")
    if tool == "parquet":
        column = pq.read_table(out).column(-1).combine_chunks()
        if pa.types.is_fixed_size_binary(column.type):
            return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), -(-width // 8))
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if tool == "faiss":
        import faiss

        index = faiss.read_index_binary(str(out))
        return faiss.vector_to_array(index.xb).reshape(index.ntotal, -(-width // 8))
    fields = [line.split("\t")[-1] for line in (out / f"{out.name}.copy").read_text().splitlines()]
    if fields[0].startswith("["):
        return np.array([json.loads(field) for field in fields], np.float64).astype(np.float16)
    told = [f"{int(field[1:], 16):0{4 * (len(field) - 1)}b}" if field.startswith("x") else field for field in fields]
    assert {len(code) for code in told} == {width}
    return np.packbits(np.array([list(map(int, code)) for code in told], np.uint8), axis=1)


# ---------------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("width", [8, 20, 21, 64, 2049])
@pytest.mark.parametrize("kind", ["packed", "fp16", "sparse"])
def test_codes_are_the_stores_bit_for_bit(tool, width, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_content, "_BLOCK", 7 * 2 * width)  # several blocks, the last of them shorter
    made = plain(tmp_path / "store", kind, width=width)
    handed(made, tool, tmp_path / "codes", codes=True)
    codes, _ = stored(made)
    assert codes.shape == (ROWS, -(-width // 8)) and np.array_equal(codes, bits.pack(features(ROWS, width)).numpy())
    assert np.array_equal(vectors(tool, tmp_path / "codes", width), codes)


@pytest.mark.parametrize("tool", ["parquet", "npy", "pgvector"])
@pytest.mark.parametrize("kind", ["fp16", "sparse"])
def test_h_is_the_stores_exactly(tool, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_content, "_BLOCK", 7 * 2 * 21)
    h = features(ROWS, 21)
    h[1, :4] = torch.tensor([6e-8, 65504.0, 1 / 3, 6.1e-5])  # the smallest and largest numbers of fp16 among them
    made = store(tmp_path / "store", h, kind)
    handed(made, tool, tmp_path / "h")
    found = vectors(tool, tmp_path / "h", 21)
    assert found.dtype == np.float16 and np.array_equal(found, h.numpy())


@pytest.mark.parametrize("kind", ["fp16", "sparse"])
def test_faiss_scores_h_by_cosines(kind, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(_content, "_BLOCK", 7 * 2 * 300)
    h = features(ROWS, 300)
    h[1] = 6e-8 * (h[1] > 1)  # tiny, but not zeros
    handed(store(tmp_path / "store", h, kind), "faiss", tmp_path / "h")
    index = faiss.read_index(str(tmp_path / "h"))
    norms = h.double().norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, h.double() / norms, 0)
    codes = faiss.vector_to_array(index.codes).view(np.float16).reshape(ROWS, 300)
    assert np.array_equal(codes, unit.float().half().numpy()) and not codes[0].any()
    scores, rows = index.search(unit.float().numpy(), 10)
    cosines = (unit @ unit.T).numpy()
    assert np.allclose(scores, np.take_along_axis(cosines, rows, 1), atol=1e-3)
    assert np.allclose(scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-3)


def test_the_list_column_holds_the_same_bytes(tmp_path):
    made = plain(tmp_path / "store")
    handed(made, "parquet", tmp_path / "codes.parquet", column="list")
    assert pq.read_schema(tmp_path / "codes.parquet").field("code").type.list_size == 3
    assert np.array_equal(vectors("parquet", tmp_path / "codes.parquet", 21), stored(made)[0])


@pytest.mark.parametrize(("to", "kind"), [("npy", "packed"), ("faiss", "packed"), ("parquet", "fp16")])
def test_a_list_column_where_there_is_none(to, kind, tmp_path):
    with pytest.raises(UserError, match="--column list"):
        handed(plain(tmp_path / "store", kind), to, tmp_path / "out", column="list")


def test_a_threshold_of_its_own(tmp_path):
    h = features(ROWS, 21)
    handed(store(tmp_path / "store", h, "packed", threshold=0.5), "npy", tmp_path / "codes.npy")
    assert np.array_equal(np.load(tmp_path / "codes.npy"), np.packbits(h.numpy() > 0.5, axis=1))
    facts = json.loads(str(np.load(tmp_path / "codes.labels.npz")["wingspan"]))
    assert facts["threshold"] == 0.5


@pytest.mark.parametrize("tool", TOOLS)
def test_a_split_without_images(tool, tmp_path):
    handed(store(tmp_path / "store", features(0, 16)), tool, tmp_path / "none")
    if tool == "pgvector":
        assert (tmp_path / "none" / "none.copy").read_bytes() == b""
    else:
        assert vectors(tool, tmp_path / "none", 16).shape == (0, 2)


# ----------------------------------------------------------------------------------------------------------------- columns


def test_parquet_holds_everything_that_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(_content, "_BLOCK", 7 * 2 * 21)
    made = many_columns(tmp_path / "store", "packed")
    part = made.part("test")
    assert handed(made, "parquet", tmp_path / "codes.parquet") == [tmp_path / "codes.parquet"]
    table = pq.read_table(tmp_path / "codes.parquet")
    names = ["id", "path", "kind", "kind_name", "ID_", "ID_name", "file", "file_name", "x", "code_", "code"]
    assert table.column_names == names
    assert table.column("id").to_pylist() == part.ids.tolist() and table.schema.field("id").type == pa.int64()
    assert table.column("path").to_pylist() == (ODD * 3)[:ROWS]
    assert table.column("kind").to_pylist() == part.labels["kind"].tolist()
    assert table.column("kind_name").to_pylist() == (["crane", "", "crane", "tab\there"] * 8)[:ROWS]
    assert pa.types.is_dictionary(table.schema.field("kind_name").type)
    assert np.array_equal(table.column("x").to_numpy(), part.quantities["x"].numpy(), equal_nan=True)
    assert table.column("code").type == pa.binary(3)
    assert pq.ParquetFile(tmp_path / "codes.parquet").num_row_groups == 5
    frame = table.to_pandas()
    assert frame.kind_name.cat.categories.tolist() == ["crane", "", "tab\there"]


def test_parquet_tells_where_it_comes_from(tmp_path):
    made = plain(tmp_path / "store")
    handed(made, "parquet", tmp_path / "codes.parquet")
    facts = json.loads(pq.read_schema(tmp_path / "codes.parquet").metadata[b"wingspan"])
    wanted = {"D": 21, "stored_as": "packed", "handed_over": "code", "threshold": 0.0, "layer": "h", "split": "test"}
    assert wanted.items() <= facts.items() and facts["bit_order"] == "most significant first"
    assert facts["model"] == {"name": "tiny", "fingerprint": "f00d", "step": 6, "weights_sha256": "0" * 64}


@pytest.mark.parametrize("tool", TOOLS)
def test_images_of_which_nothing_is_known(tool, tmp_path):
    made = plain(tmp_path / "store", rows=3)
    handed(made, tool, tmp_path / "codes")
    if tool == "parquet":
        assert pq.read_schema(tmp_path / "codes").names == ["id", "code"]
    elif tool == "npy":
        assert set(np.load(tmp_path / "codes.labels.npz")) == {"id", "wingspan"}
    elif tool == "pgvector":
        assert [len(line.split("\t")) for line in (tmp_path / "codes" / "codes.copy").read_text().splitlines()] == [2] * 3


def test_the_archive_beside_an_array(tmp_path):
    made = many_columns(tmp_path / "store", "fp16")
    out = tmp_path / "h.npy"
    assert handed(made, "npy", out) == [out, tmp_path / "h.labels.npz"]
    with np.load(tmp_path / "h.labels.npz", allow_pickle=False) as found:
        assert found["kind_name"][found["kind"]].tolist() == (["crane", "", "crane", "tab\there"] * 8)[:ROWS]
        assert found["path"].tolist() == [path or "" for path in (ODD * 3)[:ROWS]]
        assert found["id"].tolist() == made.part("test").ids.tolist() and found["file"].tolist() == [0] * ROWS
        assert np.array_equal(found["x"], made.part("test").quantities["x"].numpy(), equal_nan=True)


# --------------------------------------------------------------------------------------------------------- what goes wrong


class Recorded:
    """Rows that remember how many were asked for at a time, and may fail."""

    def __init__(self, rows: Tensor, error: BaseException | None = None) -> None:
        self.rows, self.error, self.asked = rows, error, []
        self.shape, self.dtype = rows.shape, rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: slice) -> Tensor:
        if self.error is not None and self.asked:
            raise self.error
        self.asked.append((at.start, at.stop))
        return self.rows[at]


def recorded(part: Part, error: BaseException | None = None) -> Recorded:
    part.__dict__["bits"] = rows = Recorded(part.bits, error)
    return rows


@pytest.mark.parametrize("tool", TOOLS)
def test_memory_holds_a_block_of_rows(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(_content, "_BLOCK", 1000)
    made = plain(tmp_path / "store", rows=100, width=64)
    rows = recorded(made.part("test"))
    handed(made, tool, tmp_path / "codes")
    assert rows.asked == [(start, min(start + 7, 100)) for start in range(0, 100, 7)]  # 7 rows of 128 bytes of fp16


def test_a_block_of_wide_features_is_small(tmp_path):
    made = store(tmp_path / "store", torch.zeros(1500, 32768, dtype=torch.float16))
    rows = recorded(made.part("test"))
    handed(made, "npy", tmp_path / "codes.npy")
    assert rows.asked == [(0, 1024), (1024, 1500)]  # 64 MB, were they fp16


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_that_is_there_is_kept(tool, tmp_path):
    made = plain(tmp_path / "store")
    files = handed(made, tool, tmp_path / "codes")
    files[-1].write_text("mine")
    for file in files[:-1]:
        file.unlink()
    with pytest.raises(UserError, match="exists and is not written over") as raised:
        handed(made, tool, tmp_path / "codes")
    assert str(files[-1]) in str(raised.value) and files[-1].read_text() == "mine"
    assert not any(file.exists() for file in files[:-1])


def left(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_nothing_is_left_of_what_was_interrupted(tool, error, tmp_path, monkeypatch):
    monkeypatch.setattr(_content, "_BLOCK", 7 * 2 * 21)
    made = plain(tmp_path / "store")
    recorded(made.part("test"), error)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
        handed(made, tool, tmp_path / "out" / "codes")
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("tool", TOOLS)
def test_a_full_disk(tool, tmp_path):
    made = store(tmp_path / "store", torch.rand(1000, 512, generator=torch.Generator().manual_seed(0)).sub(0.5).half())
    made.part("test").bits  # noqa: B018 - mapped before writing is forbidden
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if tool == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # codes are 64,000 bytes
    try:
        with pytest.raises(UserError, match=r"cannot write .*File too large"):
            handed(made, tool, tmp_path / "out" / "codes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left(tmp_path / "out") == []


def test_faiss_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    made = plain(tmp_path / "store")
    with pytest.raises(UserError, match=r"pip install 'wingspan\[search\]'"):
        hand_over(made.part("test"), made.manifest, "faiss", tmp_path / "codes.faiss")
    assert not (tmp_path / "codes.faiss").exists()


def test_faiss_whose_files_look_otherwise(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    whole = faiss.serialize_index_binary
    monkeypatch.setattr(faiss, "serialize_index_binary", lambda index: np.append(whole(index), np.uint8(0)))
    with pytest.raises(UserError, match=faiss.__version__):
        handed(plain(tmp_path / "store"), "faiss", tmp_path / "codes.faiss")
    assert not (tmp_path / "codes.faiss").exists()


def test_a_tool_that_is_unknown(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'parquet'"):
        handed(plain(tmp_path / "store"), "parquets", tmp_path / "out")
