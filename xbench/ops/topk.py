"""Differentiable relaxations of "keep the k largest": SOFT top-k in closed form, and Gumbel top-k, which is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xbench.types import Maps, Masks

ITERATIONS = 50
"""Of the root search: float64 precision at eps = 0.001 and 224 px; a fixed count needs no synchronisation with the device."""


def soft_topk(scores: Tensor, k: Tensor, eps: float) -> Tensor:
    """Soft indicators (b, n) in [0, 1] of the ``k`` (b,) largest of each row of ``scores`` (b, n); row i sums to k_i.

    Xie et al. 2020, https://arxiv.org/abs/2002.06504: the entropic optimal transport plan from the scores to the anchors 0 and
    1 with cost (s - anchor)^2 divided by its maximum, here the maximum of each row (the authors take the batch's, which couples
    the images of a batch). With two anchors the converged plan is A = sigmoid((2 s - 1) / (eps Cmax) + t), the scalar t solving
    sum A = k, and its Jacobian, Cmax held constant, is 2 / (eps Cmax) (diag d - d d^T / sum d) with d = A (1 - A).

    Own decision: k is clamped to [1, n - 1], except that k <= 0 gives exact zeros and k >= n exact ones.

    Raises ValueError if ``eps`` is not positive or a row has fewer than 2 scores.
    """
    if eps <= 0:
        raise ValueError(f"eps={eps}: must be above 0")
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores of shape {tuple(scores.shape)}: must be (b, n) with n >= 2")
    result: Tensor = _SoftTopK.apply(scores, k.to(scores), eps)  # type: ignore[no-untyped-call]
    return result


def soft_topk_masks(scores: Maps, ratio: Tensor, eps: float) -> Masks:
    """Keep masks (b, 1, h, w) in [0, 1] that softly keep the share ``ratio`` (b,) of the pixels with the largest ``scores``.

    Own decision: every image's scores (b, h, w) are first scaled to [0, 1] by their own minimum and maximum, held constant in
    the gradient, so that ``eps`` means the same for every image: at eps = 0.01 at least 93 % of a mask's sum lies on the pixels
    of the hard selection for smooth fields. A constant field gives a constant mask.
    """
    b, h, w = scores.shape
    flat = scores.flatten(1)
    low, high = flat.detach().aminmax(dim=1, keepdim=True)
    usable = high - low > torch.finfo(flat.dtype).tiny
    flat = (flat - low) / torch.where(usable, high - low, torch.ones_like(low))
    return soft_topk(flat, ratio.to(flat) * (h * w), eps).view(b, 1, h, w)


def gumbel_topk(logits: Tensor, uniform: Tensor, tau: float) -> Tensor:
    """Random soft indicators (b, n) in [0, 1] of a subset of at most k entries of each row of ``logits`` (b, n).

    Chen et al. 2018, https://arxiv.org/abs/1802.07814: k independent draws of one entry each, entry i with probability
    softmax(logits)_i, relaxed to softmax((logits + g) / tau) with Gumbel noise g = -log(-log u); the indicators are the maximum
    over the draws. ``uniform`` (b, k, n) in [0, 1) are the u; memory grows with b k n.

    Entries that several draws hit count once, so that a row sums to fewer than k: for equal logits and a small ``tau`` to
    n (1 - (1 - 1/n)^k), for k = n / 5 about 9 % below k, and the more below the farther the logits lie apart.

    Raises ValueError if ``tau`` is not positive.
    """
    if tau <= 0:
        raise ValueError(f"tau={tau}: must be above 0")
    uniform = uniform.to(logits)
    gumbel = -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
    return ((logits[:, None] + gumbel) / tau).softmax(2).amax(1)


def increasing_root(function: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """The root between ``low`` and ``high``, elementwise, of an increasing function that returns (value, slope).

    Newton's method with a bisection wherever a step leaves the bracket or is not at most half of the one before.
    """
    t = (low + high) / 2
    step = high - low
    for _ in range(ITERATIONS):
        value, slope = function(t)
        low, high = torch.where(value < 0, t, low), torch.where(value < 0, high, t)
        newton = t - value / slope
        good = (newton >= low) & (newton <= high) & ((newton - t).abs() <= step / 2)
        step = torch.where(good, (newton - t).abs(), (high - low) / 2)
        t = torch.where(good, newton, (low + high) / 2)
    return t


class _SoftTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, eps: float) -> Tensor:
        n = scores.shape[1]
        scale = 2 / (eps * torch.maximum(scores.square(), (scores - 1).square()).amax(1, keepdim=True))
        a = scores * scale  # the constant -1 of 2 s - 1 is absorbed by t
        k = k[:, None]
        inside = k.clamp(1, n - 1)
        centre = torch.logit(inside / n)

        def excess(t: Tensor) -> tuple[Tensor, Tensor]:
            soft = torch.sigmoid(a + t)
            return soft.sum(1, keepdim=True) - inside, (soft * (1 - soft)).sum(1, keepdim=True)

        # If all scores were the largest one, or all the smallest, t would be one of these ends.
        t = increasing_root(excess, centre - a.amax(1, keepdim=True), centre - a.amin(1, keepdim=True))
        soft = torch.sigmoid(a + t).masked_fill(k <= 0, 0).masked_fill(k >= n, 1)
        ctx.save_for_backward(soft, scale)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        soft, scale = ctx.saved_tensors
        d = soft * (1 - soft)
        # Where the row is hard, d is 0 and so is the gradient.
        mean = (d * gradient).sum(1, keepdim=True) / d.sum(1, keepdim=True).clamp_min(torch.finfo(d.dtype).tiny)
        return scale * d * (gradient - mean), None, None
