"""Sensitivity-max: the largest relative change of a map under small random changes of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Maps


@METRICS.register("sensitivity-max")
@dataclass(frozen=True)
class SensitivityMax(Metric):
    r"""max ||g(x') - g(x)||_2 / ||g(x)||_2 over images x' drawn uniformly within ``radius`` of x; lower = better.

    $$\max_{x'} \frac{\| g(x') - g(x) \|_2}{\| g(x) \|_2}, \quad x' \sim U(x - r, x + r)$$

    Multiplying a map by a number changes nothing; adding one does. Every pixel and channel moves by up to ``radius``; x' is not
    clipped to [0, 1], as in Captum. The class stays the batch's, and a stochastic method draws the same random numbers for x'
    as for x, else the score would measure noise (own decisions). A map of zeros has no relative change: its score is NaN
    (Captum divides by 1 instead). ``curves["change"]`` (b, draws) is the relative change of every draw.

    The score is a lower bound of the maximum over the ball, which ``stability`` searches for; few draws in many dimensions
    are all about equally far from x.

    Source: Yeh et al. 2019, https://arxiv.org/abs/1901.09392, definition 3.1, relative to the map's norm as in
    ``captum.metrics.sensitivity_max``.

    Args:
        radius: in [0, 1] pixel units, in (0, 1] (Captum's default: 0.02).
        draws: images x', at least 1 (Captum's default: 10).

    Raises ValueError for a parameter out of range.
    """

    radius: float = 0.02
    draws: int = 10

    columns: ClassVar[tuple[Column, ...]] = (Column("sensitivity_max", "Sensitivity-max", False),)
    quick: ClassVar[dict[str, Any]] = {"draws": 2}

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius must be in (0, 1], got {self.radius}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The largest changes (b,), and every draw's (b, draws)."""
        assert maps is not None
        x = batch.x
        rng = ImageRandom(explainer.seed, batch.ids)
        # In multiples of a map's largest value, so that squares of tiny or huge values neither vanish nor overflow.
        unit = maps.abs().amax((1, 2), keepdim=True).double()
        size = (maps / unit).flatten(1).norm(dim=1)
        draws = (rng.uniform("ball", x.shape[1:], step) for step in range(self.draws))
        moved = (x + self.radius * (2 * draw - 1).to(x) for draw in draws)
        explained = explainer.maps_of_variants(batch, moved)
        changes = [((new - maps) / unit).flatten(1).norm(dim=1) / size for _, new in explained]
        zero = unit[:, 0, 0] == 0
        curve = torch.stack(changes, 1).masked_fill(zero[:, None], torch.nan)
        reasons = {"sensitivity_max": {int(i): "map of zeros" for i in zero.nonzero()[:, 0]}}
        return Scored({"sensitivity_max": curve.amax(1)}, {"change": curve}, reasons)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """The method's passes times the draws."""
        return method.cost_for(classifier) * self.draws
