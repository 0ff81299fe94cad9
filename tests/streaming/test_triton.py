"""The Triton kernels of the wide block against the formula in float64: compiled on a GPU, otherwise in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if DEVICE == "cuda" or INTERPRETED:
    from wingspan.streaming import _triton

needs_kernels = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="runs in the interpreter, in another process")
SIZES = [  # images, positions, inputs, channels
    (1, 1, 1, 1),
    (35, 1, 20, 20),
    (25, 3, 17, 33),
    (20, 8, 40, 65),
    (15, 9, 5, 130),
    (17, 16, 64, 64),
    (11, 49, 37, 70),
    (5, 100, 20, 33),  # its last tile is empty: the rows that would be in it complete a byte of the one before
    (7, 100, 9, 11),  # and here the last tile begins with an image, not with the row after the tile before
    (3, 196, 33, 15),
    (2, 256, 16, 16),
    (2, 257, 70, 20),
    (2, 520, 9, 9),
]
CASES = [(*sizes, dtype) for sizes in SIZES for dtype in (torch.float32, torch.bfloat16)] + [(11, 49, 37, 70, torch.float16)]
each_case = pytest.mark.parametrize(("images", "positions", "inputs", "channels", "dtype"), CASES, ids=str)


def drawn(images: int, positions: int, inputs: int, channels: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(images + positions)
    rows = images * positions
    made = {
        "U": torch.randn(rows, inputs, generator=generator).to(dtype),
        "V": (torch.randn(channels, inputs, generator=generator) / inputs**0.5).to(dtype),
        "bias": torch.randn(channels, generator=generator),
        "add": torch.randn(rows, channels, generator=generator).to(dtype),
        "g": torch.randn(images, channels, generator=generator),
    }
    return {name: value.to(DEVICE) for name, value in made.items()}


def z_of(made: dict[str, torch.Tensor], with_add: bool) -> torch.Tensor:
    z = made["U"].double() @ made["V"].double().T + made["bias"].double()
    return z + made["add"].double() if with_add else z


def unpacked(bits: torch.Tensor, positions: int) -> torch.Tensor:
    """(N, W, D) bytes -> (N positions, D) of 0 and 1, having looked that nothing stands past the last position."""
    every = torch.stack([bits >> bit & 1 for bit in range(8)], 2).flatten(1, 2)
    assert not every[:, positions:].any()
    return every[:, :positions].flatten(0, 1)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To the rounding of fp32 sums: operands of any dtype are exact in float64. Tensor cores cut where others round."""
    rounding = 2e-6 if DEVICE == "cpu" else 2e-5
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=rounding * max(1.0, float(wanted.abs().max())))


@needs_kernels
@each_case
def test_forward_is_the_formula_and_bits_say_where_z_is_positive(
    images: int, positions: int, inputs: int, channels: int, dtype: torch.dtype
) -> None:
    made = drawn(images, positions, inputs, channels, dtype)
    with_add = dtype == torch.float32 or positions == 49
    r, bits = _triton.forward(made["U"], made["V"], made["bias"], positions, made["add"] if with_add else None, save=True)
    z = z_of(made, with_add)
    assert r.dtype == torch.float32
    close(r, z.relu().view(images, positions, channels).mean(1))
    wrong = unpacked(bits, positions).bool() != (z > 0)
    assert not wrong.any() or z[wrong].abs().max() < 1e-5
    assert wrong.double().mean() < 1e-3


@needs_kernels
@each_case
def test_backward_is_the_two_products_of_rounded_dz(
    images: int, positions: int, inputs: int, channels: int, dtype: torch.dtype
) -> None:
    made = drawn(images, positions, inputs, channels, dtype)
    _, bits = _triton.forward(made["U"], made["V"], made["bias"], positions)
    dU, Q, total, dadd = _triton.backward(made["U"], made["V"], bits, made["g"], positions, want_add=True)
    dz = unpacked(bits, positions) * (made["g"] / positions).to(dtype).double().repeat_interleave(positions, 0)
    close(dU, dz @ made["V"].double())
    close(Q, dz.T @ made["U"].double())
    close(total, dz.sum(0))
    assert dadd.dtype == dtype
    assert torch.equal(dadd.double(), dz)


@needs_kernels
@pytest.mark.parametrize("positions", [7, 49, 100])
def test_backward_is_what_autograd_says(positions: int) -> None:
    made = drawn(6, positions, 24, 40, torch.float32)
    leaves = {name: made[name].double().requires_grad_() for name in ("U", "V", "bias", "add")}
    (z_of(leaves, True).relu().view(6, positions, 40).mean(1) * made["g"]).sum().backward()
    _, bits = _triton.forward(made["U"], made["V"], made["bias"], positions, made["add"])
    dU, Q, total, dadd = _triton.backward(made["U"], made["V"], bits, made["g"], positions, want_add=True)
    for found, leaf in ((dU, "U"), (Q, "V"), (total, "bias"), (dadd, "add")):
        close(found, leaves[leaf].grad)


