"""Random-embedding Bayesian optimisation: the points that the stability metric searches, and the search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from bayes_opt import TargetSpace
from bayes_opt.acquisition import UpperConfidenceBound
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from xbench.types import Images

Array = npt.NDArray[np.float64]

CANDIDATES = 512
"""Random points among which the acquisition function chooses the next one."""
SCALES = np.geomspace(0.05, 100, 16)
"""Length scales to choose from, in multiples of d: at the ends points know nothing of each other, or values are quadratic."""
NUGGET = 1e-6
"""What the library adds to the diagonal of the kernel matrix."""


def half_width(dimensions: int) -> float:
    """sqrt(d): points z are searched in the box [-sqrt(d), sqrt(d)]^d (Wang et al. 2016, https://arxiv.org/abs/1301.1942)."""
    return math.sqrt(dimensions)


def embedded(x: Images, matrix: Tensor, z: Tensor, scale: float, eps: float) -> Images:
    """clip(x + eps clip(scale A z, -1, 1), 0, 1): images in the L-inf ball of radius ``eps`` around ``x`` (b, c, h, w).

    ``matrix`` holds A (b, c*h*w, d), ``z`` the points (b, d).
    """
    # A sum, not a matrix product: how that adds up may depend on the size of the batch.
    direction = scale * (matrix * z[:, None]).sum(2)
    return (x + eps * direction.clamp(-1, 1).view_as(x)).clamp(0, 1)


class LockstepSearch:
    """Maximisation by Gaussian processes in the search box, one point of every image a round.

    Every image has its own points and draws, so that its search does not depend on the others of the batch. Spaces, acquisition
    and ``suggest`` are those of the library bayesian-optimization, with its defaults: Matern 5/2 kernel, 1e-6 on the diagonal,
    normalised values, upper confidence bound with kappa 2.576. Own decisions: the acquisition is maximised over 512 random
    points without local refinement, and the kernel's length scale is found for all images at once by zooming in on the
    likeliest, instead of by six descents per image. A suggestion takes about 0.3 ms so; with the library's defaults, 300 ms.
    """

    def __init__(self, dimensions: int, seeds: Sequence[int]) -> None:
        """``seeds`` are the images' own, in 0..2**32-1, and draw the candidates."""
        box = {f"z{i}": (-half_width(dimensions), half_width(dimensions)) for i in range(dimensions)}
        self._spaces = [TargetSpace(None, box) for _ in seeds]
        self._draws = [np.random.RandomState(seed) for seed in seeds]
        self._acquisition = UpperConfidenceBound(kappa=2.576)
        self._threads = ThreadpoolController()  # made once, because it takes as long as several suggestions

    def register(self, z: Tensor, values: Tensor) -> None:
        """Adds the objective's values (b,) at the points ``z`` (b, d)."""
        for space, point, value in zip(self._spaces, z.tolist(), values.tolist(), strict=True):
            space.register(point, value)

    def suggest(self) -> Tensor:
        """The points (b, d), float64 on the CPU, to evaluate next; at least one must have been registered."""
        # Matrices this small gain nothing from several threads, which cost ten times the time where the cores are busy.
        with self._threads.limit(limits=1, user_api="blas"):
            processes = fitted(*(np.stack([getattr(s, name) for s in self._spaces]) for name in ("params", "target")))
            points = [
                self._acquisition.suggest(process, space, n_random=CANDIDATES, n_smart=0, fit_gp=False, random_state=draws)
                for process, space, draws in zip(processes, self._spaces, self._draws, strict=True)
            ]
        return torch.from_numpy(np.stack(points))


@dataclasses.dataclass(frozen=True)
class Process:
    """A Gaussian process given its points ``X_train_`` (n, d), by the names under which the library asks for it."""

    X_train_: Array
    scale: float
    factor: Array
    """The inverse of the Cholesky factor of the kernel matrix (n, n)."""
    weights: Array
    """The inverse of the kernel matrix times the normalised values (n,)."""
    mean: float
    deviation: float

    def predict(self, x: Array, return_std: bool = True) -> tuple[Array, Array]:
        """Mean and standard deviation (m,) at points (m, d); both always."""
        kernel = matern(distances(x, self.X_train_) / self.scale)
        variance = 1 - np.square(kernel @ self.factor.T).sum(1)
        return self.mean + self.deviation * (kernel @ self.weights), self.deviation * np.sqrt(variance.clip(0))


def fitted(points: Array, values: Array) -> list[Process]:
    """A process for each of b images, from their points (b, n, d) and values (b, n), at its likeliest length scale."""
    mean, deviation = values.mean(1), values.std(1)
    deviation[deviation < 10 * np.finfo(float).eps] = 1  # values that are all equal
    y = ((values - mean[:, None]) / deviation[:, None])[..., None]
    apart = distances(points, points) / points.shape[2]
    scales = _likeliest(apart, y)
    factors, whitened = _whitened(apart, y, scales)
    inverses = np.linalg.inv(factors)
    weights = (inverses.transpose(0, 2, 1) @ whitened)[..., 0]
    parts = zip(points, points.shape[2] * scales, inverses, weights, mean, deviation, strict=True)
    return [Process(*part) for part in parts]


def _likeliest(apart: Array, y: Array) -> Array:
    """The likeliest length scale (b,): the best of SCALES, then of 9 around it, then the top of the parabola through three."""
    every = np.arange(len(apart))
    scales = np.log(SCALES)[:, None].repeat(len(apart), 1)
    for count in (len(SCALES), 9):
        factors, whitened = _whitened(apart, y, np.exp(scales))
        likelihood = -0.5 * np.square(whitened).sum((2, 3)) - np.log(factors.diagonal(axis1=2, axis2=3)).sum(2)
        inside = likelihood.argmax(0).clip(1, count - 2)
        chosen, step = scales[inside, every], scales[1] - scales[0]
        scales = chosen + np.linspace(-1, 1, 9)[:, None] * step
    below, here, above = (likelihood[inside + i, every] for i in (-1, 0, 1))
    bend = np.minimum(below - 2 * here + above, -1e-12)
    likeliest: Array = np.exp(chosen + step * ((below - above) / 2 / bend).clip(-1, 1))
    return likeliest


def _whitened(apart: Array, y: Array, scales: Array) -> tuple[Array, Array]:
    """The Cholesky factors (..., b, n, n) of the kernel matrices at length scales (..., b), and their solutions for ``y``."""
    kernels = matern(apart / scales[..., None, None]) + NUGGET * np.eye(apart.shape[-1])
    factors = np.asarray(np.linalg.cholesky(kernels), dtype=np.float64)
    return factors, np.asarray(np.linalg.solve(factors, y), dtype=np.float64)


def distances(a: Array, b: Array) -> Array:
    """Euclidean distances (..., m, n) of points (..., m, d) and (..., n, d)."""
    square = np.square(a[..., :, None, 0] - b[..., None, :, 0])
    for i in range(1, a.shape[-1]):
        square += np.square(a[..., :, None, i] - b[..., None, :, i])
    return np.sqrt(square)


def matern(r: Array) -> Array:
    """Matern kernel with nu = 5/2 of distances in length scales."""
    r = math.sqrt(5) * r
    return (1 + r + r * r / 3) * np.exp(-r)
