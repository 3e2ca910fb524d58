"""Random-embedding Bayesian optimisation: the points that the stability metric searches, and the search."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from bayes_opt import TargetSpace
from bayes_opt.acquisition import UpperConfidenceBound
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
from torch import Tensor

from xbench.types import Images

CANDIDATES = 512
"""Random points among which the acquisition function chooses the next one."""


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

    Every image has its own points and draws, so that its search does not depend on the others of the batch. The optimiser is
    that of the library bayesian-optimization: Matern 5/2 kernel, normalised values, and as acquisition its default, the upper
    confidence bound with kappa 2.576. Own decisions: the acquisition is maximised over 512 random points without local
    refinement, and the kernel's length scale is fitted without restarts, which takes about 3 ms instead of 0.3 s.
    """

    def __init__(self, dimensions: int, seeds: Sequence[int]) -> None:
        """``seeds`` are the images' own, in 0..2**32-1, and draw the candidates."""
        box = {f"z{i}": (-half_width(dimensions), half_width(dimensions)) for i in range(dimensions)}
        self._spaces = [TargetSpace(None, box) for _ in seeds]
        self._draws = [np.random.RandomState(seed) for seed in seeds]
        self._process = GaussianProcessRegressor(Matern(nu=2.5), alpha=1e-6, normalize_y=True)  # fitted anew each time
        self._acquisition = UpperConfidenceBound(kappa=2.576)
        self._threads = ThreadpoolController()  # made once, because it takes as long as several suggestions

    def register(self, z: Tensor, values: Tensor) -> None:
        """Adds the objective's values (b,) at the points ``z`` (b, d)."""
        for space, point, value in zip(self._spaces, z.tolist(), values.tolist(), strict=True):
            space.register(point, value)

    def suggest(self) -> Tensor:
        """The points (b, d), float64 on the CPU, to evaluate next; at least one must have been registered.

        The library silences scikit-learn's warnings for the fit alone: length scales at their bound are usual with few points.
        """
        # Matrices this small gain nothing from several threads, which cost ten times the time where the cores are busy.
        with self._threads.limit(limits=1, user_api="blas"):
            points = [
                self._acquisition.suggest(self._process, space, n_random=CANDIDATES, n_smart=0, random_state=draws)
                for space, draws in zip(self._spaces, self._draws, strict=True)
            ]
        return torch.from_numpy(np.stack(points))
