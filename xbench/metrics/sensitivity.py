"""Sensitivity of a method to its hyper-parameters (SAM)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops import similarity
from xbench.ops.normalise import minmax
from xbench.subset import Batch
from xbench.types import Maps


@METRICS.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(Metric):
    r"""Similarity of a method's maps across settings of a hyper-parameter: mean over the pairs of a sweep, then over sweeps.

    $$\text{mean}_{\text{sweeps}} \; \frac{2}{n (n - 1)} \sum_{i < j} \text{sim}(g_i, g_j)$$

    g_1, .., g_n are the maps of a sweep.

    Compared by SSIM (uniform window 5, sample variances), Pearson correlation of HOG descriptors (cells of 16 px; 4 px below
    64 px, own decision), and Spearman correlation, as in the authors' code. SSIM and HOG see maps min-max normalised to [0, 1]
    (own decision: the authors divide by the largest absolute value and take a data range of 2), Spearman the raw maps. The mean
    over sweeps is an own decision; the curves ``<column> <sweep>`` hold every pair (b, pairs). An image with a constant map has
    no correlations: they are NaN.

    Source: Bansal, Agarwal & Nguyen 2020, https://arxiv.org/abs/2003.08754. Which settings are compared each method declares.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("ssim", "SSIM", True),
        Column("hog", "HOG Pearson correlation", True),
        Column("spearman", "Spearman correlation", True),
    )
    uses_maps: ClassVar[bool] = False

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """SSIM, HOG and Spearman similarity (b,) of each image's maps; ``maps`` is not used."""
        curves: dict[str, Tensor] = {}
        means: dict[str, list[Tensor]] = {column.name: [] for column in self.columns}
        for sweep, methods in explainer.method.sweeps(explainer.classifier.shape).items():
            views = [_views(explainer.using(method).maps(batch)) for method in methods]
            compared = [similarity.compare_views(a, b) for a, b in combinations(views, 2)]
            for name in means:
                curves[f"{name} {sweep}"] = torch.stack([values[name] for values in compared], 1)
                means[name].append(curves[f"{name} {sweep}"].mean(1))
        scores = {name: torch.stack(parts, 1).mean(1) for name, parts in means.items()}
        why = {"hog": "map without gradient", "spearman": "constant map"}
        return Scored(scores, curves, similarity.undefined(scores, why))

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """The passes of every setting of every sweep."""
        return sum((setting.cost_for(classifier) for setting in self.explains(method, classifier)), Passes())

    def explains(self, method: Method, classifier: Classifier) -> list[Method]:
        """Every setting of every sweep."""
        return [setting for methods in method.sweeps(classifier.shape).values() for setting in methods]

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """``no hyper-parameter to sweep`` if the method declares none."""
        return None if method.sweeps(classifier.shape) else "no hyper-parameter to sweep"


def _views(maps: Maps) -> dict[str, Tensor]:
    scaled = minmax(maps)
    descriptor = similarity.hog(scaled, similarity.hog_cell(maps.shape[1]))
    return {"ssim": scaled, "hog": descriptor, "spearman": similarity.average_ranks(maps)}
