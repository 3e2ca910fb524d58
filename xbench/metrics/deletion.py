"""Deletion: how fast the class probability falls when the most important pixels are removed first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.fill import make_filler
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops.ranking import ranks
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Maps

STEPS = 28


@METRICS.register("deletion")
@dataclass(frozen=True)
class Deletion(Metric):
    """Area under the softmax probability of the class against the share of pixels removed, most important first.

    Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421. Every step removes the next ceil(h*w / 28) pixels, until none
    is left; they become the classifier's mean pixel, the zero of its normalised input, as in the authors' code. The area is
    taken by trapezoid, lies in [0, 1] and is not divided by the maximum; lower = better.

    ``curves["probability"]`` (b, points) is the curve from the whole image on: 29 points at 28 and at 224 px.

    Own decisions: at most 28 steps at any size; the area uses the exact share removed, even where the last step has
    fewer pixels left (the authors' code takes all steps for equal); ties are broken by image (see ``ranks``).
    """

    columns: ClassVar[tuple[Column, ...]] = (Column("auc", "Deletion", False),)
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the pixels removed", 0, 1)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the curves."""
        assert maps is not None
        _, h, w = maps.shape
        removed = removed_counts(h * w).to(maps.device)
        rng = ImageRandom(explainer.seed, batch.ids)
        order = ranks(maps, rng.uniform("ties", (h * w,)))

        def mask_of(image: Tensor, step: Tensor) -> Tensor:
            return (order[image] >= removed[step, None]).view(-1, 1, h, w)

        classifier = explainer.classifier
        fill = make_filler("gray", classifier, batch.x, rng)
        curve = stream(classifier, batch.x, len(removed), mask_of, fill, probability_of(batch.target))
        return Scored({"auc": torch.trapezoid(curve, removed.to(curve) / (h * w), dim=1)}, {"probability": curve})

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass per point of the curve."""
        return Passes(forward=len(removed_counts(classifier.shape[1] * classifier.shape[2])))


def removed_counts(pixels: int) -> Tensor:
    """Pixels removed at every point of the curve, int64: 0, then steps of ceil(pixels / 28), at last all ``pixels``."""
    step = -(-pixels // STEPS)
    return torch.tensor([*range(0, pixels, step), pixels])
