"""SOFT top-k against the Sinkhorn iterations it replaces, finite differences and the hard top-k; Gumbel top-k as written."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xbench.ops.blur import gaussian_blur
from xbench.ops.topk import gumbel_topk, soft_topk, soft_topk_masks


def sinkhorn(scores: Tensor, k: float, eps: float, iterations: int = 5000) -> Tensor:
    """Xie et al. 2020 for one row (n,): entropic transport of n masses 1/n to anchors 0 and 1 of masses 1 - k/n and k/n."""
    n = len(scores)
    cost = torch.stack([scores**2, (scores - 1) ** 2], 1)
    log_kernel = -cost / cost.max() / eps
    log_mu = torch.full((n,), -math.log(n), dtype=scores.dtype)
    log_nu = torch.tensor([1 - k / n, k / n], dtype=scores.dtype).log()
    v = torch.zeros(2, dtype=scores.dtype)
    for _ in range(iterations):
        u = log_mu - torch.logsumexp(log_kernel + v, 1)
        v = log_nu - torch.logsumexp(log_kernel + u[:, None], 0)
    return n * torch.exp(log_kernel + u[:, None] + v)[:, 1]


def rows(count: int, n: int, seed: int = 0) -> Tensor:
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.03, 0.1, 1.0])
def test_equals_converged_sinkhorn(eps: float) -> None:
    scores = torch.cat([rows(3, 12), 3 * rows(2, 12) - 1])  # the last two rows leave [0, 1], so that Cmax is not 1
    k = torch.tensor([1.0, 3.7, 6.0, 2.0, 11.0], dtype=torch.float64)
    expected = torch.stack([sinkhorn(s, float(kk), eps) for s, kk in zip(scores, k, strict=True)])
    torch.testing.assert_close(soft_topk(scores, k, eps), expected, rtol=0, atol=1e-8)


def test_gradient_equals_finite_differences() -> None:
    # The extremes stay 0 and 1, so that Cmax, constant in the derivative, is constant in the differences too.
    ends = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    k = torch.tensor([2.5, 6.0], dtype=torch.float64)
    inner = (0.1 + 0.8 * rows(2, 7)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_topk(torch.cat([ends, s], 1), k, 0.1), (inner,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.001, 0.03, 1.0])
def test_each_row_sums_to_its_own_k(eps: float, dtype: torch.dtype) -> None:
    scores = torch.cat([rows(3, 784), (rows(2, 784) * 4).floor() / 3, 10 ** (-12 * rows(2, 784)), torch.zeros(1, 784)]).to(
        dtype
    )
    k = torch.linspace(1, 783, len(scores), dtype=dtype)
    soft = soft_topk(scores, k, eps)
    torch.testing.assert_close(soft.sum(1), k, rtol=1e-10 if dtype == torch.float64 else 2e-5, atol=0)
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert (soft.gather(1, scores.argsort(1)).diff(dim=1) >= 0).all(), "a larger score is never kept less"


def test_k_is_clamped_and_exact_outside() -> None:
    scores = rows(6, 10).requires_grad_()
    k = torch.tensor([-1.0, 0.0, 0.3, 9.4, 10.0, 12.0], dtype=torch.float64)
    soft = soft_topk(scores, k, 0.1)
    assert torch.equal(soft[:2], torch.zeros_like(soft[:2]))
    assert torch.equal(soft[4:], torch.ones_like(soft[4:]))
    torch.testing.assert_close(soft[2:4].sum(1), torch.tensor([1.0, 9.0], dtype=torch.float64))
    soft.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert torch.equal(scores.grad.abs().sum(1) > 0, torch.tensor([False, False, True, True, False, False]))


def test_rows_do_not_influence_each_other() -> None:
    scores = torch.cat([rows(2, 50), 100 * rows(2, 50)])  # a cost maximum over the batch would flatten the first rows
    k = torch.tensor([5.0, 20.0, 5.0, 20.0], dtype=torch.float64)
    alone = torch.cat([soft_topk(scores[i : i + 1], k[i : i + 1], 0.05) for i in range(4)])
    torch.testing.assert_close(soft_topk(scores, k, 0.05), alone, rtol=0, atol=1e-12)


def test_masks_are_near_the_hard_ones_and_ignore_the_scale_of_the_scores() -> None:
    fields = gaussian_blur(rows(20, 784).view(20, 1, 28, 28), 3.0)[:, 0]
    ratio = torch.full((20,), 0.3)
    masks = soft_topk_masks(fields, ratio, 0.01)
    assert masks.shape == (20, 1, 28, 28)
    k = round(0.3 * 784)
    hard = torch.zeros(20, 784, dtype=torch.float64).scatter_(1, fields.flatten(1).topk(k).indices, 1.0)
    share = (masks.flatten(1) * hard).sum(1) / k
    assert share.min() > 0.93
    assert share.max() < 1
    torch.testing.assert_close(soft_topk_masks(7 * fields - 3, ratio, 0.01), masks, rtol=0, atol=1e-9)


def test_gradient_of_masks_treats_the_range_as_constant() -> None:
    fields = rows(1, 9).view(1, 3, 3).requires_grad_()
    ratio = torch.tensor([0.4])
    weights = rows(1, 9, seed=1).view(1, 1, 3, 3)
    low, high = fields.detach().aminmax()
    scaled = ((fields.detach() - low) / (high - low)).flatten(1).requires_grad_()
    (soft_topk(scaled, 9 * ratio, 0.1) * weights.flatten(1)).sum().backward()
    (soft_topk_masks(fields, ratio, 0.1) * weights).sum().backward()
    assert fields.grad is not None
    assert scaled.grad is not None
    torch.testing.assert_close(fields.grad.flatten(1), scaled.grad / (high - low))


def test_constant_field_gives_constant_mask_and_finite_gradient() -> None:
    fields = torch.full((1, 4, 4), 0.7).requires_grad_()
    masks = soft_topk_masks(fields, torch.tensor([0.25]), 0.01)
    torch.testing.assert_close(masks, torch.full((1, 1, 4, 4), 0.25))
    masks[0, 0, 0, 0].backward()
    assert fields.grad is not None
    assert fields.grad.isfinite().all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="eps=0: must be above 0"):
        soft_topk(torch.rand(1, 4), torch.ones(1), 0)
    with pytest.raises(ValueError, match="n >= 2"):
        soft_topk(torch.rand(1, 1), torch.ones(1), 0.1)


def test_gumbel_topk_is_its_definition() -> None:
    logits, uniform = rows(2, 5), rows(6, 5, seed=1).view(2, 3, 5)
    result = gumbel_topk(logits, uniform, 0.5)
    for i in range(2):
        draws = []
        for j in range(3):
            noisy = [math.exp((float(logits[i, n]) - math.log(-math.log(float(uniform[i, j, n])))) / 0.5) for n in range(5)]
            draws.append([value / sum(noisy) for value in noisy])
        expected = torch.tensor([max(draw[n] for draw in draws) for n in range(5)], dtype=torch.float64)
        torch.testing.assert_close(result[i], expected)


def test_gumbel_topk_keeps_fewer_than_k() -> None:
    n, k = 40, 8
    uniform = rows(500 * k, n).view(500, k, n)
    kept = gumbel_topk(torch.zeros(500, n, dtype=torch.float64), uniform, 1e-3)
    expected = n * (1 - (1 - 1 / n) ** k)  # 7.33: draws with replacement
    assert kept.sum(1).mean() == pytest.approx(expected, abs=0.1)
    assert kept.sum(1).max() <= k + 1e-9
    # Entries of a row are drawn in proportion to the softmax of the logits.
    logits = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log().expand(3000, 3)
    share = gumbel_topk(logits, rows(3000, 3).view(3000, 1, 3), 1e-3).mean(0)
    torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), rtol=0, atol=0.03)


def test_gumbel_topk_has_a_finite_gradient_at_the_ends_of_the_draws() -> None:
    uniform = torch.tensor([[[0.0, 1 - 2**-24, 0.5]]])
    logits = torch.zeros(1, 3, requires_grad=True)
    gumbel_topk(logits, uniform, 0.5)[0, 2].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert gumbel_topk(torch.zeros(1, 3), uniform, 0.5).argmax() == 1
    assert gumbel_topk(torch.zeros(1, 1), torch.zeros(1, 1, 1), 0.5) == 1
    assert torch.autograd.gradcheck(lambda s: gumbel_topk(s, rows(6, 4).view(2, 3, 4), 0.5), (rows(2, 4).requires_grad_(),))
    with pytest.raises(ValueError, match=r"tau=0\.0: must be above 0"):
        gumbel_topk(torch.zeros(1, 3), uniform, 0.0)
