"""Infidelity, against a loop over the definition, a linear classifier, and Captum on the same draws."""

from __future__ import annotations

import pytest
import torch
from captum.metrics import infidelity
from given_maps import linear, maps_of, of_class, sharp_classifier
from torch import Tensor

from xbench import METRICS, Explainer, ImageRandom, Method, XbenchError
from xbench.classifier import Classifier, Passes
from xbench.metrics.infidelity import Infidelity
from xbench.subset import Batch
from xbench.testing import tiny_batch

SHAPES = [(1, 28, 28), (3, 12, 9)]


def score(classifier: Classifier, batch: Batch, maps: Tensor, draws: int = 6, seed: int = 5) -> dict[str, Tensor]:
    return Infidelity(draws=draws)(Explainer(Method(), classifier, seed), batch, maps).scores


def perturbations(batch: Batch, draws: int, seed: int = 5) -> Tensor:
    """(draws, b, c, h, w)."""
    rng = ImageRandom(seed, batch.ids)
    every = [rng.normal("perturbation", batch.x.shape[1:], step) for step in range(1, draws + 1)]
    return 0.03 * torch.stack(every).to(batch.x)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(shape: tuple[int, int, int]) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(3, classifier)
    maps, noise = maps_of(batch), perturbations(batch, 6)
    found = score(classifier, batch, maps)
    for i in range(3):
        claimed, changed = [], []
        for draw in noise[:, i]:
            claimed.append(sum(float(maps[i, row, column] * value) for _, row, column, value in entries(draw)))
            f, moved = (float(classifier(x[None])[0, batch.target[i]]) for x in (batch.x[i], batch.x[i] - draw))
            changed.append(f - moved)
        assert float(found["infidelity"][i]) == pytest.approx(mean_square(claimed, changed, 1.0))
        factor = sum(a * d for a, d in zip(claimed, changed, strict=True)) / sum(a * a for a in claimed)
        assert float(found["scaled"][i]) == pytest.approx(mean_square(claimed, changed, factor))
        for other in (0.9 * factor, 1.1 * factor, 0.0, 1.0):
            assert float(found["scaled"][i]) <= mean_square(claimed, changed, other)


def entries(draw: Tensor) -> list[tuple[int, int, int, Tensor]]:
    c, h, w = draw.shape
    return [(k, i, j, draw[k, i, j]) for k in range(c) for i in range(h) for j in range(w)]


def mean_square(claimed: list[float], changed: list[float], factor: float) -> float:
    return sum((factor * a - d) ** 2 for a, d in zip(claimed, changed, strict=True)) / len(claimed)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_captum_on_the_same_draws(shape: tuple[int, int, int]) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(4, classifier)
    maps, noise = maps_of(batch), perturbations(batch, 6)
    maps[3] = 0

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        draws = noise.transpose(0, 1).flatten(0, 1)  # Captum repeats every image, not the batch
        return draws, x - draws

    found = score(classifier, batch, maps)
    for name, scaled in (("infidelity", False), ("scaled", True)):
        expected = infidelity(
            classifier,
            perturb,
            batch.x,
            maps[:, None].expand_as(batch.x),
            target=batch.target,
            n_perturb_samples=6,
            normalize=scaled,
        )
        torch.testing.assert_close(found[name], expected)


def test_the_gradient_of_a_linear_classifier_has_no_infidelity() -> None:
    """Where all channels weigh the same; a map ten times as large misses by nine times the change, 81 times its square."""
    plane = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    weight = plane.expand(3, 8, 8).clone()
    batch = of_class(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double())
    classifier, exact = linear(weight, 0.3, 0.5, 0.25), 4 * plane.expand(2, 8, 8)
    found = score(classifier, batch, exact)
    assert max(float(values.max()) for values in found.values()) < 1e-20
    larger, zero = (score(classifier, batch, maps) for maps in (10 * exact, 0 * exact))
    torch.testing.assert_close(larger["infidelity"], 81 * zero["infidelity"])
    assert float(larger["scaled"].max()) < 1e-20
    torch.testing.assert_close(zero["scaled"], zero["infidelity"])
    # In expectation the squared change is std^2 times the squared norm of the gradient.
    many = score(classifier, batch, 0 * exact, draws=3000)["infidelity"]
    torch.testing.assert_close(many, (0.03**2 * (4 * weight).square().sum()).expand(2), rtol=0.1, atol=0)


def test_passes_are_what_cost_says_and_images_are_left_alone() -> None:
    classifier = sharp_classifier()
    batch, before = tiny_batch(3, classifier), tiny_batch(3, classifier).x
    classifier.passes = Passes()
    score(classifier, batch, maps_of(batch), draws=7)
    assert classifier.passes == Infidelity(draws=7).cost(Method(), classifier) * 3 == Passes(forward=24)
    assert torch.equal(batch.x, before)


def test_is_registered_and_refuses_parameters_out_of_range() -> None:
    assert METRICS.make("infidelity(std=0.1, draws=3)") == Infidelity(0.1, 3)
    assert {c.name: c.higher_is_better for c in Infidelity.columns} == {"scaled": False, "infidelity": None}
    for given in ("std=0.0", "draws=0"):
        with pytest.raises(XbenchError, match=f"{given.split('=')[0]} must be"):
            METRICS.make(f"infidelity({given})")
