"""Energy in the box: how much of a map lies on the object?"""

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
from xbench.types import Maps


@METRICS.register("energy-in-box")
@dataclass(frozen=True)
class EnergyInBox(Metric):
    r"""Share of a map's positive values that lies in the image's true boxes, in [0, 1]; higher = better.

    $$\frac{\sum_{u \in B} \max(g(u), 0)}{\sum_u \max(g(u), 0)}$$

    B are the pixels in the true boxes.

    Negative values count as 0; a pixel is in a box if its centre is, and counts once where boxes overlap. An image with a mask
    of its object is scored by that instead of by boxes; the record says how many were (``images_by_mask``). Multiplying a map
    by a positive number changes nothing; adding one, or any other monotone transform, does. A map that is the same everywhere
    has the object's share of the image, reported as ``area``. No score: an image without an object, a map that is never
    positive.

    Source: the energy-based pointing game of Wang et al. 2020 (Score-CAM), https://arxiv.org/abs/1910.01279, section 4.3. Own
    decision: their maps are not negative, and how negative values count is not said. The class explained is the label, whose
    object the boxes show.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("energy", "Energy in the boxes or masks", True),
        Column("area", "Area of the boxes or masks", None),
    )
    needs_boxes: ClassVar[bool] = True
    takes_masks: ClassVar[bool] = True
    target_rule: ClassVar[Literal["predicted", "label"]] = "label"

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Both shares (b,)."""
        assert maps is not None
        inside, without, record = object_pixels(batch)
        positive = maps.clamp_min(0).double()
        # The largest value becomes 1, so that a sum of tiny or huge values neither vanishes nor overflows.
        top = positive.amax((1, 2), keepdim=True)
        positive = positive / torch.where(top > 0, top, 1)
        energy = (positive * inside).sum((1, 2)) / positive.sum((1, 2))
        area = inside.double().mean((1, 2))
        never = {int(i): "map never positive" for i in (top[:, 0, 0] == 0).nonzero()[:, 0]}
        energy[list(without)] = area[list(without)] = torch.nan
        return Scored({"energy": energy, "area": area}, reasons={"energy": never | without, "area": without}, record=record)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """None beside the maps."""
        return Passes()
