"""The saliency metric, against the definition crop by crop and a classifier whose probability is the mean pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from xbench import METRICS, Batch, Classifier, Explainer, Method
from xbench.classifier import Passes
from xbench.metrics.localisation import ALPHAS
from xbench.metrics.saliency_metric import SaliencyMetric
from xbench.testing import tiny_batch, tiny_classifier


class Mean(nn.Module):
    """Two classes; the softmax probability of the second is the mean pixel."""

    def forward(self, x: Tensor) -> Tensor:
        p = x.mean((1, 2, 3))
        return torch.stack([(1 - p).log(), p.log()], 1)


def mean_classifier(size: int = 20) -> Classifier:
    shape = (1, size, size)
    about = {"name": "mean", "label_space": "two", "mean": [0.0], "std": [1.0], "cam_layer": None, "stages": []}
    return Classifier(Mean(), shape=shape, classes=2, **about)  # type: ignore[arg-type]


def bright_square() -> tuple[Batch, Tensor]:
    """A square of 5 x 5 pixels of 0.8 in an image of 20 x 20 of 0.1, and the map that is the square."""
    x = torch.full((1, 1, 20, 20), 0.1, dtype=torch.float64)
    x[:, :, 10:15, 4:9] = 0.8
    one = torch.ones(1, dtype=torch.int64)
    return Batch(["image"], x, one, one), (x[:, 0] > 0.5).double()


def sharp(shape: tuple[int, int, int] = (1, 28, 28)) -> Classifier:
    classifier = tiny_classifier(shape).double()
    with torch.no_grad():
        classifier.module.fc.weight.mul_(30)
    return classifier


def maps_of(batch: Batch) -> Tensor:
    coarse = torch.randn(len(batch), 1, 6, 6, generator=torch.Generator().manual_seed(2)).double()
    return nn.functional.interpolate(coarse, size=batch.x.shape[2:], mode="bicubic")[:, 0]


def slow(classifier: Classifier, x: Tensor, y: int, values: Tensor, alpha: float) -> float:
    """The definition for one image (c, h, w)."""
    _, h, w = x.shape
    hit = (values.clamp_min(0) > alpha * values.clamp_min(0).max()).nonzero()
    if len(hit):
        (y0, x0), (y1, x1) = hit.min(0).values.tolist(), hit.max(0).values.tolist()
        crop = x[None, :, y0 : y1 + 1, x0 : x1 + 1]
        area = (y1 + 1 - y0) * (x1 + 1 - x0) / (h * w)
        image = nn.functional.interpolate(crop, size=(h, w), mode="bicubic", align_corners=False).clamp(0, 1)
    else:
        area, image = 0.0, torch.zeros_like(x)[None]
    p = float(classifier.probabilities(image)[0, y])
    return math.log(max(area, 0.05)) - math.log(max(p, 1e-12))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 18, 25)])
def test_equals_the_definition(shape: tuple[int, int, int]) -> None:
    classifier = sharp(shape)
    batch = tiny_batch(6, classifier)
    maps = maps_of(batch)
    maps[5] = -1
    for alpha in (0.0, 0.3, 0.85):
        scored = SaliencyMetric(alpha=alpha)(Explainer(Method(), classifier), batch, maps)
        expected = [slow(classifier, batch.x[i], int(batch.target[i]), maps[i], alpha) for i in range(6)]
        torch.testing.assert_close(scored.scores["score"], torch.tensor(expected).double())


def test_known_scores() -> None:
    """The crop of the square has a mean of 0.8 on 1/16 of the image; a map without a box has a black crop, p = 1e-12."""
    batch, maps = bright_square()
    explainer = Explainer(Method(), mean_classifier().double())
    for values, area, score in (
        (maps, 25 / 400, math.log(25 / 400) - math.log(0.8)),
        (torch.ones_like(maps), 1.0, -math.log(float(batch.x.mean()))),
        (torch.zeros_like(maps), 0.0, math.log(0.05) - math.log(1e-12)),
    ):
        scored = SaliencyMetric(alpha=0.5)(explainer, batch, values)
        assert float(scored.scores["score"]) == pytest.approx(score)
        assert float(scored.scores["area"]) == pytest.approx(area)


def test_no_box_is_smaller_than_a_twentieth_of_the_image() -> None:
    batch, _ = bright_square()
    one_hot = torch.zeros(1, 20, 20, dtype=torch.float64)
    one_hot[0, 12, 6] = 1
    scored = SaliencyMetric(alpha=0.0)(Explainer(Method(), mean_classifier().double()), batch, one_hot)
    assert float(scored.scores["score"]) == pytest.approx(math.log(0.05) - math.log(0.8))
    assert float(scored.scores["area"]) == pytest.approx(1 / 400)


def test_the_threshold_is_the_smallest_with_the_lowest_score() -> None:
    batch, maps = bright_square()
    explainer = Explainer(Method(), mean_classifier().double())
    halo = torch.zeros_like(maps)
    halo[:, 5:18, 1:15] = 0.3
    assert SaliencyMetric().calibrate(explainer, batch, maps + halo * (1 - maps)).alpha == 0.3
    assert SaliencyMetric().calibrate(explainer, batch, maps).alpha == 0, "the same box at every threshold"


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_what_a_loop_over_images_and_thresholds_finds(seed: int) -> None:
    """Images that are dark where their maps are high: below a twentieth of the image a smaller box only costs probability."""
    classifier = mean_classifier().double()
    centre = torch.randint(6, 14, (7, 2, 1, 1), generator=torch.Generator().manual_seed(seed))
    grid = torch.arange(20).double()
    distance = ((grid - centre[:, 0]) ** 2 + (grid[:, None] - centre[:, 1]) ** 2).sqrt()
    maps = torch.exp(-distance / (2 + seed)) - 0.1
    one = torch.ones(7, dtype=torch.int64)
    batch = Batch([f"image-{i}" for i in range(7)], 0.1 + 0.02 * distance[:, None].clamp_max(20), one, one)
    means = [sum(slow(classifier, batch.x[i], 1, maps[i], a) for i in range(7)) / 7 for a in ALPHAS]
    best = next(a for a, mean in zip(ALPHAS, means, strict=True) if mean <= min(means) + 1e-6)
    assert 0 < best < 0.95
    for size in (1, 64):
        classifier.batch_size = size
        assert SaliencyMetric().calibrate(Explainer(Method(), classifier), batch, maps).alpha == best


def test_passes_are_what_cost_says() -> None:
    classifier = sharp()
    batch = tiny_batch(3, classifier)
    metric, explainer = SaliencyMetric(), Explainer(Method(), classifier)
    classifier.passes = Passes()
    ready = metric.calibrate(explainer, batch, maps_of(batch))
    assert classifier.passes == metric.calibration_cost(classifier) * 3 == Passes(forward=60)
    ready(explainer, batch, maps_of(batch))
    assert classifier.passes == Passes(forward=60) + metric.cost(Method(), classifier) * 3 == Passes(forward=63)


def test_batches_change_nothing() -> None:
    classifier = sharp().float()
    batch = tiny_batch(9, classifier)
    maps = maps_of(batch).float()
    expected = SaliencyMetric(alpha=0.4)(Explainer(Method(), classifier), batch, maps).scores["score"]
    for size in (1, 4, 64):
        classifier.batch_size = size
        scores = SaliencyMetric(alpha=0.4)(Explainer(Method(), classifier), batch, maps).scores["score"]
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


def test_is_registered_and_explains_the_label_without_boxes() -> None:
    metric = METRICS.make("saliency-metric")
    assert (metric, metric.target_rule, metric.needs_boxes) == (SaliencyMetric(), "label", False)
    assert [(column.name, column.higher_is_better) for column in metric.columns] == [("score", False), ("area", None)]
