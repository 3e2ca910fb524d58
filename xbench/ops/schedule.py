"""The schedule of masks of Saliency as a Schedule: one pre-mask, thresholded so that the masks' areas are 1/K, 2/K, ..."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.types import Maps

ITERATIONS = 60
"""At most, of the threshold search; a handful suffices from a start near the root."""

Schedule = Float[Tensor, "b k h w"]
"""Keep masks of every image in [0, 1], by growing area."""


def schedule_masks(scores: Maps, steps: int) -> Schedule:
    """The masks sigmoid(scores - t_k) with mean(mask^2) = k / steps for k = 0, ..., steps: (b, steps + 1, h, w).

    Singh and Namboodiri, Saliency as a Schedule. For k = 0 and k = steps no finite t exists: exact zeros and ones.
    Differentiable in ``scores`` (b, h, w), through the thresholds too. Raises ValueError if ``steps`` is below 2.
    """
    inner, _ = inner_masks(scores, steps)
    outer = torch.zeros_like(inner[:, :1])
    return torch.cat([outer, inner, torch.ones_like(outer)], 1)


def inner_masks(
    scores: Maps, steps: int, start: Tensor | None = None, exact: bool = True
) -> tuple[Schedule, Float[Tensor, "b k"]]:
    """The masks of `schedule_masks` for k = 1, ..., steps - 1 and their thresholds t_k, where ``start`` begins the search.

    With ``exact`` the gradient of ``scores`` is the exact one, from differentiating mean(mask^2) = k / steps; without, the
    thresholds are held constant. Raises ValueError if ``steps`` is below 2.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    area = torch.arange(1, steps, device=scores.device, dtype=torch.float64).to(scores.dtype) / steps
    t = thresholds(scores.detach().flatten(1), area, start)
    masks: Schedule = _Masks.apply(scores, t, exact)  # type: ignore[no-untyped-call]
    return masks, t


@torch.no_grad()
def thresholds(scores: Tensor, area: Tensor, start: Tensor | None = None) -> Tensor:
    """The t (b, k) with mean_i sigmoid(scores_bi - t_bk)^2 = area_k in (0, 1), for scores (b, n).

    Newton's method on logit(sqrt(mean)), which is linear in t for equal scores, from ``start`` (b, k) or the mean score, with a
    bisection wherever a step leaves the bracket or is not at most half of the one before. Each
    threshold is left alone once its area is right, so that rows do not influence each other.
    """
    scores = scores[:, None]
    area = area[:, None]
    centre = torch.logit(area.sqrt())
    tolerance = torch.finfo(scores.dtype).eps ** 0.75  # the step still made from there squares it
    # If all scores were the smallest one, or all the largest, t would be one of these ends.
    low, high = scores.amin(2, keepdim=True) - centre, scores.amax(2, keepdim=True) - centre
    t = scores.mean(2, keepdim=True) - centre if start is None else start[..., None].clamp(low, high)
    step = high - low
    active = torch.ones_like(t, dtype=torch.bool)
    for _ in range(ITERATIONS):
        mask = torch.sigmoid(scores - t)
        square = mask.square()
        mean = square.mean(2, keepdim=True)
        slope = torch.addcmul(square, square, mask, value=-1).mean(2, keepdim=True)
        low, high = torch.where(mean > area, t, low), torch.where(mean > area, high, t)
        root = mean.sqrt()
        newton = t + (torch.logit(root) - centre) * mean * (1 - root) / slope
        good = (newton >= low) & (newton <= high) & ((newton - t).abs() <= step / 2)  # False where it is NaN
        right = (mean - area).abs() <= tolerance
        following = torch.where(good, newton, torch.where(right, t, (low + high) / 2))
        step = torch.where(good, (newton - t).abs(), (high - low) / 2)
        t = torch.where(active, following, t)
        active = active & ~right
        if not bool(active.any()):
            break
    return t[..., 0]


class _Masks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Maps, t: Tensor, exact: bool) -> Schedule:
        masks = torch.sigmoid(scores[:, None] - t[..., None, None])
        ctx.save_for_backward(masks)
        ctx.exact = exact
        return masks

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (masks,) = ctx.saved_tensors
        slope = masks * (1 - masks)
        gradient = gradients[0] * slope
        if ctx.exact:
            # The area is constant: sum_i m_i m_i' (ds_i - dt) = 0, so dt is the mean of ds weighted with m m'.
            weight = masks * slope
            share = gradient.sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp_min(
                torch.finfo(masks.dtype).tiny
            )
            gradient = gradient - weight * share
        return gradient.sum(1), None, None
