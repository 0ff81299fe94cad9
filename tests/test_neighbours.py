"""Every way of comparing codes against counting bits one by one, and what is told where one cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wingspan import bits, compiled, neighbours
from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.neighbours import Neighbours, cosine, hamming
from wingspan.store.rows import View


def has_compiler() -> bool:
    try:
        compiled.library(neighbours._SOURCE)
    except compiled.UnavailableError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="no faiss here")
ENGINES = [pytest.param("kernel", marks=needs_compiler), pytest.param("faiss", marks=needs_faiss), "torch"]
engines = pytest.mark.parametrize("engine", ENGINES)


def codes(rows: int, columns: int, seed: int = 0, distinct: int = 0) -> Tensor:
    """Random codes; with `distinct`, no more than that many different ones, so that most distances are equal."""
    made = torch.randint(0, 256, (distinct or rows, columns), generator=generator(seed, "codes", rows), dtype=torch.uint8)
    return made[torch.randint(distinct, (rows,), generator=generator(seed, "which", rows))] if distinct else made


def slow(bank: Tensor, queries: Tensor, k: int) -> tuple[list[list[int]], list[list[int]]]:
    """Distances and rows: numpy's stable sort leaves the first row first."""
    held, asked = (np.unpackbits(each.numpy(), axis=1) for each in (bank, queries))
    far = np.stack([(held != one).sum(1) for one in asked])
    rows = far.argsort(1, kind="stable")[:, :k]
    return np.take_along_axis(far, rows, 1).tolist(), rows.tolist()


