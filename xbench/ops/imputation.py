"""Filling missing pixels from the observed ones: local means, and the linear imputation of ROAD."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.errors import XbenchError
from xbench.ops.blur import gaussian_blur
from xbench.types import Images, Masks

FAR = 1e-6
"""Weight of the mean of all observed pixels in a local mean, whose other weights sum to at most 1."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Estimated error of a pixel at which the solver of the linear imputation stops."""
ITERATIONS = 100
DAMPING = 0.9
"""Of the multigrid cycle's relaxation; below 1."""
DENSE = 8
"""Side of the grid on which the solver's coarsest system is inverted as a matrix."""

Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map of fields (n, c, h, w)."""


@torch.no_grad()
def local_mean(x: Images, keep: Masks, sigma: float | None = None) -> Images:
    """Every pixel's Gaussian-weighted mean of the observed pixels, (n, c, h, w) in the range of ``x`` (n, c, h, w).

    Normalised convolution (Knutsson and Westin 1993, https://doi.org/10.1109/CVPR.1993.341081), blur(x keep) / blur(keep). A
    pixel is observed where ``keep`` (n, 1, h, w) is at least 0.5. With every pixel observed it is the blurred image.

    Own decisions: ``sigma`` is in pixels, by default that of the fill ``blur``, 10 at 224 px, scaled with the height; borders
    are replicated; the mean of all observed pixels counts with weight 1e-6, so that a pixel farther than 4 sigma from all of
    them gets that mean; if none is observed, every pixel gets the mean of its channel in the image.
    """
    sigma = 10 * x.shape[-2] / 224 if sigma is None else sigma
    keep = (keep >= 0.5).to(x)
    far = FAR * _observed_mean(x, keep)
    return (gaussian_blur(x * keep, sigma) + far) / (gaussian_blur(keep, sigma) + FAR)


@torch.no_grad()
def linear_imputation(x: Images, keep: Masks) -> Images:
    """The images ``x`` (n, c, h, w) with every missing pixel equal to the weighted mean of its 8 neighbours, missing or not.

    Rong et al. 2022 (ROAD), https://arxiv.org/abs/2202.00449, without the noise: neighbours across an edge weigh 1/6, diagonal
    ones 1/12, those outside the image nothing. A pixel is missing where ``keep`` (n, 1, h, w) is below 0.5; the others are
    returned exactly. Own decision: if none is observed, every pixel gets the mean of its channel in the image, because the
    equations then determine nothing.

    The equations are solved for all images and channels at once by conjugate gradients with a multigrid cycle as
    preconditioner, to an error of 1e-6 in float32 and 1e-10 in float64 for pixels in [0, 1] as that cycle estimates it; an
    image's solution does not depend on the others in the batch.

    Raises XbenchError if the solver does not converge, as with pixels that are not finite.
    """
    seen = (keep >= 0.5).to(x)
    mean = _observed_mean(x, seen)
    # Where nothing is observed everything is: nothing is left to solve, and the image is flat.
    nothing = ~seen.bool().flatten(1).any(1).view(-1, 1, 1, 1)
    hole = (1 - seen) * ~nothing
    # The equations hold for a constant image, so that the mean can be left out; this keeps rounding small against contrast.
    given = torch.where(hole > 0, 0, x - mean)
    laplacian, relax = _laplacian(hole)
    solved = _conjugate_gradients(laplacian, _multigrid(laplacian, relax), -laplacian(given))
    return torch.where(nothing, mean, torch.where(hole > 0, solved + mean, x))


def _observed_mean(x: Images, seen: Masks) -> Images:
    """Mean per channel (n, c, 1, 1) of the observed pixels, of all pixels if none is observed."""
    count = seen.sum((2, 3), keepdim=True)
    return torch.where(count > 0, (x * seen).sum((2, 3), keepdim=True) / count.clamp_min(1), x.mean((2, 3), keepdim=True))


def _laplacian(hole: Masks) -> tuple[Operator, Tensor]:
    """The equations' left side and its relaxation weights (n, 1, h, w), for fields that vanish outside the hole.

    At a missing pixel: the neighbours' weights times the pixel minus the weighted sum of the neighbours; 0 at the others.
    """
    around = _smoothed(torch.ones_like(hole[:1]))  # 4 more than the sum of the weights of the neighbours inside the image

    def laplacian(u: Tensor) -> Tensor:
        return _smoothed(u).neg_().addcmul_(around, u).mul_(hole)

    return laplacian, torch.where(hole > 0, DAMPING / (around - 4), 0)


def _smoothed(u: Tensor) -> Tensor:
    """Every pixel's sum over the 3x3 pixels around it, with weights 4 for itself, 2 across an edge and 1 diagonally."""
    # Sums of slices: a convolution of single planes is several times slower on the CPU.
    for axis, last in ((2, u.shape[2] - 1), (3, u.shape[3] - 1)):
        total = 2 * u
        total.narrow(axis, 1, last).add_(u.narrow(axis, 0, last))
        total.narrow(axis, 0, last).add_(u.narrow(axis, 1, last))
        u = total
    return u


def _conjugate_gradients(operator: Operator, precondition: Operator, target: Tensor) -> Tensor:
    """Solution of operator(u) = target for every plane of (n, c, h, w), with step sizes of its own."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    u, residual = torch.zeros_like(target), target
    direction = estimate = precondition(residual)
    energy = dot(residual, estimate)
    for _ in range(ITERATIONS):
        # The preconditioner is close to the inverse, hence its answer to the residual close to the error. Planes that have
        # converged stand still, so that how long the others take is nothing to them.
        active = ~(estimate.abs().amax((2, 3), keepdim=True) <= TOLERANCE[target.dtype])
        if not active.any():
            return u
        image = operator(direction)
        step = torch.where(active, energy / dot(direction, image), 0)
        u = u + step * direction
        residual = residual - step * image
        estimate = precondition(residual)
        previous, energy = energy, dot(residual, estimate)
        direction = estimate + torch.where(active, energy / previous, 0) * direction
    raise XbenchError(f"linear imputation did not converge in {ITERATIONS} iterations; are all pixels finite?")


def _multigrid(operator: Operator, relax: Tensor) -> Operator:
    """One symmetric V-cycle for an operator with a 3x3 stencil on fields that vanish where ``relax`` (n, 1, h, w) does.

    Every second pixel is a node of the next coarser grid; a coarse field is interpolated bilinearly and cut to the support.
    The coarse operators are the Galerkin ones: they know of single observed pixels that a coarse grid cannot resolve.
    """
    n, _, h, w = relax.shape
    support = (relax > 0).to(relax)
    if max(h, w) <= DENSE:
        return _inverse(operator, support)
    down, across = (_interpolation(size).to(relax) for size in (h, w))

    def prolong(u: Tensor) -> Tensor:
        return (down @ u @ across.mT).mul_(support)

    def restrict(u: Tensor) -> Tensor:
        return down.mT @ u @ across  # what vanishes outside the support already

    below = _multigrid(*_measured(lambda u: restrict(operator(prolong(u))), n, (down.shape[1], across.shape[1]), relax))

    def cycle(residual: Tensor) -> Tensor:
        u = relax * residual
        u += prolong(below(restrict(residual - operator(u))))
        return u.addcmul_(relax, residual - operator(u))

    return cycle


def _interpolation(size: int) -> Tensor:
    """Linear interpolation (size, size // 2 + 1) from the nodes at pixels 0, 2, 4, .., of which the last may lie outside."""
    return (1 - (torch.arange(size)[:, None] / 2 - torch.arange(size // 2 + 1)).abs()).clamp(min=0)


def _measured(operator: Operator, n: int, size: tuple[int, int], like: Tensor) -> tuple[Operator, Tensor]:
    """The same operator on fields (n, c, *size) by its 3x3 stencils, and its relaxation weights (n, 1, *size)."""
    h, w = size
    # Pixels of one of nine colours are so far apart that the stencils around them do not overlap.
    row, column = torch.arange(h, device=like.device)[:, None], torch.arange(w, device=like.device)
    colour = row % 3 * 3 + column % 3
    response = operator(F.one_hot(colour, 9).permute(2, 0, 1).to(like).expand(n, 9, h, w))
    around = [(row + i) % 3 * 3 + (column + j) % 3 for i in (-1, 0, 1) for j in (-1, 0, 1)]
    stencil = response.gather(1, torch.stack(around).expand(n, 9, h, w))
    terms = stencil.split(1, dim=1)

    def apply(u: Tensor) -> Tensor:
        padded = F.pad(u, (1, 1, 1, 1))
        total = torch.zeros_like(u)
        for k, term in enumerate(terms):
            total.addcmul_(term, padded[:, :, k // 3 : k // 3 + h, k % 3 : k % 3 + w])
        return total

    # By Gershgorin's theorem the eigenvalues of relax times operator are at most 2 * DAMPING: relaxation converges, so that
    # the cycle is positive definite whatever the stencils are.
    bound = torch.maximum(stencil[:, 4:5], stencil.abs().sum(1, keepdim=True) / 2)
    return apply, torch.where(bound > 0, DAMPING / bound, 0)


def _inverse(operator: Operator, support: Tensor) -> Operator:
    """The inverse of an operator on a small grid, as a matrix for each of the n fields.

    The operator may be singular where many coarse fields differ in few missing pixels only; a small share of the diagonal is
    added, which a preconditioner can afford.
    """
    _, _, h, w = support.shape
    basis = torch.eye(h * w, dtype=support.dtype, device=support.device).view(1, h * w, h, w)
    matrix = operator(basis * support).flatten(2)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    matrix = matrix + torch.diag_embed(1e-4 * diagonal + (support.flatten(1) == 0).to(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return lambda u: (u.flatten(2) @ inverse).view_as(u)
