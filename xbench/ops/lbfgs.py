"""L-BFGS for a batch of independent problems, each with a history of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.types import Scores

CURVATURE = 1e-10
"""A step joins the history if its product with the change of the gradient is larger."""
GRADIENT = 1e-7
PROGRESS = 1e-9

Points = Float[Tensor, "b n"]
Evaluate = Callable[[Tensor, Points], tuple[Scores, Points]]
"""(problem indices (m,), points (m, n)) -> losses (m,), gradients (m, n)."""


@torch.no_grad()
def lbfgs(evaluate: Evaluate, start: Points, iterations: int) -> Points:
    """Where ``iterations`` steps of L-BFGS lead from ``start`` (b, n), every row by itself.

    Nocedal 1980 (https://doi.org/10.1090/S0025-5718-1980-0572855-7) as in ``torch.optim.LBFGS`` with its defaults: no line
    search, a first step of length at most 1 in the L1 norm, the whole history of up to 100 steps. A row stops, and is not
    evaluated again, as soon as its largest gradient is 1e-7, its step or the change of its loss 1e-9, or its direction does not
    descend; at most ``iterations`` evaluations. Own decision: a row whose loss or gradient is not finite stops where it was
    before.
    """
    at = start.clone()
    row = torch.arange(len(at), device=at.device)
    loss, gradient = evaluate(row, at)
    direction, size = -gradient, (1 / gradient.abs().sum(1, keepdim=True)).clamp(max=1)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, changes of the gradient, 1 / their product
    scale = torch.ones_like(size)
    going = gradient.abs().amax(1) > GRADIENT
    for iteration in range(1, iterations + 1):
        going &= _dot(gradient, direction)[:, 0] <= -PROGRESS
        left = int(going.sum())
        if not left:
            break
        if left < len(going):
            row, loss, gradient, direction, size, scale = (v[going] for v in (row, loss, gradient, direction, size, scale))
            history = [(s[going], y[going], rho[going]) for s, y, rho in history]
            going = going[going]
        step = size * direction
        at[row] += step
        if iteration == iterations:
            break
        new_loss, new_gradient = evaluate(row, at[row])
        finite = new_loss.isfinite() & new_gradient.isfinite().all(1)
        at[row[~finite]] -= step[~finite]
        change = new_gradient - gradient
        product = _dot(change, step)
        useful = product > CURVATURE
        # A step that is not useful stays in the list with weight 0, so that all rows have a list of one length.
        history.append((step, change, torch.where(useful, 1 / product, 0)))
        scale = torch.where(useful, product / _dot(change, change), scale)
        going = (
            finite
            & (new_gradient.abs().amax(1) > GRADIENT)
            & (step.abs().amax(1) > PROGRESS)
            & ((new_loss - loss).abs() >= PROGRESS)
        )
        loss, gradient, size = new_loss, new_gradient, torch.ones_like(size)
        direction = _direction(gradient, history, scale)
    return at


def _direction(gradient: Points, history: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Points:
    """Minus the approximate inverse Hessian times the gradient, by the two-loop recursion."""
    direction, weights = -gradient, []
    for step, change, rho in reversed(history):
        weights.append(rho * _dot(step, direction))
        direction.addcmul_(weights[-1], change, value=-1)
    direction.mul_(scale)
    for (step, change, rho), weight in zip(history, reversed(weights), strict=True):
        direction.addcmul_(weight - rho * _dot(change, direction), step)
    return direction


def _dot(a: Points, b: Points) -> Tensor:
    """Scalar product of each row, (b, 1)."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products[:, None]
