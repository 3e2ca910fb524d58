"""The KL divergence from the soft-TV prior against torch's own, for the covariance written out over all pairs of cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from xbench.ops.prior import soft_tv_kl


def posterior(h: int, w: int, count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mu, log_nu = torch.randn((2, count, h, w), dtype=torch.float64, generator=generator)
    return mu, log_nu


def covariance(h: int, w: int, alpha: float) -> Tensor:
    """Of all pairs of cells, row by row: 1 for the same row or column, alpha for the one beside, else 0; multiplied."""
    factor = {0: 1.0, 1: alpha}
    cells = [(y, x) for y in range(h) for x in range(w)]
    entries = [[factor.get(abs(y - v), 0.0) * factor.get(abs(x - u), 0.0) for v, u in cells] for y, x in cells]
    return torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize(("h", "w", "alpha"), [(4, 7, 0.4), (7, 4, 0.4), (6, 6, 0.5), (5, 3, -0.3), (1, 5, 0.45), (1, 1, 0.9)])
def test_equals_the_divergence_of_the_whole_gaussians(h: int, w: int, alpha: float) -> None:
    mu, log_nu = posterior(h, w)
    zero = torch.zeros(h * w, dtype=torch.float64)
    prior = MultivariateNormal(zero, covariance(h, w, alpha))
    expected = kl_divergence(MultivariateNormal(mu.flatten(1), log_nu.exp().flatten(1).diag_embed()), prior)
    torch.testing.assert_close(soft_tv_kl(mu, log_nu, alpha), expected, rtol=1e-11, atol=1e-10)


def test_without_correlation_it_is_the_divergence_from_the_standard_normal() -> None:
    mu, log_nu = posterior(5, 8)
    expected = kl_divergence(Normal(mu, (log_nu / 2).exp()), Normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(soft_tv_kl(mu, log_nu, 0.0), expected, rtol=1e-13, atol=0)
    assert float(soft_tv_kl(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 0.0)) == 0


def test_known_values_on_one_row_of_two_cells() -> None:
    # K = [[1, a], [a, 1]]: its inverse is [[1, -a], [-a, 1]] / (1 - a^2), its determinant 1 - a^2.
    a = 0.4
    kl = float(soft_tv_kl(torch.tensor([[[1.0, 1.0]]]).double(), torch.zeros(1, 1, 2).double(), a))
    assert kl == pytest.approx((2 / (1 - a**2) + 2 * (1 - a) / (1 - a**2) - 2 + math.log(1 - a**2)) / 2, rel=1e-12)
    smooth, rough = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]]).split(1)
    assert soft_tv_kl(smooth, torch.zeros(1, 1, 2), a) < soft_tv_kl(rough, torch.zeros(1, 1, 2), a), (
        "it favours equal neighbours"
    )


def test_printed_form_has_no_half_and_no_constants() -> None:
    mu, log_nu = posterior(4, 6)
    doubled = 2 * soft_tv_kl(mu, log_nu, 0.4)
    log_det = torch.logdet(covariance(4, 6, 0.4))
    torch.testing.assert_close(soft_tv_kl(mu, log_nu, 0.4, printed_form=True), doubled + 24 - log_det)


def test_gradient_equals_finite_differences() -> None:
    mu, log_nu = (tensor.requires_grad_() for tensor in posterior(3, 4, count=2))
    assert torch.autograd.gradcheck(lambda m, v: soft_tv_kl(m, v, 0.4), (mu, log_nu))


@pytest.mark.parametrize(("n", "digits", "bound"), [(28, 3, 0.503), (224, 5, 0.50005)])
def test_alpha_must_leave_the_prior_positive_definite(n: int, digits: int, bound: float) -> None:
    exact = 1 / (2 * math.cos(math.pi / (n + 1)))
    assert round(exact, digits) == bound
    zeros = torch.zeros(1, 2, n)
    with pytest.raises(ValueError, match=rf"alpha=0.51: must be between -{exact:.5f} and {exact:.5f} on a grid of {n} x 2"):
        soft_tv_kl(zeros.mT, zeros.mT, 0.51)
    assert torch.linalg.eigvalsh(torch.eye(n, dtype=torch.float64) + exact * neighbours(n))[0] == pytest.approx(0, abs=1e-12)
    just_inside = soft_tv_kl(zeros.double(), zeros.double(), exact * (1 - 1e-9))
    assert just_inside.isfinite().all()


def neighbours(n: int) -> Tensor:
    index = torch.arange(n)
    return ((index[:, None] - index).abs() == 1).double()


def test_precision_at_full_size() -> None:
    mu, log_nu = posterior(224, 224, count=1)
    double, single = soft_tv_kl(mu, log_nu, 0.4), soft_tv_kl(mu.float(), log_nu.float(), 0.4)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
