"""Low-k KL, against a loop over its definition and against a classifier whose probabilities are affine in the pixels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
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
from xbench.testing import tiny_batch, tiny_classifier


def sharp_classifier(shape: tuple[int, int, int] = (1, 28, 28)) -> Classifier:
    """The tiny classifier with larger logits, so that removing pixels matters."""
    classifier = tiny_classifier(shape)
    with torch.no_grad():
        classifier.module.fc.weight.mul_(30)
    return classifier


def maps_of(batch: Batch, seed: int = 0) -> Tensor:
    shape = (len(batch), *batch.x.shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(batch.x)


def score(classifier: Classifier, batch: Batch, maps: Tensor, metric: LowKKL | None = None, seed: int = 0) -> Scored:
    return (metric or LowKKL())(Explainer(Method(), classifier, seed), batch, maps)


def part(batch: Batch, index: list[int]) -> Batch:
    return Batch([batch.ids[i] for i in index], batch.x[index], batch.label[index], batch.target[index])


def slow(classifier: Classifier, batch: Batch, maps: Tensor, fill: Tensor, seed: int) -> tuple[list[list[float]], list[float]]:
    """The definition: sort the pixels of one image, replace the least important ones one after the other."""
    pixels = maps[0].numel()
    curves, areas = [], []
    for i in range(len(batch)):
        values = maps[i].flatten().tolist()
        ties = ImageRandom(seed, [batch.ids[i]]).uniform("ties", (pixels,))[0].tolist()
        ascending = sorted(range(pixels), key=lambda p: (values[p], -ties[p]))
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
    assert torch.equal(score(classifier, black, maps_of(batch)).curves["kl"], torch.zeros(2, 10))
    assert (score(classifier, black, maps_of(batch), LowKKL(fill="gray")).curves["kl"][:, 1:] > 0).all()


def test_only_the_order_of_a_map_matters() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(4, classifier)
    maps = maps_of(batch).round()
    expected = score(classifier, batch, maps).scores["kl"]
    for transformed in (2 * maps + 5, maps - 100, maps.exp()):
        assert torch.equal(score(classifier, batch, transformed).scores["kl"], expected)
    assert not torch.allclose(score(classifier, batch, -maps).scores["kl"], expected)


def test_constant_and_one_hot_maps_are_scored_in_the_order_of_the_draws() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(4, classifier)
    ties = ImageRandom(7, batch.ids).uniform("ties", (784,)).view(4, 28, 28)
    expected = score(classifier, batch, -ties, seed=7).scores["kl"]
    for value in (0.0, -1.0, 3.0):
        assert torch.equal(score(classifier, batch, torch.full((4, 28, 28), value), seed=7).scores["kl"], expected)
    assert not torch.equal(score(classifier, batch, torch.zeros(4, 28, 28), seed=8).scores["kl"], expected)
    one_hot = torch.zeros(4, 28, 28)
    one_hot[:, 14, 14] = 1
    first = -ties
    first[:, 14, 14] = 1
    assert torch.equal(score(classifier, batch, one_hot, seed=7).scores["kl"], score(classifier, batch, first).scores["kl"])


@pytest.mark.parametrize(("size", "fill"), [(1, "zero"), (7, "zero"), (3, "linear")])
def test_batches_change_nothing(size: int, fill: str) -> None:
    classifier, metric = sharp_classifier(), LowKKL(fill=fill)
    batch = tiny_batch(9, classifier)
    maps = maps_of(batch).round()
    expected = score(classifier, batch, maps, metric).scores["kl"]
    classifier.batch_size = size
    torch.testing.assert_close(score(classifier, batch, maps, metric).scores["kl"], expected, rtol=1e-5, atol=1e-5)
    parts = torch.arange(9).split(size)
    found = [score(classifier, part(batch, index.tolist()), maps[index], metric).scores["kl"] for index in parts]
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-5, atol=1e-5)


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
