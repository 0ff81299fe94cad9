"""One branch of the wide block: a convolution, computed for a chunk of its output channels at a time.

`Rows` is a 1x1 convolution as a product with centred rows, `Patches` any other as PyTorch computes it. `here` is always a slice
of output channels, `c` their number, M = N * P the rows (image n, position p).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from wingspan.streaming._plain import wide

_TILE = 512  # inputs; a symmetric matrix is formed in tiles of so many columns, of which only the upper ones are computed
_BLOCK = 512  # rows whose gradient is added up at a time, so that a bf16 product is still in cache when it is added in fp32


def as_rows(x: Tensor) -> Tensor:
    """(N, K, H, W) -> (N H W, K); a view where memory is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_images(rows: Tensor, shape: torch.Size) -> Tensor:
    """(N H W, K) -> (N, K, H, W) with the N, H and W of `shape`, in channels_last memory."""
    N, _, H, W = shape
    return rows.view(N, H, W, -1).permute(0, 3, 1, 2)


def _by_convolution(w: Tensor) -> bool:
    """Whether products are faster as 1x1 convolutions: in fp32 on a CPU PyTorch gives those to oneDNN, matrix products to a
    library that is up to a fifth slower on some processors."""
    return w.device.type == "cpu" and w.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _add_square(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add left' right (K, K), which is symmetric, to total in `wide`; only what is on and above the diagonal of tiles."""
    K = left.shape[1]
    if total is None:
        total = torch.zeros(K, K, dtype=wide(left.dtype), device=left.device)
    for at in range(0, K, _TILE):
        total[at : at + _TILE, at:] += torch.mm(left[:, at : at + _TILE].t(), right[:, at:])
    return total


def _mirrored(upper: Tensor) -> Tensor:
    """The whole of a symmetric matrix whose tiles below the diagonal were left out; written in place."""
    for at in range(_TILE, len(upper), _TILE):
        upper[at : at + _TILE, :at] = upper[:at, at : at + _TILE].t()
    return upper


class Branch(ABC):
    """x (N, K, H, W) and weight (D, K, ...) of a convolution; `kernels` is `_native` or `_plain`."""

    def __init__(self, x: Tensor, weight: Tensor, kernels: ModuleType) -> None:
        self.x, self.weight, self.kernels = x, weight, kernels
        self.gradient: Tensor | None = None

    def w(self, here: slice) -> Tensor:
        return self.weight[here].to(self.x.dtype)

    @property
    def flops(self) -> int:
        """Multiply-adds of one product with all channels."""
        return self.x.shape[0] * self.x.shape[2] * self.x.shape[3] * self.weight.numel()

    @abstractmethod
    def output(self, here: slice, out: Tensor | None = None) -> Tensor:
        """y (M, c), less `offset`."""

    @abstractmethod
    def offset(self, here: slice) -> Tensor | float:
        """What was taken from y of every channel: (c)."""

    @abstractmethod
    def explicit(self, dy: Tensor, here: slice, weight_gradient: Tensor) -> None:
        """Fill the weight's gradient (c, ...) and add to the input's, from dy (M, c)."""

    def input_gradient(self) -> Tensor:
        """(N, K, H, W), once all channels are through."""
        assert self.gradient is not None
        return as_images(self.gradient.to(self.x.dtype), self.x.shape)


class Rows(Branch):
    """A 1x1 convolution: y = U w' with U = x - mu, mu (K) being the mean over rows.

    Centring comes first, since a mean far above the spread leaves nothing of it in a low-precision product. Batch norm's
    gradient needs no y when the square of the inputs is known (`gram`); the algebra is in docs/wide_block.md.
    """

    def __init__(self, x: Tensor, weight: Tensor, kernels: ModuleType, mu: Tensor) -> None:
        super().__init__(x, weight, kernels)
        self.mu = mu
        rows = as_rows(x)
        self.U = torch.sub(rows, mu, out=torch.empty_like(rows)) if rows.dtype != mu.dtype else rows - mu
        self._square: Tensor | None = None
        self._back: Tensor | None = None

    @property
    def gram_flops(self) -> int:
        """Multiply-adds of `gram` beyond the two products that every way has."""
        D, K = self.weight.shape[:2]
        upper = sum((K - at) * min(_TILE, K - at) for at in range(0, K, _TILE))
        return (len(self.U) + D) * (K * K + upper)

    def output(self, here: slice, out: Tensor | None = None) -> Tensor:
        w = self.w(here)
        if _by_convolution(w):
            return as_rows(F.conv2d(as_images(self.U, self.x.shape), w)).contiguous()
        return torch.mm(self.U, w.flatten(1).t(), out=out)  # type: ignore[call-overload,no-any-return]

    def offset(self, here: slice) -> Tensor | float:
        return torch.mv(self.weight[here].flatten(1).to(self.mu.dtype), self.mu)

    def explicit(self, dy: Tensor, here: slice, weight_gradient: Tensor) -> None:
        weight_gradient.flatten(1).copy_(torch.mm(dy.t(), self.U))
        self._add(dy, self.w(here).flatten(1))

    def product(self, dz: Tensor, here: slice) -> tuple[Tensor, Tensor]:
        """Q = dz' U (c, K), and its product with the weights, sum dz (y) (c)."""
        Q = torch.mm(dz.t(), self.U)
        w = self.w(here).flatten(1)
        along = torch.linalg.vecdot(Q.to(self.mu.dtype), w.to(self.mu.dtype))
        return Q, along

    def gram(
        self,
        dz: Tensor,
        Q: Tensor,
        here: slice,
        scale: Tensor,
        middle: Tensor,
        slope: Tensor,
        mean: Tensor,
        weight_gradient: Tensor,
    ) -> None:
        """As `explicit` with dy = scale (dz - middle - slope (y - mean)), never forming y or dy. All vectors are (c)."""
        w = self.w(here).flatten(1)
        if self._square is None:
            self._square = _mirrored(_add_square(None, self.U, self.U)).to(w.dtype)
            self._sum = self.U.sum(0, dtype=self.mu.dtype)
            self._constant = torch.zeros_like(self.mu)
        self.kernels.weight_gradient(Q, torch.mm(w, self._square), scale, slope, weight_gradient.flatten(1))
        rest = scale * (middle - slope * mean)
        weight_gradient.flatten(1).addr_(rest.to(weight_gradient.dtype), self._sum.to(weight_gradient.dtype), alpha=-1)
        weighted = (w * scale[:, None]).to(w.dtype)
        self._add(dz, weighted)
        self._back = _add_square(self._back, (weighted * slope[:, None]).to(w.dtype), w)
        self._constant += torch.mv(w.t().to(rest.dtype), rest)

    def frozen(self, dz: Tensor, Q: Tensor, here: slice, scale: Tensor, total: Tensor, weight_gradient: Tensor) -> None:
        """As `explicit` with dy = scale dz, where statistics are not the batch's; total (c) is the sum of dz over rows."""
        into = weight_gradient.flatten(1)
        torch.addr(Q.to(into.dtype), total, self.mu, out=into)
        into *= scale[:, None]
        self._add(dz, (self.w(here).flatten(1) * scale[:, None]).to(dz.dtype))

    def _add(self, dy: Tensor, w: Tensor) -> None:
        if self.gradient is None:
            self.gradient = torch.zeros(self.U.shape, dtype=wide(dy.dtype), device=dy.device)
        if self.gradient.dtype == dy.dtype and not _by_convolution(w):
            torch.addmm(self.gradient, dy, w, out=self.gradient)
            return
        P = len(dy) // len(self.x)
        for at in range(0, len(dy), images := max(1, _BLOCK // P) * P):
            part = slice(at, at + images)
            if _by_convolution(w):
                made = as_rows(F.conv2d(as_images(dy[part], self.x[: len(dy[part]) // P].shape), w.t()[:, :, None, None]))
            else:
                made = torch.mm(dy[part], w)
            self.kernels.accumulate(self.gradient[part], made)

    def input_gradient(self) -> Tensor:
        assert self.gradient is not None
        if self._back is not None:
            back = _mirrored(self._back).to(self.U.dtype)
            for at in range(0, len(self.U), _BLOCK):
                part = slice(at, at + _BLOCK)
                self.gradient[part] -= torch.mm(self.U[part], back)
            self.gradient -= self._constant
        return super().input_gradient()


class Patches(Branch):
    """A convolution with a kernel and padding, stride 1."""

    def _convolve(self, w: Tensor) -> Tensor:
        return F.conv2d(self.x, w, padding=w.shape[-1] // 2)

    def output(self, here: slice, out: Tensor | None = None) -> Tensor:
        return as_rows(self._convolve(self.w(here))).contiguous()

    def offset(self, here: slice) -> Tensor | float:
        return 0.0

    def explicit(self, dy: Tensor, here: slice, weight_gradient: Tensor) -> None:
        w = self.w(here)
        pad = w.shape[-1] // 2
        dx, dw, _ = torch.ops.aten.convolution_backward(
            as_images(dy, self.x.shape), self.x, w, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        weight_gradient.copy_(dw)
        rows = as_rows(dx)
        if self.gradient is None:
            self.gradient = rows.to(wide(dy.dtype), copy=True)
        else:
            self.kernels.accumulate(self.gradient, rows.contiguous())
