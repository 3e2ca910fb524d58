"""The thresholds of SaS against scipy's root search, their exact gradient against finite differences, and hard cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from xbench.ops.blur import gaussian_blur
from xbench.ops.schedule import inner_masks, schedule_masks, thresholds


def fields(count: int, size: int = 28, seed: int = 0, sigma: float = 1.0) -> Tensor:
    """Smooth random fields with values in [0, 1], float64."""
    noise = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = gaussian_blur(noise, sigma)[:, 0]
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    return (smooth - low) / (high - low)


def areas(steps: int) -> Tensor:
    return torch.arange(1, steps, dtype=torch.float64) / steps


@pytest.mark.parametrize("scale", [0.01, 1.0, 15.0, 300.0])
def test_thresholds_equal_scipys_roots(scale: float) -> None:
    scores = scale * fields(2).flatten(1) - 3
    found = thresholds(scores, areas(20))
    for row, ts in zip(scores.numpy(), found.numpy(), strict=True):
        for area, t in zip(areas(20).numpy(), ts, strict=True):

            def excess(t: float, row: np.ndarray = row, area: float = area) -> float:
                return float(np.mean(1 / (1 + np.exp(np.clip(t - row, -700, 700))) ** 2) - area)

            assert t == pytest.approx(brentq(excess, row.min() - 10, row.max() + 10, xtol=1e-12), abs=1e-8)


INDEX = torch.arange(1024).view(1, 32, 32)
HARD = {
    "noise of the start": 1e-2 * fields(2),
    "after optimisation": 15 * fields(2) - 8,
    "wide": 1000 * fields(2),
    "224 px": 20 * fields(1, 224, sigma=7.0),
    "constant": torch.full((1, 28, 28), -2.5, dtype=torch.float64),
    "two values": 1000.0 * (fields(2) > 0.5),
    "plateau at an area": 1000.0 * (INDEX < 256),
    "one pixel": 1000.0 * (INDEX == 100),
    "one pixel missing": -1000.0 * (INDEX == 100),
    "heavy tails": (fields(2) - 0.5).sign() * (2 * (fields(2) - 0.5)).abs().pow(8) * 1000,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", HARD)
def test_areas_are_right_from_any_start(name: str, dtype: torch.dtype) -> None:
    scores = HARD[name].to(dtype)
    for start in (None, -1e4, 0.0, 1e4):
        begin = None if start is None else torch.full((len(scores), 19), start, dtype=dtype)
        masks, t = inner_masks(scores, 20, begin)
        assert masks.dtype == t.dtype == dtype
        area = masks.double().square().mean((2, 3))
        assert (area - areas(20)).abs().max() < (1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rounding", [-4, 0, 4])
def test_a_plateau_at_the_area_is_not_left(rounding: int, dtype: torch.dtype) -> None:
    # Every threshold between 0 and 1000 gives the area 0.3; one pixel is far above.
    index = torch.arange(300)
    scores = (1000.0 * (index < 90) + 1e5 * (index == 0)).to(dtype)[None]
    area = torch.tensor([0.3 * (1 + rounding * torch.finfo(dtype).eps)], dtype=dtype)
    assert 0 < thresholds(scores, area, torch.tensor([[500.0]], dtype=dtype)) < 1000


def test_schedule_grows_from_exact_zeros_to_exact_ones() -> None:
    masks = schedule_masks(8 * fields(3), 10)
    assert masks.shape == (3, 11, 28, 28)
    assert torch.equal(masks[:, 0], torch.zeros(3, 28, 28, dtype=torch.float64))
    assert torch.equal(masks[:, -1], torch.ones(3, 28, 28, dtype=torch.float64))
    assert (masks.diff(dim=1) > 0).all()
    area = masks.square().mean((2, 3))
    torch.testing.assert_close(area, (torch.arange(11, dtype=torch.float64) / 10).expand(3, -1), rtol=0, atol=1e-12)
    assert torch.equal(masks[0, 4].flatten().argsort(), fields(3)[0].flatten().argsort()), "all masks rank as the pre-mask does"


@pytest.mark.parametrize("scale", [0.1, 5.0, 30.0])
def test_exact_gradient_equals_finite_differences(scale: float) -> None:
    scores = (scale * fields(2, 4, sigma=0.3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: schedule_masks(s, 4), (scores,))


def test_detached_gradient_holds_the_thresholds() -> None:
    scores = (5 * fields(2, 6)).requires_grad_()
    weights = fields(10, 6, seed=1).view(2, 5, 6, 6)
    masks, t = inner_masks(scores, 6, exact=False)
    (found,) = torch.autograd.grad(masks, scores, weights)
    (expected,) = torch.autograd.grad(torch.sigmoid(scores[:, None] - t[..., None, None]), scores, weights)
    torch.testing.assert_close(found, expected)
    (exact,) = torch.autograd.grad(inner_masks(scores, 6)[0], scores, weights)
    assert not torch.allclose(exact, expected, rtol=1e-2)


@pytest.mark.parametrize("name", HARD)
def test_gradients_of_hard_masks_are_finite_and_leave_a_common_shift_out(name: str) -> None:
    scores = HARD[name].float().requires_grad_()
    weights = fields(len(scores) * 19, scores.shape[1], seed=1).view(-1, 19, *scores.shape[1:]).float()
    exact, detached = (torch.autograd.grad(inner_masks(scores, 20, exact=e)[0], scores, weights)[0] for e in (True, False))
    assert exact.isfinite().all()
    # Adding the same number to all scores changes no mask.
    assert (exact.sum((1, 2)).abs() <= 1e-4 * detached.sum((1, 2))).all()


def test_rows_do_not_influence_each_other() -> None:
    scores = torch.cat([1e-2 * fields(1), 100 * fields(1, seed=1), 15 * fields(1, seed=2)]).float().flatten(1)
    area = areas(20).float()
    together = thresholds(scores, area)
    assert torch.equal(together, torch.cat([thresholds(row[None], area) for row in scores]))


@pytest.mark.parametrize("function", [schedule_masks, inner_masks])
def test_too_few_steps_are_refused(function) -> None:
    with pytest.raises(ValueError, match="steps must be at least 2, got 1"):
        function(fields(1), 1)
