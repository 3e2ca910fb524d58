"""Other derivatives for some functions of torch while a network runs, whether they are modules, functional or in place.

A mode sees every call of a function of torch within its block, so that it does not matter who makes the call, and nothing is
attached to any module: whatever ends the block, an exception too, ends the rewriting. Calls inside a TorchScript module, and
those of ``torch.ops``, are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Compute = Callable[[Tensor], Tensor]
"""The function that was called, with all its arguments but the first."""

RECTIFIERS = ("relu", "relu6", "hardtanh", "threshold", "clamp", "clamp_min", "clip")
ELEMENTWISE = (
    *RECTIFIERS, "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus", "softsign",
    "logsigmoid", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "tanhshrink", "abs", "square", "sqrt", "exp",
)  # fmt: skip
POOLINGS: dict[Any, Callable[..., Any]] = {
    F.max_pool2d: F.max_pool2d_with_indices,
    torch.max_pool2d: F.max_pool2d_with_indices,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
}
SMALL = 1e-6
"""Differences below are rounding: the multiplier of the rescale rule is then the derivative, as in shap (own decision)."""


class GuidedReLUs(TorchFunctionMode):
    """Every ReLU passes back only what is positive of its gradient (Springenberg et al. 2015), on top of its derivative.

    A ReLU is whatever cuts off at 0 from below: ``relu``, ``relu6``, ``hardtanh`` and ``clamp`` with that bound.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0
        """How many ReLUs were called."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        call = _Call(func, args, kwargs)
        if func not in _RECTIFIERS or not call.differentiable or not call.rectifies():
            return func(*args, **(kwargs or {}))
        self.met += 1
        return call.replaced(_guided)


class RescaleRule(TorchFunctionMode):
    """Nonlinear functions have DeepLIFT's multipliers as derivative: difference of outputs by difference of inputs.

    For a batch of images followed by their references in the same order. The first half of every such function's output has
    that derivative, the second half none. Elementwise functions follow the rescale rule (Shrikumar et al. 2017, equation 10).
    A maximum is split as Captum splits it: first from the reference's up to the larger of both maxima, among the image's
    arguments of the maximum, and then down to the image's, among the reference's; each divided by the difference there.
    Unlike Captum, windows may overlap, and where there is no difference the derivative is the image's own. As there, rounding
    decides between equal values, so that in a constant window of the reference it may be another pixel on another device.
    """

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        call = _Call(func, args, kwargs)
        if call.differentiable and len(call.x) % 2 == 0:
            if func in _ELEMENTWISE:
                return call.replaced(lambda y: _rescaled(call.compute, call.x, y))
            if func in POOLINGS and not call.options.pop("return_indices", False):
                return _pooled(call.x, *POOLINGS[func](call.x.detach(), *call.rest, **call.options))
        return func(*args, **(kwargs or {}))


class _Call:
    """A call of a function of torch whose first argument is the tensor ``x``."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Any) -> None:
        self.func, self.options = func, dict(kwargs or {})
        self.x, *self.rest = args or [self.options.pop("input", None)]

    @property
    def differentiable(self) -> bool:
        return torch.is_grad_enabled() and isinstance(self.x, Tensor) and self.x.requires_grad and self.x.ndim > 0

    def compute(self, x: Tensor) -> Tensor:
        y: Tensor = self.func(x, *self.rest, **self.options)
        return y

    def rectifies(self) -> bool:
        """What the function does says it, rather than its name and bounds."""
        if any(isinstance(value, Tensor) for value in (*self.rest, *self.options.values())):
            return False
        return bool(self.compute(torch.tensor([-1.0, 0.0, 0.25])).equal(torch.tensor([0.0, 0.0, 0.25])))

    def replaced(self, rewrite: Compute) -> Tensor:
        """``rewrite`` of the function's output, written into ``x`` where the function works in place."""
        copy = self.x.clone()
        y = self.compute(copy)
        changed = rewrite(y)
        return self.x.copy_(changed) if y is copy else changed


def _guided(y: Tensor) -> Tensor:
    # The hook belongs to this tensor of this graph and goes with it.
    y.register_hook(lambda gradient: gradient.clamp_min(0))
    return y


def _rescaled(compute: Compute, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(compute(leaf.clone()).sum(), leaf)
    (image, reference), (out, reference_out) = x.detach().chunk(2), y.detach().chunk(2)
    difference = image - reference
    small = difference.abs() < SMALL
    multiplier = torch.where(small, slope.chunk(2)[0], (out - reference_out) / difference.masked_fill(small, 1))
    return torch.cat([out + multiplier * _change(x), reference_out])


def _pooled(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    (image, reference), (out, reference_out) = x.detach().chunk(2), y.chunk(2)
    here, there = index.flatten(2).chunk(2)
    larger = torch.maximum(out, reference_out)
    difference = image - reference
    small = difference.abs() < SMALL
    change = _change(x)
    share = (change / difference.masked_fill(small, 1)).masked_fill(small, 0).flatten(2)
    plain = change.masked_fill(~small, 0).flatten(2)
    up = (larger - reference_out).flatten(2) * share.gather(2, here)
    down = (out - larger).flatten(2) * share.gather(2, there)
    return torch.cat([out + (up + down + plain.gather(2, here)).view_as(out), reference_out])


def _change(x: Tensor) -> Tensor:
    """Zeros whose derivative by the images, the first half of ``x``, is 1."""
    image = x.chunk(2)[0]
    return image - image.detach()


def _functions(names: Sequence[str]) -> frozenset[Any]:
    """The functions and methods of torch of these names, those in place too."""
    owners = (F, torch, Tensor)
    found = [getattr(owner, name + suffix, None) for owner in owners for name in names for suffix in ("", "_")]
    return frozenset(function for function in found if function is not None)


_RECTIFIERS, _ELEMENTWISE = _functions(RECTIFIERS), _functions(ELEMENTWISE)
