"""The wide block's products on a GPU, fused with what surrounds them: no (M, D) tensor is ever written but the bits of ReLU.

With M = N P rows (image n, position p), K inputs and D channels, `forward` gives

    z = U V' + bias (+ add);  r[n, c] = mean over p of relu(z);  bits = z > 0

and `backward`, with dz = bits * g / P rounded to the dtype of U, which exists in registers only,

    dU = dz V,  Q = dz' U,  total = column sums of dz.

Products accumulate in fp32, those of fp32 inputs without TF32. No atomics: every sum has one order, so two calls give the same
result to the bit. The order belongs to the tiles, which are timed at the first call with new sizes (`triton.autotune`): another
process may choose others and differ in the last place.

Import this module only when `importlib.util.find_spec("triton")` finds something and the tensors are on a GPU, or the process
began with TRITON_INTERPRET=1: then Triton's interpreter runs the kernels on CPU tensors, slowly, with fixed tiles.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # whoever lists all modules may import this one; calls fail
    triton = None

INTERPRETED = bool(triton and triton.knobs.runtime.interpret)
WIDEN = tl.constexpr(INTERPRETED) if triton else None  # the interpreter cannot multiply bf16
FIXED = {"ROWS": 64, "COLUMNS": 64, "INNER": 32, "GROUP": 2}  # the interpreter's tiles
WHOLE = 0.9  # the part of a tile that whole images must fill; otherwise images are cut, and another kernel joins their parts
FORWARD = ((0, 128, 64, 8, 3), (0, 128, 64, 8, 4), (0, 256, 64, 8, 3), (0, 64, 64, 8, 4), (0, 128, 32, 8, 4), (0, 64, 32, 8, 3))
BACKWARD = ((128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 64, 4, 4), (128, 128, 32, 8, 4), (64, 128, 32, 4, 3))


def _jit(kernel: Any) -> Any:
    return triton.jit(kernel) if triton else kernel


def _fitting(configs: list[Any], arguments: dict[str, Any], **constants: Any) -> list[Any]:
    """The tiles whose accumulator leaves registers for the rest; products of fp32 take more of them."""
    exact = arguments["shares" if "shares" in arguments else "u"].dtype == torch.float32
    most, deepest = (128 * 128, 32) if exact else (128 * 256, 64)
    shapes = [(each, each.kwargs | constants) for each in configs]
    return [each for each, shape in shapes if shape["ROWS"] * shape["COLUMNS"] <= most and shape["INNER"] <= deepest]


def _tuned(tiles: tuple[tuple[int, int, int, int, int], ...], *keys: str) -> Callable[[Any], Any]:
    """A kernel that tries `tiles` (rows, columns, inner, warps, stages) at new `keys`; rows of 0 are left to the caller."""
    if not triton or INTERPRETED:
        return lambda kernel: kernel
    configs = []
    for rows, columns, inner, warps, stages in tiles:
        shape = {"COLUMNS": columns, "INNER": inner, "GROUP": 8} | ({"ROWS": rows} if rows else {})
        configs.append(triton.Config(shape, num_warps=warps, num_stages=stages))
    tuned: Callable[[Any], Any] = triton.autotune(configs, list(keys), {"early_config_prune": _fitting})
    return tuned


@_jit
def _tile(height, width, GROUP: tl.constexpr):
    """This program's tile. GROUP tiles of rows go together through all columns, so that both operands stay in the L2 cache."""
    program = tl.program_id(0)
    size = GROUP * width
    top = program // size * GROUP
    tall = tl.minimum(height - top, GROUP)
    return top + program % size % tall, program % size // tall


