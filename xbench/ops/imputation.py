"""Filling missing pixels from the observed ones: local means, and the linear imputation of ROAD."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.errors import XbenchError
from xbench.ops.blur import gaussian_blur
from xbench.ops.parallel import side_by_side
from xbench.types import Images, Masks

FAR = 1e-6
"""Weight of the mean of all observed pixels in a local mean, whose other weights sum to at most 1."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Estimated error of a pixel at which the iterations of the linear imputation stop; two more estimates are then taken off."""
ITERATIONS = 100
CACHED = 3 * 2**18
"""How many values are imputed at once on a CPU, some 5 colour images of 224 px: about the fastest (measured)."""
DIVIDED = 2**18
"""How many values are worth a thread at least: small operations mostly wait for Python, which one thread has at a time."""
DENSE = 5
"""Side of the grid on which the solver's coarsest system is inverted as a matrix."""
DAMPING = 0.95
"""Of the relaxation on coarse grids; below 1."""

AROUND = torch.tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]])
"""Weights of a pixel's neighbours, times 12."""
BILINEAR = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
"""What a node of the coarser grid gives to the pixels around it."""
HALF = ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))
"""Where the weights of a symmetric stencil (n, 5, h, w) lead: to the pixel itself and to four neighbours, rows first.

The weights to the other four are those of the neighbours to the pixel. Weights that would lead outside the grid are 0.
"""

Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map of fields (h, w, p), the planes last: convolutions of single planes are some hundred times slower."""


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
    preconditioner, to an error of about 1e-6 in float32 and 1e-10 in float64 for pixels in [0, 1] as that cycle estimates it;
    an image's solution does not depend on the others in the batch.

    Raises XbenchError if the solver does not converge, as with pixels that are not finite.
    """
    if x.device.type == "cpu":
        parts = max(1, -(-x.numel() // CACHED), min(len(x), torch.get_num_threads(), x.numel() // DIVIDED))
        return torch.cat(side_by_side(_imputed, list(zip(x.chunk(parts), keep.chunk(parts), strict=True))))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose three digits are not enough
        return _imputed(x, keep)


@torch.no_grad()
def _imputed(x: Images, keep: Masks) -> Images:
    """The linear imputation of all images at once."""
    n, c, h, w = x.shape
    seen = (keep >= 0.5).to(x)
    mean = _observed_mean(x, seen)
    # Where nothing is observed nothing is left to solve: the image becomes flat.
    hole = (1 - seen) * seen.flatten(1).amax(1).view(-1, 1, 1, 1)
    # The equations hold for a constant image, so that the mean can be left out; this keeps rounding small against contrast.
    given = (x - mean).mul_(seen).permute(2, 3, 0, 1).reshape(h, w, n * c).contiguous()
    rows, columns = (_neighbours(size).to(x) for size in (h, w))
    diagonal = rows[:, None] * columns - 4
    missing = _repeated(hole.permute(2, 3, 0, 1).flatten(2), c)
    relax = missing / diagonal[..., None]
    around = AROUND.to(x)

    def laplacian(u: Tensor) -> Tensor:
        image = _filtered(u, 12 * (around == 0) - around)
        for end in (0, -1):  # neighbours outside the image weigh nothing
            image[end].sub_(u[end], alpha=4)
            image[:, end].addcmul_(rows[:, None], u[:, end], value=-1)
        return image.mul_(missing)

    below = _multigrid(_coarser(_stencil(hole, diagonal)), c)

    def cycle(residual: Tensor) -> Tensor:
        # As on the coarser grids, but undamped, which is best for these weights and makes the cycle shorter: what a pixel
        # misses after a relaxation comes from its neighbours alone.
        relaxed = relax * residual
        u = _interpolated(below(_restricted(_filtered(relaxed, around).mul_(missing))), h, w)
        torch.addcmul(relaxed, u, missing, out=u)
        return relaxed.addcmul_(relax, _filtered(u, around))

    solved = _conjugate_gradients(laplacian, cycle, _filtered(given, around).mul_(missing))
    # What the iterations have rounded off shows in the equations themselves.
    solved.sub_(cycle(laplacian(given.add_(solved))))
    return torch.where(seen > 0, x, solved.view(h, w, n, c).permute(2, 3, 0, 1) + mean)


def _observed_mean(x: Images, seen: Masks) -> Images:
    """Mean per channel (n, c, 1, 1) of the observed pixels, of all pixels if none is observed."""
    count = seen.sum((2, 3), keepdim=True)
    return torch.where(count > 0, (x * seen).sum((2, 3), keepdim=True) / count.clamp_min(1), x.mean((2, 3), keepdim=True))


def _stencil(hole: Masks, diagonal: Tensor) -> Tensor:
    """The symmetric stencils (n, 5, h, w) of the equations for fields that vanish outside the hole (n, 1, h, w).

    At a missing pixel: the neighbours' weights, ``diagonal`` (h, w), times the pixel minus the weighted sum of the neighbours.
    """
    h, w = diagonal.shape
    padded = F.pad(hole, (1, 1, 0, 1))
    pairs = [hole * padded[..., i : i + h, j + 1 : j + 1 + w] * -(2 if 0 in (i, j) else 1) for i, j in HALF[1:]]
    return torch.cat([hole * diagonal, *pairs], 1)


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
    scratch = torch.empty_like(target)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return torch.mul(a, b, out=scratch).sum(0).sum(0)  # in two steps along memory

    u, residual = torch.zeros_like(target), target
    estimate = precondition(residual)
    direction = estimate.clone()
    energy = dot(residual, estimate)
    for _ in range(ITERATIONS):
        # The preconditioner is close to the inverse, hence its answer to the residual close to the error. Planes that have
        # converged stand still, so that how long the others take is nothing to them.
        active = ~(torch.abs(estimate, out=scratch).amax(0).amax(0) <= TOLERANCE[target.dtype])
        if not active.any():
            return u.add_(estimate)
        image = operator(direction)
        step = torch.where(active, energy / dot(direction, image), 0)
        u.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        estimate = precondition(residual)
        previous, energy = energy, dot(residual, estimate)
        torch.addcmul(estimate, direction, torch.where(active, energy / previous, 0), out=direction)
    raise XbenchError(f"linear imputation did not converge in {ITERATIONS} iterations; are all pixels finite?")


def _multigrid(stencil: Tensor, c: int) -> Operator:
    """One symmetric V-cycle for the equations of a symmetric stencil (n, 5, h, w), of fields (h, w, n * c).

    Every second pixel is a node of the next coarser grid; a coarse field is interpolated bilinearly.
    The coarse operators are the Galerkin ones: they know of single observed pixels that a coarse grid cannot resolve.
    """
    n, _, h, w = stencil.shape
    if max(h, w) <= DENSE:
        return _inverse(stencil, c)
    below = _multigrid(_coarser(stencil), c)
    size = h * w
    diagonal, *others = _repeated(stencil.permute(1, 2, 3, 0).reshape(5, size, n), c)
    # In one line of pixels every neighbour is a fixed distance ahead; where that leads around the border the weight is 0.
    ahead = [(i * w + j, others[k][: max(0, size - i * w - j)]) for k, (i, j) in enumerate(HALF[1:])]

    def exchange(total: Tensor, u: Tensor, value: int) -> Tensor:
        total, u = total.view(size, n * c), u.view(size, n * c)
        for distance, weight in ahead:
            total[: len(weight)].addcmul_(weight, u[distance:], value=value)
            total[distance:].addcmul_(weight, u[: len(weight)], value=value)
        return total.view(h, w, n * c)

    # By Gershgorin's theorem the eigenvalues of relax times operator are at most 2 * DAMPING: relaxation converges, so that
    # the cycle is positive definite whatever the stencils are.
    reach = diagonal.clone()
    for distance, weight in ahead:
        reach[: len(weight)] += weight.abs()
        reach[distance:] += weight.abs()
    bound = torch.maximum(diagonal, reach / 2)
    relax = torch.where(bound > 0, DAMPING / bound, 0)
    rest = (1 - relax * diagonal).view(h, w, n * c)
    relax = relax.view(h, w, n * c)

    def cycle(residual: Tensor) -> Tensor:
        relaxed = relax * residual
        u = _interpolated(below(_restricted(exchange(rest * residual, relaxed, -1))), h, w).add_(relaxed)
        return exchange(residual.clone(), u, -1).mul_(relax).addcmul_(rest, u)

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


def _coarser(stencil: Tensor) -> Tensor:
    """The Galerkin stencils (n, 5, h // 2 + 1, w // 2 + 1): of restriction after the equations after interpolation."""
    h, w = stencil.shape[2:]
    return F.conv2d(stencil, _galerkin().to(stencil), stride=2, padding=(3 - h % 2, 3 - w % 2))


@functools.cache
def _galerkin() -> Tensor:
    """What a weight to the ``b``-th neighbour gives to a node's weight to its ``a``-th, (a, b, 5, 5), by where it is.

    It is the sum over both directions of the product of the two nodes' shares in the pixels that the weight connects.
    """
    nodes = torch.zeros(len(HALF), 11, 11)
    for node, (i, j) in zip(nodes, HALF, strict=True):
        node[4 + 2 * i : 7 + 2 * i, 4 + 2 * j : 7 + 2 * j] = BILINEAR
    kernel = torch.zeros(len(HALF), len(HALF), 5, 5)
    for a, node in enumerate(nodes):
        for b, (i, j) in enumerate(HALF):
            here, there = ((slice(3 + k, 8 + k), slice(3 + m, 8 + m)) for k, m in ((0, 0), (i, j)))
            kernel[a, b] = nodes[0][here] * node[there]
            if b > 0:
                kernel[a, b] += nodes[0][there] * node[here]
    return kernel


def _inverse(stencil: Tensor, c: int) -> Operator:
    """The inverse of the equations of stencils (n, 5, h, w) on a small grid, as a matrix for each of the n systems.

    They may be singular where many coarse fields differ in few missing pixels only; a small share of the diagonal is added,
    which a preconditioner can afford.
    """
    n, _, h, w = stencil.shape
    size = h * w
    diagonal, *others = stencil.flatten(2).unbind(1)
    matrix = torch.diag_embed((1 + 1e-4) * diagonal + (diagonal <= 0).to(diagonal))
    for (i, j), weight in zip(HALF[1:], others, strict=True):
        if i * w + j < size:
            half = torch.diag_embed(weight[:, : size - i * w - j], i * w + j)
            matrix += half + half.mT
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return lambda u: (inverse @ u.view(size, n, c).movedim(1, 0)).movedim(0, 1).reshape(h, w, n * c)
