"""Low-k KL, against a loop over its definition and against a classifier whose probabilities are affine in the pixels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from given_maps import in_order, maps_of, sharp_classifier
from perturbed import affine
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from xbench import METRICS, Method, XbenchError
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics.low_k_kl import LowKKL
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_batch


def score(classifier: Classifier, batch: Batch, maps: Tensor, metric: LowKKL | None = None, seed: int = 0) -> Scored:
    return (metric or LowKKL())(Explainer(Method(), classifier, seed), batch, maps)


def slow(classifier: Classifier, batch: Batch, maps: Tensor, fill: Tensor, seed: int) -> tuple[list[list[float]], list[float]]:
    """The definition: sort the pixels of one image, replace the least important ones one after the other."""
    pixels = maps[0].numel()
    curves, areas = [], []
    for i in range(len(batch)):
        ascending = in_order(maps[i], batch.ids[i], seed)[::-1]
        clean = Categorical(logits=classifier(batch.x[i : i + 1])[0])
        curve, share = [], []
        for k in range(10):
            image = batch.x[i].clone()
            removed = int(k * pixels / 10 + 0.5)
            for pixel in ascending[:removed]:
                row, column = divmod(pixel, maps.shape[2])
                image[:, row, column] = fill[i, :, row, column]
            curve.append(float(kl_divergence(clean, Categorical(logits=classifier(image[None])[0]))))
            share.append(removed / pixels)
        curves.append(curve)
        areas.append(sum((share[j + 1] - share[j]) * (curve[j] + curve[j + 1]) / 2 for j in range(9)))
    return curves, areas


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 9)])
@pytest.mark.parametrize("fill", ["zero", "gray", "noise"])
def test_equals_the_definition(shape: tuple[int, int, int], fill: str) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(3, classifier)
    maps = maps_of(batch)
    maps[1] = maps[1].round()  # ties
    replacement = {
        "zero": torch.zeros_like(batch.x),
        "gray": torch.full_like(batch.x, 0.5),
        "noise": 0.5 + 0.2 * ImageRandom(5, batch.ids).normal("fill", shape).double(),
    }
    scored = score(classifier, batch, maps, LowKKL(fill=fill), seed=5)
    with torch.no_grad():
        curves, areas = slow(classifier, batch, maps, replacement[fill], seed=5)
    torch.testing.assert_close(scored.curves["kl"], torch.tensor(curves).double())
    torch.testing.assert_close(scored.scores["kl"], torch.tensor(areas).double())


def test_affine_classifier_that_counts_white_pixels() -> None:
    """q falls from .9 by .08 with every tenth of the pixels removed, whichever they are."""
    classifier = affine(torch.full((1, 10, 10), 0.008).double(), 0.1, mean=0.0).double()
    zero = torch.zeros(1, dtype=torch.int64)
    batch = Batch(["a"], torch.ones(1, 1, 10, 10).double(), zero, zero)
    scored = score(classifier, batch, maps_of(batch))
    left = [0.9 - 0.08 * k for k in range(10)]
    curve = [0.9 * math.log(0.9 / q) + 0.1 * math.log(0.1 / (1 - q)) for q in left]
    torch.testing.assert_close(scored.curves["kl"], torch.tensor([curve]).double())
    assert float(scored.scores["kl"]) == pytest.approx((sum(curve) - curve[0] / 2 - curve[9] / 2) / 10)


def test_nothing_is_lost_when_the_removed_pixels_do_not_matter() -> None:
    weight = torch.zeros(1, 10, 10).double()
    weight[0, 2:4, 3:8] = 0.08  # a tenth of the pixels
    classifier = affine(weight, 0.1, mean=0.0).double()
    zero = torch.zeros(2, dtype=torch.int64)
    batch = Batch(["a", "b"], torch.rand(2, 1, 10, 10, generator=torch.Generator().manual_seed(0)).double(), zero, zero)
    scored = score(classifier, batch, weight.expand(2, 10, 10))
    torch.testing.assert_close(scored.curves["kl"], torch.zeros(2, 10).double())
    assert (score(classifier, batch, -weight.expand(2, 10, 10)).scores["kl"] > 0.01).all()
    assert (score(classifier, batch, maps_of(batch)).scores["kl"] > 0.01).all()


def test_zero_is_black_and_not_the_mean_pixel() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    black = dataclasses.replace(batch, x=torch.zeros_like(batch.x))
    nothing = score(classifier, black, maps_of(batch)).curves["kl"]
    torch.testing.assert_close(nothing, torch.zeros(2, 10), atol=1e-6, rtol=0)  # rounding, by the size of a batch
    assert (score(classifier, black, maps_of(batch), LowKKL(fill="gray")).curves["kl"][:, 1:] > 0).all()


def test_every_fill_costs_ten_passes() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(3, classifier)
    for fill in ("zero", "blur", "linear"):
        classifier.passes = Passes()
        metric = LowKKL(fill=fill)
        score(classifier, batch, maps_of(batch), metric)
        assert classifier.passes == metric.cost(Method(), classifier) * 3 == Passes(forward=30)


def test_the_class_explained_does_not_matter() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    other = dataclasses.replace(batch, target=(batch.target + 1) % 4)
    found, others = (score(classifier, b, maps_of(batch)).scores["kl"] for b in (batch, other))
    assert torch.equal(found, others)


def test_is_registered_and_lower_is_better() -> None:
    assert METRICS.make("low-k-kl") == LowKKL()
    assert METRICS.make('low-k-kl(fill="gray")') == LowKKL(fill="gray")
    assert [(column.name, column.higher_is_better) for column in LowKKL.columns] == [("kl", False)]


def test_refuses_an_unknown_fill() -> None:
    with pytest.raises(ValueError, match="fill must be one of biharmonic, blur, gray"):
        LowKKL(fill="grey")
    with pytest.raises(XbenchError, match="low-k-kl"):
        METRICS.make('low-k-kl(fill="grey")')


def test_does_not_apply_where_no_inpainter_ships() -> None:
    reason = LowKKL(fill="inpaint").not_applicable(Method(), sharp_classifier())
    assert reason is not None
    assert "no inpainter ships" in reason
    assert LowKKL().not_applicable(Method(), sharp_classifier()) is None
