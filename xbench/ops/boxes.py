"""Boxes (x0, y0, x1, y1) in pixels, x1 and y1 exclusive: from maps, against each other, and as crops of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xbench.types import Images, Maps, Masks

CUBIC = -0.75
"""The parameter of the cubic kernel, as in OpenCV and ``torch.nn.functional.interpolate``."""


def threshold_boxes(maps: Maps, alphas: Tensor) -> Tensor:
    """Tight boxes (b, n, 4), float, of the pixels of each map (b, h, w) above ``alphas`` (n,) times its maximum.

    Negative values count as 0, so that an alpha of 0 keeps the positive pixels. Zeros where no pixel is above: at every alpha
    of a map that is never positive. Own decision: strictly above, as ``cv2.threshold`` does, so that such a map needs no rule.
    """
    # A row or column has a pixel above a threshold if its maximum is: no mask is made, and no value need be clipped.
    columns, rows = maps.amax(1), maps.amax(2)
    thresholds = alphas.to(maps) * columns.amax(1, keepdim=True)
    x0, x1 = _extent(columns[:, None] > thresholds[:, :, None])
    y0, y1 = _extent(rows[:, None] > thresholds[:, :, None])
    return torch.stack([x0, y0, x1, y1], -1).to(maps)


def _extent(hit: Tensor) -> tuple[Tensor, Tensor]:
    """The first True along the last dimension, and one past the last; 0 and 0 where there is none."""
    n = hit.shape[-1]
    first = hit.byte().argmax(-1)
    last = n - hit.flip(-1).byte().argmax(-1)
    return first, last * hit.any(-1)


def max_iou(boxes: Tensor, truths: Sequence[Tensor]) -> Tensor:
    """Largest intersection over union (b, n) of each box (b, n, 4) with the image's true boxes, ``truths`` (k_i, 4) per image.

    0 for a box without area, and for an image without true boxes.
    """
    # A box without area is added to every image: its IoU is 0, and the maximum exists where there is no other.
    padded = pad_sequence([torch.cat([truth, truth.new_zeros(1, 4)]) for truth in truths], batch_first=True)
    a, b = boxes[:, :, None], padded.to(boxes)[:, None]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp_min(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return (intersection / union.clamp_min(torch.finfo(union.dtype).tiny)).amax(-1)


def box_masks(boxes: Sequence[Tensor], like: Images) -> Masks:
    """Masks (b, 1, h, w) for images ``like``, 1 where a pixel's centre is in one of the image's ``boxes`` (n_i, 4)."""
    return union_masks(boxes, *like.shape[2:])[:, None].to(like)


def resized_crops(x: Images, boxes: Tensor) -> Images:
    """The part of each image (n, c, h, w) within its box (n, 4), enlarged to (h, w) by bicubic interpolation.

    As ``torch.nn.functional.interpolate`` without ``align_corners`` on each crop: nothing outside a box is seen. Clipped to
    [0, 1], which a cubic kernel overshoots (own decision). Black where the box is empty. Boxes have whole numbers.
    """
    h, w = x.shape[2:]
    x0, y0, x1, y1 = boxes.to(x).T
    across, down = _cubic_weights(x0, x1, w), _cubic_weights(y0, y1, h)
    return (down[:, None] @ x @ across[:, None].transpose(2, 3)).clamp(0, 1)


def _cubic_weights(start: Tensor, end: Tensor, size: int) -> Tensor:
    """Weights (n, size, size) of output over input pixels that spread the inputs ``start`` to ``end`` (n,) over ``size``."""
    start, end = start[:, None], end[:, None]
    position = start + (torch.arange(size, device=start.device) + 0.5) * (end - start) / size - 0.5
    weights = position.new_zeros(len(start), size, size)
    for tap in range(-1, 3):
        pixel = position.floor() + tap
        index = torch.minimum(torch.maximum(pixel, start), end - 1).clamp_min(0).long()
        weights.scatter_add_(2, index[:, :, None], _cubic((position - pixel).abs())[:, :, None])
    return weights * (end > start)[:, :, None]


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981)."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance.square() + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def pixel_extents(boxes: Tensor) -> Tensor:
    """First and last column and row (..., 4) of the pixels whose centre lies in each box (..., 4): x0, y0, x1, y1, inclusive.

    A box that holds no centre has its last before its first.
    """
    return torch.cat([(boxes[..., :2] - 0.5).ceil(), (boxes[..., 2:] - 0.5).ceil() - 1], -1)


def union_masks(truths: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Whether a pixel's centre lies in any of the image's boxes (k_i, 4): (b, height, width) bool."""
    padded = pad_sequence([torch.cat([truth, truth.new_zeros(1, 4)]) for truth in truths], batch_first=True)
    x0, y0, x1, y1 = pixel_extents(padded)[..., None].unbind(2)
    column, row = (torch.arange(size, device=padded.device) for size in (width, height))
    across, down = (column >= x0) & (column <= x1), (row >= y0) & (row <= y1)
    return (down[..., None] & across[:, :, None]).any(1)
