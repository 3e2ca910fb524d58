"""Where the object is: what the metrics share that compare a map with pixels of the object."""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.ops.boxes import union_masks
from xbench.subset import Batch


def object_pixels(batch: Batch) -> tuple[Tensor, dict[int, str], dict[str, float]]:
    """Whether each pixel is the object's (b, h, w), bool; the images without an object, with the reason; what told.

    An image's own mask tells where it has one, else whether a pixel's centre lies in one of its boxes. The last is the record
    of a cell: the number of images by mask, and by box.
    """
    _, _, h, w = batch.x.shape
    boxes = batch.boxes or [torch.zeros(0, 4)] * len(batch)
    inside = union_masks(boxes, h, w).to(batch.x.device)
    masks = batch.masks or [None] * len(batch)
    without: dict[int, str] = {}
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        if mask is not None:
            inside[i] = mask.to(inside)
            if not bool(mask.any()):
                without[i] = "the mask is empty"
        elif not len(box):
            without[i] = "no true box"
    by_mask = sum(mask is not None for mask in masks)
    by_box = sum(mask is None and len(box) > 0 for mask, box in zip(masks, boxes, strict=True))
    return inside, without, {"images_by_mask": by_mask, "images_by_box": by_box}