def told(found: Neighbours) -> tuple[list[list[int]], list[list[int]]]:
    assert found.distances.dtype == torch.int32 and found.indices.dtype == torch.int64
    return found.distances.tolist(), found.indices.tolist()


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("_MOST_QUERIES", 7), ("_MOST_BANK", 11), ("_MOST_CODE_QUERIES", 7), ("_MOST_CODE_BANK", 19)):
        monkeypatch.setattr(neighbours, name, rows)
    monkeypatch.setattr(neighbours, "_LARGER", 1)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(neighbours, "_WORTH", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SHAPES = [  # columns, rows of the bank, queries, k
    (1, 50, 9, 50), (3, 40, 5, 1), (7, 33, 4, 10), (8, 100, 70, 7), (9, 17, 3, 17), (13, 65, 6, 4), (64, 30, 1, 5),
    (64, 47, 33, 47), (100, 60, 1, 3), (100, 60, 11, 60), (259, 21, 4, 6), (1000, 90, 2, 9), (4096, 70, 5, 4),
    (2**17, 19, 2, 3),
]  # fmt: skip


@engines
@pytest.mark.parametrize("blocks", ["large", "small"])
@pytest.mark.parametrize("distinct", [0, 3], ids=["random", "ties"])
@pytest.mark.parametrize(("columns", "N", "M", "k"), SHAPES)
def test_neighbours_are_those_of_counting_bits(
    columns: int, N: int, M: int, k: int, distinct: int, blocks: str, engine: neighbours.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks == "small":
        small_blocks(monkeypatch)
    bank, queries = codes(N, columns, 1, distinct), codes(M, columns, 2)
    assert told(hamming(bank, queries, 8 * columns, k, engine=engine)) == slow(bank, queries, k)


@engines
@settings(max_examples=60, deadline=None)
@given(
    columns=st.integers(1, 200), N=st.integers(1, 60), M=st.integers(0, 12), share=st.floats(0, 1),
    distinct=st.sampled_from([0, 1, 2, 5]), seed=st.integers(0, 100),
)  # fmt: skip
def test_any_shape(columns: int, N: int, M: int, share: float, distinct: int, seed: int, engine: neighbours.Engine) -> None:
    bank, queries, k = codes(N, columns, seed, distinct), codes(M, columns, seed + 1, distinct and 1), 1 + int(share * (N - 1))
    found = hamming(bank, queries, 8 * columns, k, engine=engine)
    assert found.indices.shape == (M, k)
    assert not M or told(found) == slow(bank, queries, k)


@pytest.fixture(params=["four lanes", "one lane"])
def lesser(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel as processors with fewer instructions run it."""
    source = neighbours._SOURCE.read_text()
    absent = ["__AVX512VPOPCNTDQ__"] if request.param == "four lanes" else ["__AVX512VPOPCNTDQ__", "__AVX2__"]
    for each in absent:
        assert each in source
        source = source.replace(each, "ABSENT")
    (tmp_path / "hamming.cpp").write_text(source)
    monkeypatch.setattr(neighbours, "_SOURCE", tmp_path / "hamming.cpp")


@needs_compiler
@pytest.mark.usefixtures("lesser")
def test_the_kernel_of_other_processors() -> None:
    for columns, N, M, k in SHAPES:
        for distinct in (0, 3):
            bank, queries = codes(N, columns, 1, distinct), codes(M, columns, 2)
            assert told(hamming(bank, queries, 8 * columns, k, engine="kernel")) == slow(bank, queries, k)


@engines
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("N", "M", "k"), [(1, 1, 1), (200, 1, 7), (200, 3, 200), (201, 30, 20), (90, 203, 9)])
def test_two_threads_find_the_same(N: int, M: int, k: int, engine: neighbours.Engine) -> None:
    for columns in (5, 512):
        bank, queries = codes(N, columns, 1, 20), codes(M, columns, 2)
        assert told(hamming(bank, queries, 8 * columns, k, engine=engine)) == slow(bank, queries, k)


@engines
def test_distances_above_what_a_byte_holds(engine: neighbours.Engine) -> None:
    bank = torch.zeros(3, 4096, dtype=torch.uint8)
    bank[1, 7] = 1
    found = hamming(bank, torch.full((1, 4096), 255, dtype=torch.uint8), 32768, 3, engine=engine)
    assert told(found) == ([[32767, 32768, 32768]], [[1, 0, 2]])


class Decoded:
    """Rows that are no tensor: they know their size and give a slice."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.shape, self.dtype, self.most = rows, tuple(rows.shape), rows.dtype, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        assert isinstance(rows, slice)
        self.most = max(self.most, rows.stop - rows.start)
        return self.rows[rows].clone()


@engines
def test_rows_are_read_a_block_at_a_time(engine: neighbours.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    h = torch.randn(60, 100, generator=generator(0, "h")).relu().half()
    packed = bits.pack(h)
    bank, queries = View(Decoded(h), 13, torch.uint8, bits.pack), Decoded(packed[:30])
    assert told(hamming(bank, queries, 100, 6, engine=engine)) == slow(packed, packed[:30], 6)
    assert queries.most == 7 and bank.source.most == (11 if engine == "torch" else 19)  # type: ignore[attr-defined]


def test_a_block_is_some_bytes_whatever_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CODE_BANK", 1000)
    monkeypatch.setattr(neighbours, "_CODE_QUERIES", 500)
    bank, queries = Decoded(codes(90, 50, 1)), Decoded(codes(40, 50, 2))
    hamming(bank, queries, 400, 3, engine="faiss" if find_spec("faiss") else "kernel")
    assert (bank.most, queries.most) == (20, 10)


def test_few_queries_meet_more_of_a_tensor_at_a_time_and_not_of_what_is_decoded() -> None:
    bank = torch.empty(1, 4096, dtype=torch.uint8).expand(200_000, 4096)  # of no size
    flat = torch.empty(100_000, 4, dtype=torch.uint8)
    assert neighbours._code_blocks(flat, 1, 4096, 10) == (1, 65536) and neighbours._code_blocks(flat, 1024, 4096, 10)[1] == 4096
    assert neighbours._code_blocks(flat, 256, 4096, 10) == (256, 4 * 4096)
    assert neighbours._code_blocks(bank, 1, 4096, 10) == neighbours._code_blocks(Decoded(flat), 1, 4096, 10) == (1, 4096)


def test_many_neighbours_are_kept_for_fewer_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_KEYS", 100)
    queries = Decoded(codes(40, 3, 2))
    hamming(codes(90, 3, 1), queries, 24, 25, engine="faiss" if find_spec("faiss") else "kernel")
    assert queries.most == 4


def test_cosines_of_rows_are_those_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    h = torch.randn(60, 20, generator=generator(0, "h")).half()
    wanted = cosine(h, h[:30], 6)
    small_blocks(monkeypatch)
    bank, queries = Decoded(h), Decoded(h[:30])
    found = cosine(bank, queries, 6)
    assert torch.equal(found.indices, wanted.indices) and torch.allclose(found.distances, wanted.distances, atol=1e-6)
    assert (bank.most, queries.most) == (11, 7)


@engines
def test_codes_that_do_not_lie_one_after_the_other(engine: neighbours.Engine) -> None:
    bank, queries = codes(40, 30, 1)[:, 3:20], codes(50, 17, 2)[::2]
    assert told(hamming(bank, queries, 136, 5, engine=engine)) == slow(bank.contiguous(), queries.contiguous(), 5)


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_compiler_another_engine_answers_and_it_is_said(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed and not find_spec("faiss"):
        pytest.skip("no faiss here")
    bank, queries, notes = codes(70, 9, 1, 4), codes(8, 9, 2), []

    def absent(source: Path) -> None:
        raise compiled.UnavailableError("no C++ compiler is on PATH")

    monkeypatch.setattr(compiled, "library", absent)
    monkeypatch.setattr(neighbours, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(neighbours, "tell", notes.extend)
    neighbours._fastest.cache_clear()
    try:
        for _ in range(2):
            assert told(hamming(bank, queries, 72, 10)) == slow(bank, queries, 10)
    finally:
        neighbours._fastest.cache_clear()
    (note,) = notes
    assert ("by faiss" if installed else "by torch") in note and "no C++ compiler is on PATH. Install a C++ compiler" in note
    with pytest.raises(compiled.UnavailableError):
        hamming(bank, queries, 72, 10, engine="kernel")


@needs_compiler
def test_the_kernel_is_chosen_where_it_compiles() -> None:
    assert neighbours._fastest() == "kernel"


@engines
@pytest.mark.parametrize("k", [0, 6, -1])
def test_more_neighbours_than_rows(k: int, engine: neighbours.Engine) -> None:
    with pytest.raises(ValueError, match=f"k {k} of 5 rows"):
        hamming(codes(5, 2), codes(1, 2), 16, k, engine=engine)


@pytest.mark.parametrize(("held", "asked", "width"), [(3, 2, 24), (2, 3, 24), (3, 3, 25), (3, 3, 16), (0, 0, 0)], ids=str)
def test_codes_of_another_width_are_quoted(held: int, asked: int, width: int) -> None:
    said = f"a bank of codes of {held} bytes and queries of {asked} cannot be compared as codes of width {width}"
    with pytest.raises(UserError, match=said):
        hamming(torch.zeros(5, held, dtype=torch.uint8), torch.zeros(2, asked, dtype=torch.uint8), width, 1)


def test_features_of_another_width_are_quoted() -> None:
    with pytest.raises(UserError, match="queries of width 4 cannot be compared with a bank of width 5"):
        cosine(torch.zeros(3, 5), torch.zeros(2, 4), 1)


@engines
def test_features_are_no_codes(engine: neighbours.Engine) -> None:
    with pytest.raises(ValueError, match="float16 on cpu are not codes"):
        hamming(torch.zeros(3, 4).half(), torch.zeros(2, 4).half(), 32, 1, engine=engine)
