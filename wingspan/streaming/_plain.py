"""What happens to a chunk of channels between two matrix products, in PyTorch: the reference for `_kernels.cpp`, and what runs
where that cannot be compiled or does not apply (GPUs, float64, shapes without storage).

Matrices are (M, c) with M = N * P rows, image after image, and c channels. `bits` is uint8 (N, W, c) with W = ceil(P / 8): bit
p % 8 of byte p // 8 says that ReLU let the element at position p through. Sums are taken in `wide(dtype)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over many elements of `dtype` are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """(M, c) -> mean (c) and sum of squared deviations (c) of every channel; the deviations are taken from the mean, so a mean
    far from zero costs no digits."""
    y = y.to(wide(y.dtype))
    mean = y.mean(0)
    return mean, (y - mean).square_().sum(0)


def gate(
    y: Tensor, second: Tensor | None, scale: Tensor, scale2: Tensor, shift: Tensor, positions: int, pooled: Tensor, keep: bool
) -> Tensor | None:
    """z = y scale + second scale2 + shift; fills pooled (N, c) with the mean over positions of relu(z); gives the bits of
    z > 0 where they are to be kept."""
    z = y.to(scale.dtype) * scale
    if second is not None:
        z = torch.addcmul(z, second.to(scale.dtype), scale2)
    z = (z + shift).unflatten(0, (-1, positions))
    pooled.copy_(torch.relu(z).mean(1))
    return pack(z) if keep else None


def pack(z: Tensor) -> Tensor:
    """(N, P, c) -> bits of what passes a ReLU, a NaN included, as it does in torch's: uint8 (N, ceil(P / 8), c)."""
    N, P, c = z.shape
    on = torch.zeros(N, -(-P // 8) * 8, c, dtype=torch.uint8, device=z.device)
    on[:, :P] = ~(z <= 0)
    weights = 2 ** torch.arange(8, device=z.device, dtype=torch.uint8)
    packed: Tensor = (on.unflatten(1, (-1, 8)) * weights[:, None]).sum(2, dtype=torch.uint8)
    return packed


def unpack(bits: Tensor, positions: int) -> Tensor:
    """bits (N, W, c) -> 0 or 1 in uint8 (N, P, c)."""
    shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return ((bits[:, :, None] >> shifts[:, None]) & 1).flatten(1, 2)[:, :positions]


def spread_gradient(bits: Tensor, g: Tensor, positions: int, dz: Tensor) -> Tensor:
    """Fills dz (M, c) with bit * g, g (N, c) being the gradient of one position; gives its sum over rows (c)."""
    on = unpack(bits, positions)
    dz.unflatten(0, (-1, positions)).copy_(on * g[:, None])
    return (on.sum(1) * g).sum(0)


def sums(bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """The sums over rows of dz = bit * g, and of dz (y - mean): (c) each."""
    on = unpack(bits, positions)
    along = (y.to(g.dtype) - mean).unflatten(0, (-1, positions))
    return (on.sum(1) * g).sum(0), ((on * along).sum(1) * g).sum(0)


def norm_gradient(
    bits: Tensor, g: Tensor, y: Tensor, mean: Tensor, scale: Tensor, middle: Tensor, slope: Tensor, positions: int, out: Tensor
) -> None:
    """Batch norm's gradient, out (M, c) = scale (dz - middle - slope (y - mean)) with dz = bit * g; out may be y."""
    dz = (unpack(bits, positions) * g[:, None]).flatten(0, 1)
    out.copy_(scale * (dz - middle - slope * (y.to(g.dtype) - mean)))


def accumulate(total: Tensor, part: Tensor) -> None:
    total += part


def weight_gradient(Q: Tensor, GW: Tensor, scale: Tensor, slope: Tensor, out: Tensor) -> None:
    """out (c, K) = scale (Q - slope GW)."""
    torch.mul((Q.to(out.dtype) - slope[:, None] * GW.to(out.dtype)), scale[:, None], out=out)
