"""Infidelity: does a map predict how much the class's logit changes when the image is disturbed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Point, Scored
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.trajectory import WHOLE, ask
from xbench.types import Images, Maps, Masks


@METRICS.register("infidelity")
@dataclass(frozen=True)
class Infidelity(Metric):
    r"""Mean of (I . g(x) - (f_c(x) - f_c(x - I)))^2 over Gaussian perturbations I of the image; lower = better.

    $$
    \text{infidelity} = \text{mean}_I \left[ \left( I \cdot g - (f_c(x) - f_c(x - I)) \right)^2 \right], \quad \text{scaled} =
    \min_a \text{mean}_I \left[ \left( a \, I \cdot g - (f_c(x) - f_c(x - I)) \right)^2 \right]
    $$

    - ``scaled``: the map g(x) is first multiplied by the factor of its own that makes the mean smallest; a map of zeros is left
      as it is. In squared logits, like the next.
    - ``infidelity``: the map as it is. Reported and not ranked, because a map's unit is its method's own (own decision).

    f_c is the logit of the class, before the softmax (own decision). I is N(0, ``std``) for every pixel and channel; x - I is
    not clipped to [0, 1], else the image would not change by I. A map has one value a pixel, which counts for each of its
    channels: I . g(x) is the sum over pixels of g(x) times the sum of I over the channels, as in Captum for the map expanded to
    the image's shape. The best factor may be negative: a map and its negative have the same ``scaled``.

    Source: Yeh et al. 2019, https://arxiv.org/abs/1901.09392, definition 2.1, section 2.3 on the factor; as
    ``captum.metrics.infidelity``.

    Args:
        std: of the perturbations, in [0, 1] pixel units, above 0 (own decision: 0.03).
        draws: perturbations per image, at least 1 (own decision: 50); the factor is chosen on the same draws, so that few of
            them make ``scaled`` too small.

    Raises ValueError for a parameter out of range.
    """

    std: float = 0.03
    draws: int = 50

    columns: ClassVar[tuple[Column, ...]] = (
        Column("scaled", "Infidelity, optimally scaled", False),
        Column("infidelity", "Infidelity", None),
    )
    quick: ClassVar[dict[str, Any]] = {"draws": 4}

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Both scores (b,)."""
        assert maps is not None
        x = batch.x
        rng = ImageRandom(explainer.seed, batch.ids)
        claimed = maps.new_full((len(x), self.draws + 1), torch.nan, dtype=torch.float64)
        claimed[:, 0] = 0

        def disturbance(image: Tensor, step: Tensor) -> Images:
            # I . g(x) is noted here, where the perturbation is at hand.
            noise = self.std * rng.normal_at("perturbation", x.shape[1:], image, step).to(x)
            claimed[image, step] = (maps.index_select(0, image).double() * noise.sum(1)).sum((1, 2))
            return noise

        def perturbed(image: Tensor, step: Tensor, _keep: Masks) -> Images:
            return x.index_select(0, image) - disturbance(image, step)

        def nothing(image: Tensor, _step: Tensor) -> Masks:
            return x.new_zeros(len(image), 1, 1, 1)

        f = ask(explainer, batch, self.points(explainer.method, explainer.classifier), nothing, perturbed).logit.double()
        stored = claimed.isnan().nonzero()  # perturbations whose answers were there
        for part in stored.split(explainer.classifier.batch_size) if len(stored) else ():
            disturbance(part[:, 0], part[:, 1])
        changed, claimed = f[:, :1] - f[:, 1:], claimed[:, 1:]
        square = claimed.square().sum(1)
        factor = torch.where(square > 0, (claimed * changed).sum(1) / square.clamp_min(torch.finfo(square.dtype).tiny), 0)
        return Scored(
            {
                "scaled": (factor[:, None] * claimed - changed).square().mean(1),
                "infidelity": (claimed - changed).square().mean(1),
            }
        )

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass per perturbation, and one of the image."""
        return Passes(forward=len(self.points(method, classifier)))

    def points(self, method: Method, classifier: Classifier) -> list[Point]:
        """The image, and its perturbations, which are the same for every map."""
        return [WHOLE, *(Point(f"normal {self.std} draw {step}", of_map=False) for step in range(1, self.draws + 1))]
