"""MP2: meaningful perturbation by removing the cells of steepest gradient, and MP2-G, its generative form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, Filler, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method, default_upsample
from xbench.ops.resize import resized
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Logits, Maps, Masks, Scores

CELLS = 2
"""Cells removed in an iteration."""
BLOCK = 2
"""Side, in cells, of the blocks of the checkerboard on which kept cells are inferred from the others."""

Grid = Float[Tensor, "b rows columns"]


@METHODS.register("mp2")
@dataclass(frozen=True)
class Mp2(Method):
    r"""Which cells must be replaced, and in what order, for the class probability to fall to chance (Agarwal and Nguyen 2020).

    $$
    g = 1 - \frac{t}{T} \text{ on the 2 cells } \text{top}_2 \left\{ \left\lvert \frac{\partial p_c}{\partial m} \right\rvert :
    m = 1 \right\} \text{ of iteration } t, \text{ while } p_c(x m + f (1 - m)) > \frac{1}{K}
    $$

    Source: https://arxiv.org/abs/1910.04256, MP2, and with an inpainter as ``fill`` MP2-G. The binary keep-mask m on a coarse
    grid, enlarged by nearest neighbours, starts with every cell kept. Each iteration removes the 2 kept cells of largest
    |dp_c/dm| at x m + f (1 - m), until p_c <= 1/K for K classes or nothing is kept. Cells of equal gradient go in raster order
    (own decision). With ``map="order"`` the map is 1 - t/T for a cell removed in iteration t = 0, 1, .. of at most T, hence in
    (0, 1], and 0 for a kept one; with ``"binary"`` it is 1 and 0.

    The fill f is the image that ``fill`` makes, in MP2-G G(m, x), which an inpainter G infers from the kept cells. Taken
    literally, MP2-G ranks nothing: an inpainter leaves what it is shown as it is, so that f = x and the gradient is 0 at every
    kept cell. Own decision: f at a kept cell is what G makes of it from others. The kept cells are split into the two colours
    of a checkerboard of 2 x 2 cells, and f at those of one colour is G's answer where they are missing as well; removed cells
    are still filled with G(m, x), and the gradient is taken and the stop tested on that image. An inpainter is asked three
    times an iteration, the classifier once as with every fill.

    The blurred fill often does not reach chance although everything is removed, as the paper finds too; `removal` tells.

    Args:
        upsample: size of a grid cell in pixels; None: 8 as in the paper (28 x 28 at 224 px), 2 below 64 px (own decision).
        map: the order of removal, which ranks the cells, or only whether they were removed.
        fill: what replaces the removed cells.
    """

    iterative: ClassVar[bool] = True
    early_stop: ClassVar[bool] = True
    label: ClassVar[str] = "MP2"
    quick: ClassVar[dict[str, int]] = {"upsample": 16}

    upsample: int | None = None
    map: Literal["order", "binary"] = "order"
    fill: Fill = "blur"

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) in [0, 1]; see ``Method``."""
        filler = make_filler(self.fill, classifier, x, rng)
        order = self._order(classifier, x, y, filler)
        return enlarged(order if self.map == "order" else order > 0, x)[:, 0]

    def removal(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> tuple[Grid, Scores]:
        """The order of removal (b, rows, columns), as in the map, and the probability (b,) of class ``y`` at which it stopped.

        Chance was not reached where that probability is above 1 / classes. It takes one forward pass an image more than a call.
        """
        filler = make_filler(self.fill, classifier, x, rng)
        order = self._order(classifier, x, y, filler)
        kept = order == 0
        stop = -(-(~kept).flatten(1).sum(1) // CELLS)

        def last(image: Tensor, _step: Tensor, keep: Masks) -> Images:
            return filler(image, stop[image], keep)

        p = stream(classifier, x, 1, lambda image, _step: enlarged(kept[image], x), last, probability_of(y))
        return order, p[:, 0]

    def _order(self, classifier: Classifier, x: Images, y: Labels, filler: Filler) -> Grid:
        rows, columns = self._grid(classifier.shape)
        iterations = self._iterations(classifier.shape)
        order = x.new_zeros(len(x), rows * columns)
        left = torch.arange(len(x), device=x.device)
        for step in range(iterations):
            going = []
            for image in left.split(classifier.batch_size):
                kept = order[image].view(-1, rows, columns) == 0
                p, slope = probe(classifier, x, y, filler, image, step, kept)
                above = p > 1 / classifier.classes
                steepest = slope.masked_fill(~kept, -1).flatten(1).argsort(dim=1, descending=True, stable=True)[above, :CELLS]
                image = image[above]
                # The last of an odd number of cells is alone: beside it comes one that was removed before and stays as it is.
                rank = order[image].gather(1, steepest).clamp_min(1 - step / iterations)
                order[image] = order[image].scatter(1, steepest, rank)
                going.append(image)
            left = torch.cat(going)
            if len(left) == 0:
                break
        return order.view(-1, rows, columns)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per iteration if chance is not reached before, at most 392 of each at 224 px."""
        iterations = self._iterations(shape)
        return Passes(forward=iterations, backward=iterations)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

    def resolved(self, shape: tuple[int, int, int]) -> Mp2:
        """The same method with the default cell of images of ``shape`` filled in."""
        return self.replace(upsample=self._cell(shape))

    def at_upsample(self, m: int) -> Mp2:
        """The same method with cells of m pixels."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """The paper's mask grids of 28, 56 and 112 at 224 px; 7, 14 and 28 at 28 px (own decision)."""
        return {"grid": [self.replace(upsample=m) for m in ((8, 4, 2) if shape[-1] >= 64 else (4, 2, 1))]}

    def _cell(self, shape: tuple[int, int, int]) -> int:
        return self.upsample or default_upsample(shape)

    def _grid(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        cell = self._cell(shape)
        return -(-shape[1] // cell), -(-shape[2] // cell)

    def _iterations(self, shape: tuple[int, int, int]) -> int:
        rows, columns = self._grid(shape)
        return -(-rows * columns // CELLS)


def probe(
    classifier: Classifier, x: Images, y: Labels, filler: Filler, image: Tensor, step: int, kept: Bool[Tensor, "n rows columns"]
) -> tuple[Scores, Grid]:
    """The class probability (n,) of x[image] with only the ``kept`` cells, and how steeply it depends on every cell's mask.

    The slopes are |d log(p / (1 - p)) / dm|: an image's slopes |dp/dm| times 1 / (p (1 - p)), hence of the same order, without
    the rounding to 0 where p is close to 1.
    """
    number, keep = torch.full_like(image, step), enlarged(kept, x)
    fill = filler(image, number, keep)
    for colour in checkerboard(kept):
        without = enlarged(kept & ~colour, x)
        fill = torch.where(without < keep, filler(image, number, without), fill)
    with torch.enable_grad():
        m = kept.to(x.dtype).requires_grad_()
        logits = classifier(torch.lerp(fill, x.index_select(0, image), enlarged(m, x)))
        (slope,) = torch.autograd.grad(log_odds(logits, y[image]).sum(), m)
    return logits.detach().softmax(1).gather(1, y[image, None])[:, 0], slope.abs()


def checkerboard(grid: Tensor) -> Bool[Tensor, "2 rows columns"]:
    """The two colours of a checkerboard of 2 x 2 cells on the grid of (n, rows, columns)."""
    row, column = (torch.arange(n, device=grid.device) // BLOCK for n in grid.shape[1:])
    white = (row[:, None] + column) % 2 == 0
    return torch.stack([white, ~white])


def enlarged(grid: Tensor, x: Images) -> Masks:
    """A grid (n, rows, columns) at the size of ``x`` by nearest neighbours, (n, 1, h, w) in the type of ``x``."""
    return resized(grid[:, None].to(x.dtype), x, "nearest")


def log_odds(logits: Logits, y: Labels) -> Scores:
    """log(p / (1 - p)) of the softmax probability p of each row's class, from the logits (n, k), without rounding p to 1."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None])[:, 0] - others.logsumexp(1)
