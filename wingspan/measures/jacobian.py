"""How strongly a dimension of the representation answers to a small change of the input (paper, figure 11 and appendix B).

The paper: "we compute the norm of the Jacobian matrix for each individual backbone dimension and compute the mean across all
the dimensions". Here: |d h_k / d x|, Euclidean over every value of the input, meant over dimensions k and over images. What x
is the paper does not say; here it is the network's input, pixels after normalisation (subtract the mean, divide by the standard
deviation of a channel), so numbers compare only between runs of one normalisation and one image size.

The raw norm also falls when h is merely smaller or has more dead dimensions at large D. So a second number divides it by the
standard deviation over test images, meant over dimensions: the answer to a change of the input, in units of what tells images
apart. It is a ratio of means and not a mean of ratios: a dimension that is on for one image in ten thousand has next to no
deviation, and would rule a mean of ratios; dead dimensions are 0 above and below.

A random probe would be cheap and biased: the gradient of v . h for random signs v has the squared Frobenius norm as the mean of
its square (Hutchinson), that is the sum of squared norms over k. The mean of norms is another thing, and its square is smaller
by the variance of norms over k. Exact rows of dimensions drawn at random are unbiased, so that is what is done at large D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.features import Bank, Need
from wingspan.measures._curves import parts, some, sorted_points
from wingspan.measures.base import Curve, Measure, Measured, NotApplicableError, Number
from wingspan.progress import bar

_PIXELS = 2**18  # of the images whose activations are kept for the backward passes: 256 images of 32 x 32, 5 of 224 x 224


@dataclass(frozen=True)
class Jacobian(Measure):
    """Mean norm of a dimension's gradient with respect to the input image."""

    title: ClassVar[str] = "mean norm of the Jacobian of one dimension of the representation"
    source: ClassVar[str] = "Figure 11, appendix B"
    reading: ClassVar[str] = (
        "Lower: a dimension answers less to small changes of the image. The paper finds that the norm falls as D grows. The "
        "relative norm divides out the scale of h and its dead dimensions; where only the raw one falls, these are why."
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"test", "network"})

    images: int = 64
    """Test images whose gradients are taken, drawn at random. More: smaller error, proportionally more time."""
    exact: int = 256
    """Up to this width D the gradient of every dimension is taken."""
    dims: int = 128
    """Above it: dimensions drawn for each image, at most D. The time is that of images x dims backward passes."""

    def __post_init__(self) -> None:
        for name, least in (("images", 2), ("exact", 0), ("dims", 1)):
            if getattr(self, name) < least:
                raise UserError(f"jacobian: {name} {getattr(self, name)} must be at least {least}.")

    def measure(self, bank: Bank, seed: int) -> Measured:
        if bank.network is None:
            raise NotApplicableError("the Jacobian needs the network itself, not features alone.")
        images = bank.test.images.images
        if len(images) < 2:
            raise NotApplicableError(f"'{bank.data}' has {len(images)} test images: the Jacobian's error needs two.")
        rows = some(len(images), self.images, seed, "jacobian images")
        D = bank.test.h.shape[1]
        chosen = dimensions(len(rows), D, D if self.exact >= D else min(self.dims, D), seed)
        network = bank.network
        network.backbone.eval()  # however it was handled since
        share = max(1, _PIXELS // network.plain(images.batch(rows[:1]))[0, 0].numel())
        found = []
        with bar(f"gradients on {bank.data}", math.ceil(len(rows) / share), per_unit=share, things="images") as shown:
            for some_rows, some_dims in zip(rows.split(share), chosen.split(share), strict=True):
                found.append(norms(network.backbone, network.plain(images.batch(some_rows)), some_dims))
                shown.advance()
        return self._told(torch.cat(found), chosen, bank.test.h)

    @staticmethod
    def _told(found: Tensor, chosen: Tensor, h: Tensor) -> Measured:
        """Norms and dimensions (n, S), and all test features -> numbers.

        An image's mean over its S dimensions is unbiased, and dimensions are drawn for each image anew: so the spread of these
        means over images holds both the spread of images and that of the draw. The deviation over thousands of images below
        the relative norm is taken as known.
        """
        n, S = found.shape
        D = h.shape[1]
        own = found.mean(1)
        value, error = float(own.mean()), float(own.std()) / math.sqrt(n)
        numbers = [Number("jacobian norm", "", value, n, error=error)]
        if (scale := spread(h)) > 0:
            numbers.append(Number("relative jacobian norm", "", value / scale, n, error=error / scale))
        sums, seen = torch.zeros(2, D, dtype=torch.float64).index_put_(
            (torch.arange(2)[:, None], chosen.flatten()), torch.stack([found.flatten(), torch.ones(n * S)]).double(), True
        )
        curve = Curve("jacobian norm", *sorted_points((sums / seen)[seen > 0]), "dimensions, sorted (share)", "norm")
        how = f"of all {D} dimensions" if S == D else f"of {S} of {D} dimensions an image, drawn at random"
        notes = [f"gradients {how}, with respect to the normalised input, on {n} images."]
        if S < D:
            notes.append(
                f"each point of the norm's curve is a mean over about {max(1, round(n * S / D))} images: its ends are noisy."
            )
        return Measured(tuple(numbers), (curve,), tuple(notes))


def dimensions(images: int, D: int, count: int, seed: int) -> Tensor:
    """(images, count): distinct dimensions of each image, uniform over subsets, drawn for each image anew."""
    draw = generator(seed, "jacobian dimensions")
    return torch.stack([torch.randperm(D, generator=draw)[:count] for _ in range(images)])


def norms(backbone: nn.Module, x: Tensor, chosen: Tensor) -> Tensor:
    """x (B, 3, S, S) normalised, chosen (B, m) dimensions -> |d h_bk / d x_b| (B, m) on the CPU, in fp32 and exact.

    One forward pass, then a backward pass for each column of `chosen`, all images at once: in evaluation mode an image's h
    depends on no other image. Only x takes a gradient; weights and buffers stay as they are.
    """
    x = x.detach().float().requires_grad_()
    with torch.enable_grad():
        h = backbone(x)
    columns = []
    for column in chosen.T.to(h.device):
        (gradient,) = torch.autograd.grad(h.gather(1, column[:, None]).sum(), x, retain_graph=True)
        columns.append(gradient.flatten(1).norm(dim=1))
    return torch.stack(columns, 1).cpu()


def spread(h: Tensor) -> float:
    """Mean over dimensions of the standard deviation over images; h (N, D), gone through twice in parts."""
    mean = torch.stack([part.double().sum(0) for part in parts(h)]).sum(0) / len(h)
    squares = torch.stack([(part.double() - mean).square().sum(0) for part in parts(h)]).sum(0)
    return float((squares / len(h)).sqrt().mean())
