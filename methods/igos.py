"""I-GOS: a mask optimised along integrated gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method, default_upsample
from xbench.ops.blur import gaussian_blur
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps, Scores

NOISE = 0.2
"""Standard deviation of the noise on the normalised images of a path."""
DECAY = 0.2
SLOPE = 1e-4
SMALLEST = 1e-5
"""The line search goes on from step sizes down to this one."""

Grids = Float[Tensor, "b masks rows columns"]
"""One or more keep-masks for each image, 1 = untouched."""
Penalty = Callable[[Tensor, Grids], Scores]
"""(image indices, their grids) -> what the optimiser adds to the scores of each image."""


@dataclass(frozen=True)
class Igos(Method):
    """Parameters and optimiser of both I-GOS and I-GOS++; a subclass says which masks are composed how.

    Args:
        iterations: steps of gradient descent.
        points: of the path over which the gradient is integrated.
        upsample: size m of a grid cell in pixels; None: 8 (28 x 28 at 224 px), 2 below 64 px (own decision).
        step: step size with which the line search begins.
        sparsity: weight of the mean of 1 - m.
        smoothness: weight of the total variation.
        seed: of the noise.
    """

    iterative: ClassVar[bool] = True
    early_stop: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"iterations": 2, "points": 3, "sparsity": 0.0}
    masks: ClassVar[int]
    """Grids optimised for an image."""
    signs: ClassVar[tuple[int, ...]]
    """The scores that are summed: 1 where the mask deletes from the image, -1 where it deletes from what is inserted."""
    half: ClassVar[float] = 1.0
    """Factor of the scores' gradient, but not of the scores, in a step."""

    iterations: int = 15
    points: int = 20
    upsample: int | None = None
    step: float = 1000.0
    sparsity: float = 1.0
    smoothness: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")
        if self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}")
        for name in ("sparsity", "smoothness"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def composed(self, masks: Float[Tensor, "b masks h w"]) -> Float[Tensor, "b scores h w"]:
        """The mask of each of the scores, in the order of ``signs``."""
        raise NotImplementedError

    def penalty(self, classifier: Classifier, x: Images) -> Penalty:
        """The weighted sparsity and total variation for images ``x``."""
        raise NotImplementedError

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) in [0, 1]: 1 - the product of the masks; see ``Method``."""
        # As many images as have their paths in one batch; a single one whose paths fill more than one.
        chunks = torch.arange(len(x), device=x.device).split(max(1, classifier.batch_size // (self.points * len(self.signs))))
        with torch.enable_grad():
            grids = [
                self._optimised(classifier, x[i], y[i], ImageRandom(rng.seed, [rng.ids[j] for j in i.tolist()])) for i in chunks
            ]
        return enlarged(1 - torch.cat(grids).prod(1, keepdim=True), x)[:, 0]

    def _optimised(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Grids:
        """The optimised grids; every image has its own line search, so the images of a batch do not touch each other."""
        b, _, h, w = x.shape
        cell = self._cell(classifier.shape)
        penalty = self.penalty(classifier, x)
        background = blurred(x)
        everyone = torch.arange(b, device=x.device)
        grids = x.new_ones(b, self.masks, -(-h // cell), -(-w // cell))
        signs = torch.tensor(self.signs, device=x.device)

        def scores(image: Tensor, composed: Tensor, noise: Tensor, backward: bool) -> tuple[Scores, Tensor]:
            """The signed sum of each image's scores, and, if asked for, its gradient at the composed masks."""
            return path_scores(classifier, x, background, y, image, composed, noise, signs, backward)

        for iteration in range(self.iterations):
            noise = NOISE * rng.normal("path", (len(signs), self.points, *x.shape[1:]), iteration).to(x) * classifier.std
            leaf = grids.detach().requires_grad_()
            composed = self.composed(enlarged(leaf, x))
            value, slope = scores(everyone, composed.detach(), noise, True)
            extra = penalty(everyone, leaf)
            (gradient,) = torch.autograd.grad([composed, extra], leaf, [self.half * slope, torch.ones_like(extra)])
            with torch.no_grad():

                def loss(image: Tensor, candidates: Grids, noise: Tensor = noise) -> Scores:
                    made = self.composed(enlarged(candidates, x))
                    return scores(image, made, noise, False)[0] + penalty(image, candidates)

                grids = line_search(grids, gradient, value + extra.detach(), loss, self.step)
        return grids

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """A forward and backward pass per iteration, score and point, and the longest line search: a forward pass per trial."""
        passes = self.iterations * len(self.signs) * self.points
        return Passes(forward=passes * (1 + trials(self.step)), backward=passes)

    def resolved(self, shape: tuple[int, int, int]) -> Igos:
        """The same method with the default cell of images of ``shape`` filled in."""
        return self.replace(upsample=self._cell(shape))

    def at_upsample(self, m: int) -> Igos:
        """The same method with cells of m pixels."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

    def _cell(self, shape: tuple[int, int, int]) -> int:
        return self.upsample or default_upsample(shape)


@METHODS.register("igos")
@dataclass(frozen=True)
class IntegratedGradientOptimisedSaliency(Igos):
    r"""The smallest smooth deletion that destroys the class probability along the whole path to the baseline (I-GOS).

    $$
    g = 1 - m, \quad m = \operatorname{argmin}_m \frac{1}{n} \sum_{i=1}^{n} p_c(a_i m x + (1 - a_i m) \tilde x + e_i) +
    \lambda_1 \, \text{mean}(1 - m) + \lambda_2 \, \text{TV}(m), \quad a_i = \frac{i}{n}
    $$

    x~ is the blurred image, e_i noise, lambda_1 the ``sparsity`` and lambda_2 the ``smoothness``.

    Qi, Khorram and Li 2020 (https://arxiv.org/abs/1905.00954), in the form of the authors' code
    (https://github.com/khorrams/IGOS_pp). A keep-mask m on a coarse grid, 1 at first, is enlarged bilinearly (corners aligned).
    Its score is the mean over a = 1/n, 2/n, .., 1 of the probability p_c(a m x + (1 - a m) blurred x + noise), n the
    ``points``, noise of standard deviation 0.2 in the classifier's normalised units; to it come the mean of 1 - m and 20 times
    the total variation, the mean squared difference of neighbouring cells along each axis. Every step descends the gradient of
    the sum by a backtracking line search: step sizes 1000, 200, 40, .. until the sum falls by 1e-4 times the step size times
    the squared gradient, or the step size is below 1e-5. The map is 1 - m, in [0, 1]: 1 = deleted.

    Own decisions: one noise for all evaluations of an iteration, where the code draws a new one for each, so that the search
    compares like with like. The code's program calls its function with the numbers of points and iterations swapped; here they
    are what they are called. The search begins at 1000 as in that program (8 is only the function's own default). The blur has
    a standard deviation of 50 px, cut off at 25 px, at 224 px, scaled with the height, with replicated borders.

    Args:
        iterations: steps of gradient descent.
        points: of the path over which the gradient is integrated.
        upsample: size m of a grid cell in pixels; None: 8 (28 x 28 at 224 px), 2 below 64 px (own decision).
        step: step size with which the line search begins.
        sparsity: weight of the mean of 1 - m.
        smoothness: weight of the total variation.
        seed: of the noise.
    """

    label: ClassVar[str] = "I-GOS"
    masks: ClassVar[int] = 1
    signs: ClassVar[tuple[int, ...]] = (1,)

    def composed(self, masks: Float[Tensor, "b masks h w"]) -> Float[Tensor, "b scores h w"]:
        """The mask itself."""
        return masks

    def penalty(self, classifier: Classifier, x: Images) -> Penalty:
        """Mean of 1 - m and total variation of the grid."""
        return lambda image, grids: self.sparsity * (1 - grids).abs().mean((1, 2, 3)) + self.smoothness * variation(grids)


def path_scores(
    classifier: Classifier,
    x: Images,
    background: Images,
    y: Labels,
    image: Tensor,
    composed: Float[Tensor, "n scores h w"],
    noise: Float[Tensor, "b scores points c h w"],
    signs: Tensor,
    backward: bool,
) -> tuple[Scores, Tensor]:
    """For each of the images x[image]: the signed sum over scores of the mean class probability on the path, and its gradient.

    A score of sign 1 keeps x and one of sign -1 keeps the background where its mask is 1. The gradient (n, scores, h, w) is
    that at the ``composed`` masks, zeros if ``backward`` is False.
    """
    n, k, h, w = composed.shape
    points = noise.shape[2]
    ends, drawn = torch.cat([background, x]), noise.flatten(0, 2)
    flat = torch.cartesian_prod(*(torch.arange(size, device=x.device) for size in (n, k, points)))
    values: list[Tensor] = []
    slopes: list[Tensor] = []
    for part in flat.split(classifier.batch_size):
        row, score, point = part.unbind(1)
        weight = signs[score].to(x) / points
        share = ((point + 1).to(x) / points)[:, None, None, None]
        keep = composed.flatten(0, 1).index_select(0, row * k + score)[:, None].requires_grad_(backward)
        keeping = signs[score] > 0
        start, end = (ends.index_select(0, image[row] + len(x) * last) for last in (~keeping, keeping))
        images = torch.lerp(start, end, share * keep) + drawn.index_select(0, (image[row] * k + score) * points + point)
        p = classifier(images).softmax(1).gather(1, y[image[row], None])[:, 0] * weight
        values.append(p.detach())
        if backward:
            slopes += torch.autograd.grad(p.sum(), keep)
    gradient = torch.cat(slopes).view(n, k, points, h, w).sum(2) if backward else torch.zeros_like(composed)
    return torch.cat(values).view(n, -1).sum(1), gradient


def line_search(grids: Grids, gradient: Grids, base: Scores, loss: Callable[[Tensor, Grids], Scores], step: float) -> Grids:
    """The grids after a step down the ``gradient``, clamped to [0, 1], of the largest size that lowers the loss enough.

    Sizes are ``step`` times 0.2, 0.04, ..; enough is by 1e-4 times the size times the squared gradient of the image (Armijo).
    An image for which none is enough takes the first size below 1e-5.
    """
    image, size = torch.arange(len(grids), device=grids.device), step
    result = grids.clone()
    square = gradient.square().sum((1, 2, 3))
    while len(image):
        result[image] = (grids[image] - size * gradient[image]).clamp(0, 1)
        enough = loss(image, result[image]) <= base[image] - size * SLOPE * square[image]
        if size < SMALLEST:
            break
        image, size = image[~enough], size * DECAY
    return result


def trials(step: float) -> int:
    """The most step sizes that a line search from ``step`` tries."""
    return 1 + max(0, math.floor(math.log(step / SMALLEST) / -math.log(DECAY)) + 1)


def enlarged(grids: Float[Tensor, "b masks rows columns"], x: Images) -> Float[Tensor, "b masks h w"]:
    """Grids bilinearly at the size of ``x``, the outermost cells at its corners."""
    return resized(grids, x, "corners")


def blurred(x: Images) -> Images:
    """The baseline: a Gaussian of 50 px, cut off at 25 px, at 224 px, scaled with the height."""
    return gaussian_blur(x, 50 * x.shape[2] / 224, max(1, round(25 * x.shape[2] / 224)))


def variation(grids: Float[Tensor, "b 1 rows columns"]) -> Scores:
    """The mean squared difference of vertical neighbours, plus that of horizontal ones."""
    return mean_square(grids.diff(dim=2)) + mean_square(grids.diff(dim=3))


def mean_square(differences: Tensor, weight: float | Tensor = 1.0) -> Scores:
    """The mean weighted square of each image's values (b, ...); 0 if there are none, in a grid of one row."""
    return (weight * differences.square()).flatten(1).sum(1) / max(1, differences[0].numel())
