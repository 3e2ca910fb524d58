"""Localisation: is the box around the largest values of a map the box of the object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops.boxes import max_iou, threshold_boxes
from xbench.subset import Batch
from xbench.types import Maps

ALPHAS = tuple(i / 20 for i in range(20))
"""The thresholds to choose from: 0, 0.05, .., 0.95 of a map's maximum."""
TIE = 1e-6
"""Mean losses that differ by less are equal, so that rounding does not choose (own decision)."""


@dataclass(frozen=True)
class Thresholded(Metric):
    """Base of the metrics on the tight box of a map above ``alpha`` times its maximum; subclasses implement ``losses``.

    Raises ValueError if ``alpha`` is not in [0, 1) or ``heldout`` is below 1.
    """

    alpha: float | None = None
    heldout: int = 100

    target_rule: ClassVar[Literal["predicted", "label"]] = "label"

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha < 1:
            raise ValueError(f"alpha={self.alpha}: must be in [0, 1), or None to choose it on held-out images")
        if self.heldout < 1:
            raise ValueError(f"heldout={self.heldout}: must be at least 1")

    def losses(self, explainer: Explainer, batch: Batch, boxes: Tensor) -> Tensor:
        """Losses (b, n), lower = better, of n boxes (b, n, 4) per image; NaN where an image has none."""
        raise NotImplementedError

    def boxes(self, maps: Maps | None) -> Tensor:
        """The maps' boxes (b, 4) at the chosen threshold; ValueError if none is chosen."""
        assert maps is not None
        if self.alpha is None:
            raise ValueError(f"{self.spec} has no threshold: calibrate it on held-out images, or give alpha=")
        return threshold_boxes(maps, torch.tensor([self.alpha], device=maps.device, dtype=maps.dtype))[:, 0]

    @property
    def calibration_images(self) -> int:
        """``heldout``, or 0 if ``alpha`` is given."""
        return self.heldout if self.alpha is None else 0

    def calibrate(self, explainer: Explainer, heldout: Batch, maps: Maps | None) -> Self:
        """The metric at the smallest of the alphas whose mean loss on the held-out images is lowest."""
        assert maps is not None
        alphas = torch.tensor(ALPHAS, device=maps.device, dtype=maps.dtype)
        mean = self.losses(explainer, heldout, threshold_boxes(maps, alphas)).double().nanmean(0)
        if bool(mean.isnan().any()):
            raise NotApplicable(f"no held-out image has a true box to choose alpha on: give {self.name}(alpha=...)")
        return self.replace(alpha=ALPHAS[int((mean <= mean.min() + TIE).byte().argmax())])


@METRICS.register("localisation")
@dataclass(frozen=True)
class Localisation(Thresholded):
    r"""Share of images on which the box of the map misses the object: its IoU with every true box is below 0.5; lower = better.

    $$
    \text{error} = \left[ \max_B \text{IoU}(b_\alpha, B) < \frac{1}{2} \right], \quad b_\alpha = \text{box} \{ u : \max(g(u), 0)
    > \alpha \max g \}
    $$

    B are the true boxes; [.] is 1 where the condition holds, else 0.

    The box is the tight one around the pixels above ``alpha`` times the map's maximum, negative values counting as 0 (see
    ``threshold_boxes``); a map that is never positive has no box and an IoU of 0. Columns, per image:

    - ``error``: 1 if the largest IoU over the true boxes is below 0.5, else 0;
    - ``iou``: that IoU, reported and not ranked: the same box, measured finer;
    - ``whole``: the error of the whole image as box, reported: what knowing nothing scores (0.386 to 0.397 on ImageNet).

    ``curves["iou"]`` (b, 20) is the IoU at every threshold. An image without a true box has no score.

    Source: Fong & Vedaldi 2017, https://arxiv.org/abs/1704.03296, with the thresholds by value of Cao et al. 2015, also in
    Agarwal & Nguyen 2020, https://arxiv.org/abs/1910.04256. The class explained is the label, whose object the boxes show, on
    the held-out images too, which the classifier may take for something else (own decision); where an evaluation part holds
    correctly predicted images only, it is the predicted class.

    Args:
        alpha: the threshold. None: the one of 0, 0.05, .., 0.95 with the lowest mean error on images of the dataset's held-out
            part, for every method its own; of equal ones the smallest.
        heldout: on how many images of that part at most (own decision: 100).
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("error", "Localisation error", False),
        Column("iou", "IoU", None),
        Column("whole", "Localisation error of the whole image", None),
    )
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("threshold, share of the map's maximum", 0, 0.95)
    needs_boxes: ClassVar[bool] = True

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Error, IoU and the whole image's error (b,), and the IoU at every threshold."""
        assert maps is not None
        _, h, w = maps.shape
        whole = maps.new_tensor([0, 0, w, h]).expand(len(maps), 4)
        every = threshold_boxes(maps, maps.new_tensor(ALPHAS))
        iou = overlaps(batch, torch.cat([self.boxes(maps)[:, None], whole[:, None], every], 1))
        error = misses(iou)
        scores = {"error": error[:, 0], "iou": iou[:, 0], "whole": error[:, 1]}
        without = {int(i): "no true box" for i in iou[:, 0].isnan().nonzero()[:, 0]}
        return Scored(scores, {"iou": iou[:, 2:]}, dict.fromkeys(scores, without))

    def losses(self, explainer: Explainer, batch: Batch, boxes: Tensor) -> Tensor:
        """1 where a box's IoU with every true box is below 0.5, else 0."""
        return misses(overlaps(batch, boxes))

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """None beside the maps."""
        return Passes()


def overlaps(batch: Batch, boxes: Tensor) -> Tensor:
    """Largest IoU (b, n) of boxes (b, n, 4) with each image's true boxes; NaN for an image that has none."""
    assert batch.boxes is not None, "the images have no boxes"
    none = torch.tensor([len(truth) == 0 for truth in batch.boxes], device=boxes.device)
    return max_iou(boxes, batch.boxes).masked_fill(none[:, None], torch.nan)


def misses(iou: Tensor) -> Tensor:
    """1 where the IoU is below 0.5, 0 where it is not, NaN where it is NaN."""
    return (iou < 0.5).to(iou).masked_fill(iou.isnan(), torch.nan)
