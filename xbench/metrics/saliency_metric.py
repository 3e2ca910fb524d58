"""The saliency metric: the smallest part of the image that is enough for the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Scored
from xbench.metrics.localisation import ALPHAS, Thresholded
from xbench.ops.boxes import resized_crops
from xbench.perturb import probability_of, stream
from xbench.subset import Batch
from xbench.types import Images, Maps

SMALLEST_AREA = 0.05
SMALLEST_PROBABILITY = 1e-12


@METRICS.register("saliency-metric")
@dataclass(frozen=True)
class SaliencyMetric(Thresholded):
    r"""log max(a, 0.05) - log p_c(crop): a the share of the image in the map's box, crop what is in that; lower = better.

    $$\log \max(a, 0.05) - \log \, p_c(\text{crop})$$

    Dabkowski & Gal 2017, https://arxiv.org/abs/1705.07857. The box is the tight one around the pixels above ``alpha`` times the
    map's maximum, negative values counting as 0 (see ``threshold_boxes``); the crop is enlarged to the classifier's input,
    bicubically (see ``resized_crops``: a crop is never larger than the image, so that antialiasing has nothing to do), and its
    probability is at least 1e-12. A map that is never positive has no box: a = 0, and the crop is a black image.
    Columns, per image: ``score``, in nats, and ``area``, the share a, reported.

    The class c is the label, the one that is explained, on the held-out images too (own decision); where an evaluation part
    holds correctly predicted images only, it is the predicted class.

    Args:
        alpha: the threshold. None: the one of 0, 0.05, .., 0.95 with the lowest mean score on images of the dataset's held-out
            part, for every method its own and for this metric its own; of equal ones the smallest.
        heldout: on how many images of that part at most (own decision: 100).
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("score", "Saliency metric", False, "nats"),
        Column("area", "Area of the box", None),
    )

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The scores and the boxes' shares of the image (b,)."""
        boxes = self.boxes(maps)[:, None]
        return Scored({"score": self.losses(explainer, batch, boxes)[:, 0], "area": shares(batch.x, boxes)[:, 0]})

    def losses(self, explainer: Explainer, batch: Batch, boxes: Tensor) -> Tensor:
        """The scores of the crops, in nats."""

        def crop(image: Tensor, step: Tensor, _keep: Tensor) -> Images:
            return resized_crops(batch.x.index_select(0, image), boxes[image, step])

        def nothing(image: Tensor, _step: Tensor) -> Tensor:
            return batch.x.new_zeros(len(image), 1, 1, 1)

        # A crop replaces every pixel of its image.
        p = stream(explainer.classifier, batch.x, boxes.shape[1], nothing, crop, probability_of(batch.target))
        return shares(batch.x, boxes).clamp_min(SMALLEST_AREA).log() - p.clamp_min(SMALLEST_PROBABILITY).log()

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass of the crop."""
        return Passes(forward=1)

    def calibration_cost(self, classifier: Classifier) -> Passes:
        """One forward pass per threshold."""
        return Passes(forward=len(ALPHAS))


def shares(x: Images, boxes: Tensor) -> Tensor:
    """The share (b, n) of an image's area that each box (b, n, 4) covers."""
    return torch.prod(boxes[..., 2:] - boxes[..., :2], -1) / (x.shape[2] * x.shape[3])
