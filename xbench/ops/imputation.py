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
CACHED = 2**19
"""How many values are imputed at once on a CPU, some 3 colour images of 224 px: more at once leave its caches (measured)."""
DAMPING = 0.9
"""Of the multigrid cycle's relaxation; below 1."""
DENSE = 5
"""Side of the grid on which the solver's coarsest system is inverted as a matrix."""

LAPLACIAN = torch.tensor([[-1, -2, -1], [-2, 12, -2], [-1, -2, -1]])
"""Weights of a pixel's equation in the inside of an image, times 12."""
BILINEAR = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
"""What a node of the coarser grid gives to the pixels around it."""

Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map of fields (h, w, p), the planes last: convolutions of single planes are some hundred times slower."""
Equations = Callable[[int], Operator]
"""The operator of n systems on fields (h, w, n * c), by c, the number of planes of every system."""


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

    The equations are solved for many images and channels at once by conjugate gradients with a multigrid cycle as
    preconditioner, to an error of 1e-6 in float32 and 1e-10 in float64 for pixels in [0, 1] as that cycle estimates it; an
    image's solution does not depend on the others in the batch.

    Raises XbenchError if the solver does not converge, as with pixels that are not finite.
    """
    if x.device.type == "cpu":
        count = max(1, CACHED // x.shape[1:].numel())
        return torch.cat([_imputed(*part) for part in zip(x.split(count), keep.split(count), strict=True)])
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose three digits are not enough
        return _imputed(x, keep)


def _imputed(x: Images, keep: Masks) -> Images:
    """The linear imputation of all images at once."""
    seen = (keep >= 0.5).to(x)
    mean = _observed_mean(x, seen)
    # Where nothing is observed everything is: nothing is left to solve, and the image is flat.
    nothing = ~seen.bool().flatten(1).any(1).view(-1, 1, 1, 1)
    hole = (1 - seen) * ~nothing
    # The equations hold for a constant image, so that the mean can be left out; this keeps rounding small against contrast.
    given = torch.where(hole > 0, 0, x - mean)
    n, c, h, w = x.shape
    equations, relax = _laplacian(hole[:, 0].permute(1, 2, 0).contiguous())
    laplacian = equations(c)
    target = laplacian(given.permute(2, 3, 0, 1).reshape(h, w, n * c)).neg_()
    solved = _conjugate_gradients(laplacian, _multigrid(equations, relax, c), target)
    solved = solved.view(h, w, n, c).permute(2, 3, 0, 1)
    return torch.where(nothing, mean, torch.where(hole > 0, solved + mean, x))


def _observed_mean(x: Images, seen: Masks) -> Images:
    """Mean per channel (n, c, 1, 1) of the observed pixels, of all pixels if none is observed."""
    count = seen.sum((2, 3), keepdim=True)
    return torch.where(count > 0, (x * seen).sum((2, 3), keepdim=True) / count.clamp_min(1), x.mean((2, 3), keepdim=True))


def _laplacian(hole: Tensor) -> tuple[Equations, Tensor]:
    """The equations' left side and its relaxation weights (h, w, n), for fields that vanish outside the hole (h, w, n).

    At a missing pixel: the neighbours' weights times the pixel minus the weighted sum of the neighbours; 0 at the others.
    """
    rows, columns = (_neighbours(size).to(hole) for size in hole.shape[:2])
    diagonal = (rows[:, None] * columns - 4)[..., None]

    def equations(c: int) -> Operator:
        missing = _repeated(hole, c)
        kernel = LAPLACIAN.to(hole)

        def laplacian(u: Tensor) -> Tensor:
            image = _filtered(u, kernel)
            for end in (0, -1):  # neighbours outside the image weigh nothing
                image[end].sub_(u[end], alpha=4)
                image[:, end].addcmul_(rows[:, None], u[:, end], value=-1)
            return image.mul_(missing)

        return laplacian

    return equations, torch.where(hole > 0, DAMPING / diagonal, 0)


def _repeated(u: Tensor, c: int) -> Tensor:
    """Every plane of (..., n) ``c`` times, (..., n * c)."""
    return u[..., None].expand(*u.shape, c).flatten(-2)


def _neighbours(size: int) -> Tensor:
    """The weights 1, 2, 1 of a pixel and those beside it, summed inside a line of ``size`` pixels."""
    return F.conv1d(torch.ones(1, 1, size), torch.tensor([[[1.0, 2.0, 1.0]]]), padding=1)[0, 0]


def _filtered(u: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of every plane of (h, w, p) with a kernel (3, 3), zeros around."""
    p = u.shape[2]
    return _planes_last(F.conv2d(_planes_first(u), kernel.expand(p, 1, 3, 3), padding=1, groups=p))


def _planes_first(u: Tensor) -> Tensor:
    """Fields (h, w, p) as one image (1, p, h, w) in the layout channels_last: views."""
    return u.reshape(1, *u.shape).permute(0, 3, 1, 2)


def _planes_last(u: Tensor) -> Tensor:
    """The inverse of `_planes_first`."""
    return u.permute(0, 2, 3, 1)[0].contiguous()


def _conjugate_gradients(operator: Operator, precondition: Operator, target: Tensor) -> Tensor:
    """Solution of operator(u) = target for every plane of (h, w, p), with step sizes of its own."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(0).view(a.shape[1:]).sum(0)  # in two steps along memory

    u, residual = torch.zeros_like(target), target.clone()
    estimate = precondition(residual)
    direction = estimate
    energy = dot(residual, estimate)
    for _ in range(ITERATIONS):
        # The preconditioner is close to the inverse, hence its answer to the residual close to the error. Planes that have
        # converged stand still, so that how long the others take is nothing to them.
        error = estimate.abs().flatten(1).amax(0).view(estimate.shape[1:]).amax(0)
        active = ~(error <= TOLERANCE[target.dtype])
        if not active.any():
            return u
        image = operator(direction)
        step = torch.where(active, energy / dot(direction, image), 0)
        u.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        estimate = precondition(residual)
        previous, energy = energy, dot(residual, estimate)
        direction = torch.addcmul(estimate, direction, torch.where(active, energy / previous, 0))
    raise XbenchError(f"linear imputation did not converge in {ITERATIONS} iterations; are all pixels finite?")


def _multigrid(equations: Equations, relax: Tensor, c: int) -> Operator:
    """One symmetric V-cycle for equations with a 3x3 stencil on (h, w, n * c) that vanish where ``relax`` (h, w, n) does.

    Every second pixel is a node of the next coarser grid; a coarse field is interpolated bilinearly and cut to the support.
    The coarse operators are the Galerkin ones: they know of single observed pixels that a coarse grid cannot resolve.
    """
    h, w, _ = relax.shape
    support = (relax > 0).to(relax)
    if max(h, w) <= DENSE:
        return _inverse(equations, support, c)

    def galerkin(u: Tensor) -> Tensor:
        return _restricted(wide(_interpolated(u, h, w).mul_(wide_support)))

    wide, wide_support = equations(9), _repeated(support, 9)
    below = _multigrid(*_measured(galerkin, (h // 2 + 1, w // 2 + 1), relax), c)
    operator = equations(c)
    support, relax = _repeated(support, c), _repeated(relax, c)

    def cycle(residual: Tensor) -> Tensor:
        u = relax * residual
        u.addcmul_(support, _interpolated(below(_restricted(residual - operator(u))), h, w))
        return u.addcmul_(relax, residual - operator(u))

    return cycle


def _interpolated(u: Tensor, h: int, w: int) -> Tensor:
    """Linear interpolation (h, w, p) from nodes (h // 2 + 1, w // 2 + 1, p) at every second pixel.

    The first node is the first pixel if there is an odd number of them, and otherwise the one before it, outside the image.
    """
    p, before = u.shape[2], (2 - h % 2, 2 - w % 2)
    kernel, after = BILINEAR.to(u).expand(p, 1, 3, 3), (before[0] - 1, before[1] - 1)
    return _planes_last(F.conv_transpose2d(_planes_first(u), kernel, None, 2, before, after, p))


def _restricted(u: Tensor) -> Tensor:
    """The transpose of the interpolation."""
    h, w, p = u.shape
    return _planes_last(F.conv2d(_planes_first(u), BILINEAR.to(u).expand(p, 1, 3, 3), None, 2, (2 - h % 2, 2 - w % 2), 1, p))


def _measured(operator: Operator, size: tuple[int, int], like: Tensor) -> tuple[Equations, Tensor]:
    """The same equations by their 3x3 stencils, and relaxation weights (*size, n), from their operator on (*size, n * 9)."""
    h, w = size
    # Pixels of one of nine colours are so far apart that the stencils around them do not overlap.
    row, column = torch.arange(h, device=like.device)[:, None], torch.arange(w, device=like.device)
    colour = row % 3 * 3 + column % 3
    n = like.shape[2]
    response = operator(F.one_hot(colour, 9).to(like).repeat(1, 1, n)).view(h, w, n, 9)
    around = torch.stack([(row + i) % 3 * 3 + (column + j) % 3 for i in (-1, 0, 1) for j in (-1, 0, 1)])
    stencil = response.movedim(3, 0).gather(0, around[..., None].expand(9, h, w, n))

    def equations(c: int) -> Operator:
        terms = _repeated(stencil, c)

        def apply(u: Tensor) -> Tensor:
            padded = F.pad(u, (0, 0, 1, 1, 1, 1))
            total = terms[4] * u
            for k in (0, 1, 2, 3, 5, 6, 7, 8):
                total.addcmul_(terms[k], padded[k // 3 : k // 3 + h, k % 3 : k % 3 + w])
            return total

        return apply

    # By Gershgorin's theorem the eigenvalues of relax times operator are at most 2 * DAMPING: relaxation converges, so that
    # the cycle is positive definite whatever the stencils are.
    bound = torch.maximum(stencil[4], stencil.abs().sum(0) / 2)
    return equations, torch.where(bound > 0, DAMPING / bound, 0)


def _inverse(equations: Equations, support: Tensor, c: int) -> Operator:
    """The inverse of equations on a small grid, as a matrix for each of the n systems.

    The operator may be singular where many coarse fields differ in few missing pixels only; a small share of the diagonal is
    added, which a preconditioner can afford.
    """
    h, w, n = support.shape
    size = h * w
    basis = torch.eye(size, dtype=support.dtype, device=support.device).repeat(1, n).view(h, w, n * size)
    basis = basis * _repeated(support, size)
    matrix = equations(size)(basis).view(size, n, size).movedim(1, 0)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    matrix = matrix + torch.diag_embed(1e-4 * diagonal + (support.flatten(0, 1).T == 0).to(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return lambda u: (inverse @ u.view(size, n, c).movedim(1, 0)).movedim(0, 1).reshape(h, w, n * c)