@_jit
def _multiply(left, right, total):
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@_jit
def _at_byte(row, P: tl.constexpr):
    """The first row at or after `row` that begins a byte of bits: its position is a multiple of 8."""
    return row - row % P + tl.minimum((row % P + 7) // 8 * 8, P)


@_jit
def _byte(row, P: tl.constexpr):
    """The byte, counted over images, that holds the bit of `row`."""
    return row // P * ((P + 7) // 8) + row % P // 8


@_jit
def _pool(relu, out, tile, image, columns, D, OUT, P: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr):
    """Means over the rows of each of the SLOTS images in a tile, to `out` (OUT, D). Every element is in one slot at most."""
    if SLOTS * P == ROWS:
        means = tl.sum(tl.reshape(relu, (SLOTS, P, relu.shape[1])), 1) / P
        at = tile * SLOTS + tl.arange(0, SLOTS)
        inside = (at < OUT)[:, None] & (columns < D)[None, :]
        tl.store(out + at.to(tl.int64)[:, None] * D + columns[None, :], means, mask=inside)
    else:
        for slot in range(SLOTS):
            mean = tl.sum(tl.where((image == slot)[:, None], relu, 0.0), 0) / P
            at = tile * SLOTS + slot
            tl.store(out + at.to(tl.int64) * D + columns, mean, mask=columns < tl.where(at < OUT, D, 0))


@_jit
def _pack(positive, bits, rows, first, end, columns, D, P: tl.constexpr, BYTES: tl.constexpr):
    """Eight rows to a byte by a product with powers of two: exact, sums stay below 256."""
    byte = tl.arange(0, BYTES)
    start = _byte(first, P)
    here = (_byte(rows, P) - start)[None, :] == byte[:, None]
    weights = tl.where(here, (1 << (rows % P % 8))[None, :], 0).to(tl.float16)
    packed = tl.dot(weights, positive.to(tl.float16)).to(tl.int32).to(tl.uint8)
    inside = (start + byte < _byte(end, P))[:, None] & (columns < D)[None, :]
    tl.store(bits + start.to(tl.int64) * D + byte[:, None] * D + columns[None, :], packed, mask=inside)


@_tuned(FORWARD, "M", "K", "D", "P")
@_jit
def _forward(
    u, v, bias, add, out, bits, M, K, D, OUT,
    P: tl.constexpr, STEP: tl.constexpr, SLOTS: tl.constexpr, BYTES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tile, chunk = _tile(tl.cdiv(M, STEP), tl.cdiv(D, COLUMNS), GROUP)
    first = _at_byte(tile * STEP, P)
    end = tl.minimum(_at_byte((tile + 1) * STEP, P), M)
    local = tl.arange(0, ROWS)
    columns = chunk * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    # Rows and channels past the end read the last one, so that only the last step over K needs a mask.
    u_at = u + first.to(tl.int64) * K + tl.minimum(local, M - 1 - first)[:, None] * K + inner[None, :]
    v_at = v + tl.minimum(columns, D - 1).to(tl.int64)[None, :] * K + inner[:, None]
    z = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, K, INNER):
        left = tl.load(u_at, mask=(inner < K - k)[None, :], other=0.0)
        right = tl.load(v_at, mask=(inner < K - k)[:, None], other=0.0)
        z = _multiply(left, right, z)
        u_at += INNER
        v_at += INNER
    z += tl.load(bias + columns, mask=columns < D, other=0.0)[None, :]
    rows = first + local
    valid = (rows < end)[:, None] & (columns < D)[None, :]
    if add is not None:
        z += tl.load(add + first.to(tl.int64) * D + local[:, None] * D + columns[None, :], mask=valid, other=0.0).to(tl.float32)
    relu = tl.where(valid & ~(z <= 0), z, 0.0)  # so a NaN is kept, as PyTorch does
    _pool(relu, out, tile, rows // P - first // P, columns, D, OUT, P, SLOTS, ROWS)
    if bits is not None:
        _pack(relu > 0, bits, rows, first, end, columns, D, P, BYTES)


@_jit
def _join(parts, r, D, P: tl.constexpr, STEP: tl.constexpr, SLOTS: tl.constexpr, COLUMNS: tl.constexpr):
    """The means of an image that tiles share: the sum over the tiles that hold some of its bytes, in their order."""
    image = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for tile in range(image * P // STEP, (image * P + (P - 1) // 8 * 8) // STEP + 1):
        slot = tile * SLOTS + image - _at_byte(tile * STEP, P) // P
        total += tl.load(parts + slot.to(tl.int64) * D + columns, mask=columns < D, other=0.0)
    tl.store(r + tl.cast(image, tl.int64) * D + columns, total, mask=columns < D)


@_jit
def _dz(bits, shares, first, local, columns, M, D, P: tl.constexpr):
    """A tile of dz from the packed bits and `shares` = g / P (N, D); 0 outside."""
    rows = first + local
    inside = (rows < M)[:, None] & (columns < D)[None, :]
    byte, image = _byte(first, P), first // P
    bytes_at = bits + tl.cast(byte, tl.int64) * D + (_byte(rows, P) - byte)[:, None] * D + columns[None, :]
    shares_at = shares + tl.cast(image, tl.int64) * D + (rows // P - image)[:, None] * D + columns[None, :]
    positive = tl.load(bytes_at, mask=inside, other=0).to(tl.int32) & (1 << (rows % P % 8))[:, None]
    return tl.where(positive != 0, tl.load(shares_at, mask=inside, other=0.0), 0.0)


@_tuned(BACKWARD, "M", "K", "D", "P", "TRANSPOSED")
@_jit
def _gradient(
    bits, shares, factor, out, M, K, D, P: tl.constexpr, TRANSPOSED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out (M, K) = dz factor, or TRANSPOSED out (D, K) = dz' factor."""
    height = D if TRANSPOSED else M
    depth = M if TRANSPOSED else D
    tile, chunk = _tile(tl.cdiv(height, ROWS), tl.cdiv(K, COLUMNS), GROUP)
    first = tile * ROWS
    local = tl.arange(0, ROWS)
    columns = chunk * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    factor_at = factor + inner[:, None] * K + columns[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(0, depth, INNER):
        if TRANSPOSED:
            left = tl.trans(_dz(bits, shares, step, inner, first + local, M, D, P))
        else:
            left = _dz(bits, shares, first, local, step + inner, M, D, P)
        right = tl.load(factor_at, mask=(inner < depth - step)[:, None] & (columns < K)[None, :], other=0.0)
        total = _multiply(left, right, total)
        factor_at += INNER * K
    inside = (first + local < height)[:, None] & (columns < K)[None, :]
    tl.store(out + first.to(tl.int64) * K + local[:, None] * K + columns[None, :], total, mask=inside)


@_jit
def _column_sums(
    bits, shares, parts, dadd, N, D, P: tl.constexpr, COLUMNS: tl.constexpr, IMAGES: tl.constexpr, BYTES: tl.constexpr
):  # fmt: skip
    """Sums of dz over IMAGES images, and dz itself where it is asked for."""
    W: tl.constexpr = (P + 7) // 8
    first = tl.program_id(0) * IMAGES
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    byte = tl.arange(0, BYTES)
    inside = (byte < W)[:, None] & (columns < D)[None, :]
    total = tl.zeros((COLUMNS,), tl.float32)
    for image in range(first, tl.minimum(first + IMAGES, N)):
        start = tl.cast(image, tl.int64) * D
        share = tl.load(shares + start + columns, mask=columns < D, other=0.0)
        packed = tl.load(bits + start * W + byte[:, None] * D + columns[None, :], mask=inside, other=0).to(tl.int32)
        count = tl.zeros((BYTES, COLUMNS), tl.int32)
        for bit in tl.static_range(8):
            positive = (packed >> bit) & 1
            count += positive
            if dadd is not None:
                position = byte * 8 + bit
                at = dadd + start * P + position[:, None] * D + columns[None, :]
                tl.store(at, tl.where(positive != 0, share[None, :], 0.0), mask=inside & (position < P)[:, None])
        total += tl.sum(count, 0).to(tl.float32) * share.to(tl.float32)
    tl.store(parts + tl.program_id(0).to(tl.int64) * D + columns, total, mask=columns < D)


def _cut(positions: int) -> tuple[int, int, int, bool]:
    """How rows become tiles: (rows of a tile, rows from one to the next, most images in one, whether images stay whole)."""
    for rows in (128, 256):
        whole = rows // positions
        if whole * positions >= WHOLE * rows:
            return rows, whole * positions, whole, True
    # Either end of a tile may move on by 7 rows, to where a byte begins.
    return 256, 249, (254 + positions) // positions + 1, False


def _launch(kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
    """Run as many programs as `grid` says (for the tiles that are chosen), on the tensors' device."""
    fixed = FIXED if INTERPRETED else {}  # what a kernel does not take the interpreter leaves out
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **fixed | constants)


def forward(
    U: Tensor, V: Tensor, bias: Tensor, positions: int, add: Tensor | None = None, save: bool = True
) -> tuple[Tensor, Tensor | None]:
    """(r (N, D) fp32, bits (N, ceil(positions / 8), D) uint8 or None) from U (N positions, K), V (D, K) in one dtype of bf16,
    fp16, fp32, bias (D,) fp32 and add (N positions, D).

    Bit p % 8 of byte [n, p // 8, c] is set where z > 0; bits past the last position are 0.
    """
    U, V, bias, add = U.contiguous(), V.contiguous(), bias.contiguous(), None if add is None else add.contiguous()
    M, K, D, N, W = len(U), U.shape[1], len(V), len(U) // positions, (positions + 7) // 8
    rows, step, slots, whole = _cut(positions)
    tiles = triton.cdiv(M, step)
    r = U.new_empty((N, D), dtype=torch.float32)
    out = r if whole else U.new_empty((tiles * slots, D), dtype=torch.float32)
    bits = U.new_empty((N, W, D), dtype=torch.uint8) if save else None
    packed = max(16, triton.next_power_of_2(slots * W if whole else rows // 8 + slots))  # bytes that a tile touches, at most
    _launch(
        _forward, lambda chosen: (tiles * triton.cdiv(D, chosen["COLUMNS"]),), U, V, bias, add, out, bits, M, K, D, len(out),
        P=positions, STEP=step, SLOTS=slots, BYTES=packed, ROWS=rows,
    )  # fmt: skip
    if not whole:
        _launch(_join, (N, triton.cdiv(D, 512)), out, r, D, P=positions, STEP=step, SLOTS=slots, COLUMNS=512)
    return r, bits


def backward(
    U: Tensor, V: Tensor, bits: Tensor, g: Tensor, positions: int, want_add: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(dU (M, K) fp32, Q (D, K) fp32, total (D,) fp32, dadd (M, D) in U's dtype or None) from g = dL/dr (N, D) and the rest."""
    U, V, bits = U.contiguous(), V.contiguous(), bits.contiguous()
    M, K, D, N = len(U), U.shape[1], len(V), len(g)
    shares = (g / positions).to(U.dtype).contiguous()

    def product(factor: Tensor, height: int, transposed: bool) -> Tensor:
        out = U.new_empty((height, K), dtype=torch.float32)
        _launch(
            _gradient, lambda chosen: (triton.cdiv(height, chosen["ROWS"]) * triton.cdiv(K, chosen["COLUMNS"]),),
            bits, shares, factor, out, M, K, D, P=positions, TRANSPOSED=transposed,
        )  # fmt: skip
        return out

    images = triton.cdiv(N, 32)
    parts = U.new_empty((triton.cdiv(N, images), D), dtype=torch.float32)
    dadd = U.new_empty((M, D)) if want_add else None
    _launch(
        _column_sums, (len(parts), triton.cdiv(D, 128)), bits, shares, parts, dadd, N, D,
        P=positions, COLUMNS=128, IMAGES=images, BYTES=triton.next_power_of_2(bits.shape[1]),
    )  # fmt: skip
    return product(V, M, False), product(U, D, True), parts.sum(0), dadd