@needs_kernels
def test_nothing_is_saved_or_given_that_was_not_asked_for() -> None:
    made = drawn(3, 10, 8, 8, torch.float32)
    r, bits = _triton.forward(made["U"], made["V"], made["bias"], 10, save=False)
    kept, saved = _triton.forward(made["U"], made["V"], made["bias"], 10, save=True)
    assert bits is None
    assert torch.equal(r, kept)
    assert _triton.backward(made["U"], made["V"], saved, made["g"], 10)[3] is None


@needs_kernels
@pytest.mark.parametrize("positions", [16, 49, 100])
def test_a_nan_stays_in_its_image(positions: int) -> None:
    made = drawn(5, positions, 8, 8, torch.float32)
    made["U"][positions] = torch.nan  # the second image's first row
    r, _ = _triton.forward(made["U"], made["V"], made["bias"], positions)
    assert r[1].isnan().all()
    assert not r[[0, 2, 3, 4]].isnan().any()


@needs_kernels
def test_transposed_matrices_are_taken_as_they_read() -> None:
    made = drawn(3, 10, 12, 8, torch.float32)
    flipped = {name: made[name].T.contiguous().T for name in ("U", "V", "add", "g")}
    wanted = _triton.forward(made["U"], made["V"], made["bias"], 10, made["add"])
    found = _triton.forward(flipped["U"], flipped["V"], made["bias"], 10, flipped["add"])
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    wanted = _triton.backward(made["U"], made["V"], wanted[1], made["g"], 10)
    found = _triton.backward(flipped["U"], flipped["V"], found[1], flipped["g"], 10)
    assert all(torch.equal(one, other) for one, other in zip(found[:3], wanted[:3], strict=True))


@needs_kernels
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_two_calls_at_a_real_size_agree_to_the_bit_and_with_the_formula(dtype: torch.dtype) -> None:
    made = drawn(64, 49, 2560, 2048, dtype)
    calls = []
    for _ in range(2):
        r, bits = _triton.forward(made["U"], made["V"], made["bias"], 49)
        calls.append((r, bits, *_triton.backward(made["U"], made["V"], bits, made["g"], 49)[:3]))
    assert all(torch.equal(one, other) for one, other in zip(*calls, strict=True))
    close(calls[0][0], z_of(made, False).relu().view(64, 49, -1).mean(1))


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the checks run in this process")
def test_the_kernels_pass_their_checks_in_the_interpreter() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


AHEAD = """
import re
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from wingspan.streaming import _triton

def tried(kernel, pointers, constants, tile, inputs):
    constants |= dict(zip(("ROWS", "COLUMNS", "INNER"), tile)) | {"GROUP": 8}
    names = kernel.fn.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name] != "constexpr"}
    source = ASTSource(kernel.fn, signature, constants, aligned)
    options = {"num_warps": tile[3], "num_stages": tile[4]}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.metadata.shared <= 227 * 1024, (tile, made.metadata.shared)
    assert "wgmma.mma_async" in made.asm["ptx"], tile
    assert not re.search(r"\\b(atom|red)\\.", made.asm["ptx"]), tile

for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for rows in (128, 256):
        assert _triton._fitting(_triton._forward.configs, {"u": torch.empty(1, dtype=dtype)}, ROWS=rows)
    assert _triton._fitting(_triton._gradient.configs, {"shares": torch.empty(1, dtype=dtype)})
for positions, tile in ((49, _triton.FORWARD[0]), (16, _triton.FORWARD[2]), (100, _triton.FORWARD[0])):
    rows, step, slots, whole = _triton._cut(positions)
    pointers = {"u": "*bf16", "v": "*bf16", "bias": "*fp32", "out": "*fp32", "bits": "*u8"}
    constants = {"P": positions, "STEP": step, "SLOTS": slots, "BYTES": 64, "add": None}
    tried(_triton._forward, pointers, constants, (rows, *tile[1:]), 4)
for transposed in (False, True):
    pointers = {"bits": "*u8", "shares": "*bf16", "factor": "*bf16", "out": "*fp32"}
    tried(_triton._gradient, pointers, {"P": 49, "TRANSPOSED": transposed}, _triton.BACKWARD[0], 3)
"""


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
def test_the_kernels_compile_for_hopper_without_a_gpu() -> None:
    """To tensor-core instructions, within a multiprocessor's shared memory, without atomics, and tiles for every dtype."""
    done = subprocess.run([sys.executable, "-c", AHEAD], capture_output=True, text=True, timeout=600, check=False)
    if "Cannot find ptxas" in done.stderr:
        pytest.skip("Triton came without ptxas")
    assert done.returncode == 0, done.stderr[-4000:]
