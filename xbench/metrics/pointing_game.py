"""The pointing game: does the maximum of a map lie on the object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.metrics._truth import object_pixels
from xbench.subset import Batch
from xbench.trajectory import pixel_order
from xbench.types import Maps


@METRICS.register("pointing-game")
@dataclass(frozen=True)
class PointingGame(Metric):
    r"""1 if the pixel of the map's maximum lies in a true box of the image or near it, else 0; higher = better.

    $$\left[ \min_{v \in B} \lvert v - \operatorname{argmax} g \rvert \le \text{tolerance} \cdot \frac{h}{224} \right]$$

    B are the pixels in the true boxes; [.] is 1 where the condition holds, else 0.

    Near is within ``tolerance`` of a box's pixels: of those whose centre lies in the box, the nearest one's is at most that
    far. An image with a mask of its object is scored by the mask's pixels instead; the record says how many were
    (``images_by_mask``). The mean over the images is the accuracy. Maxima of equal value are ordered by draws that belong to
    the image, as in ``deletion``: a constant map points at random. An image without an object has no score.

    Source: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, section 4.2, with the tolerance as in TorchRay, a disc around
    the maximum. Own decisions: the mean is over images, not over the categories that an image shows; the tolerance is scaled
    with the image's height. The class explained is the label, whose object the boxes show.

    Args:
        tolerance: in pixels at a height of 224, at least 0; the paper's is 15 px at its images' own size.

    Raises ValueError if ``tolerance`` is negative.
    """

    tolerance: float = 15.0

    columns: ClassVar[tuple[Column, ...]] = (Column("accuracy", "Pointing game accuracy", True),)
    needs_boxes: ClassVar[bool] = True
    takes_masks: ClassVar[bool] = True
    target_rule: ClassVar[Literal["predicted", "label"]] = "label"

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {self.tolerance}")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """1 or 0 (b,); NaN where an image has no object."""
        assert maps is not None
        _, h, w = maps.shape
        inside, without, record = object_pixels(batch)
        place = pixel_order(explainer, batch, maps).argmin(1)[:, None, None]
        row, column = torch.arange(h, device=maps.device)[:, None], torch.arange(w, device=maps.device)
        square = (row - place // w).square() + (column - place % w).square()
        nearest = torch.where(inside, square.to(maps), torch.inf).amin((1, 2)).sqrt()
        score = (nearest <= self.tolerance * h / 224).to(maps)
        score[list(without)] = torch.nan
        return Scored({"accuracy": score}, reasons={"accuracy": without}, record=record)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """None beside the maps."""
        return Passes()
