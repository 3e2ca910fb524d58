"""Consistency of a method across the resolutions of its mask grid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops import similarity
from xbench.ops.normalise import minmax
from xbench.subset import Batch
from xbench.types import Maps


@METRICS.register("consistency")
@dataclass(frozen=True)
class Consistency(Metric):
    r"""Similarity of a method's maps across mask grids of 1/m of the image, mean over all pairs of ``sizes``.

    $$
    \frac{1}{\lvert P \rvert} \sum_{(a, b) \in P} \text{sim}(g_a, g_b), \quad \text{sim} = \text{SSIM}, \; \text{corr}, \; 10
    \log_{10} \frac{1}{\text{mean} (g_a - g_b)^2}
    $$

    g_m is the map at 1/m of the image, P are the pairs of sizes.

    Maps are min-max normalised to [0, 1] and compared by SSIM (Wang et al. 2004: Gaussian window 11, sigma 1.5, data range 1),
    Pearson correlation, and PSNR in dB, whose mean squared error is floored at 1e-10 (100 dB; the record counts the floored
    pairs). ``sizes`` are by default 4, 8, 16, and below 64 px 1, 2, 4. An image with a constant map has no correlation: its
    ``pc`` is NaN.

    Source: "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission); floor and NaN are own decisions.
    Raises ValueError unless ``sizes`` are at least two different positive integers.
    """

    sizes: tuple[int, ...] | None = None

    columns: ClassVar[tuple[Column, ...]] = (
        Column("ssim", "SSIM", True),
        Column("pc", "Pearson correlation", True),
        Column("psnr", "PSNR", True, "dB"),
    )
    uses_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sizes is not None and (len(set(self.sizes)) < max(2, len(self.sizes)) or min(self.sizes) < 1):
            raise ValueError(f"sizes={self.sizes}: give at least two different positive integers")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """SSIM, Pearson correlation and PSNR (b,) of each image's maps; ``maps`` is not used."""
        methods = self.explains(explainer.method, explainer.classifier)
        views = [minmax(explainer.using(method).maps(batch)) for method in methods]
        pairs = list(combinations(views, 2))
        decibel, floored = zip(*(similarity.psnr(a, b) for a, b in pairs), strict=True)
        scores = {
            "ssim": torch.stack([similarity.ssim(a, b) for a, b in pairs], 1).mean(1),
            "pc": torch.stack([similarity.pearson(a, b) for a, b in pairs], 1).mean(1),
            "psnr": torch.stack(decibel, 1).mean(1),
        }
        return Scored(
            scores,
            reasons=similarity.undefined(scores, {"pc": "constant map"}),
            record={"floored_psnr_pairs": float(torch.stack(floored).sum())},
        )

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """The passes of the method at every size."""
        return sum((each.cost_for(classifier) for each in self.explains(method, classifier)), Passes())

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """``no mask grid`` if the method cannot be set to one of the sizes."""
        try:
            self.explains(method, classifier)
        except NotApplicable as reason:
            return str(reason)
        return None

    def explains(self, method: Method, classifier: Classifier) -> list[Method]:
        """The method at every size; NotApplicable if it cannot be set to one of them."""
        sizes = self.sizes or ((1, 2, 4) if classifier.shape[-1] < 64 else (4, 8, 16))
        methods = [found for m in sizes if (found := method.at_upsample(m)) is not None]
        if len(methods) < len(sizes):
            raise NotApplicable("no mask grid")
        return methods
