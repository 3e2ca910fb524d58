"""The soft-TV prior: a Gaussian over a grid whose neighbouring cells are correlated, and the KL divergence from it."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from xbench.types import Maps


def soft_tv_kl(mu: Maps, log_nu: Maps, alpha: float, printed_form: bool = False) -> Tensor:
    """KL divergences (b,) in nats of independent Gaussians N(mu, nu) on a grid from the soft-TV prior N(0, K_h (x) K_w).

    ``mu`` and ``log_nu`` are (b, h, w); K_n is the n x n tridiagonal matrix, 1 on and ``alpha`` beside the diagonal, so that
    neighbouring cells have covariance alpha, diagonal ones alpha^2. The divergence is 1/2 [sum nu_yx (K_h^-1)_yy (K_w^-1)_xx +
    sum mu (K_h^-1 mu K_w^-1) - sum log nu - h w + w log|K_h| + h log|K_w|]; ``alpha`` 0 gives that from N(0, I).

    ``printed_form`` leaves out the factor 1/2 and the constants, as "Variational saliency maps for explaining model's behavior"
    (ICLR 2021 submission) prints it.

    Raises ValueError if ``alpha`` is not below 1 / (2 cos(pi / (n + 1))) in absolute value, n the longer side: beyond it K_n is
    not positive definite.
    """
    h, w = mu.shape[1:]
    bound = 1 / (2 * math.cos(math.pi / (max(h, w) + 1))) if max(h, w) > 1 else math.inf
    if not abs(alpha) < bound:
        raise ValueError(f"alpha={alpha}: must be between -{bound:.5f} and {bound:.5f} on a grid of {h} x {w}")
    (rows, rows_log_det), (columns, columns_log_det) = _inverse(h, alpha), _inverse(w, alpha)
    rows, columns = rows.to(mu), columns.to(mu)
    spread = (log_nu.exp() * rows.diagonal()[:, None] * columns.diagonal()).sum((1, 2))
    form = spread + (mu * (rows @ mu @ columns)).sum((1, 2)) - log_nu.sum((1, 2))
    return form if printed_form else (form - h * w + w * rows_log_det + h * columns_log_det) / 2


@functools.cache
def _inverse(n: int, alpha: float) -> tuple[Tensor, float]:
    """The inverse (n, n) of K_n in float64, and log|K_n|."""
    beside = torch.ones(n - 1, dtype=torch.float64).diag(1)
    covariance = torch.eye(n, dtype=torch.float64) + alpha * (beside + beside.mT)
    return torch.linalg.inv(covariance), float(torch.logdet(covariance))
