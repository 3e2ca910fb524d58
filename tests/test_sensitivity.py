"""Sensitivity to hyper-parameters, against scikit-image and scipy on the same maps."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity

from xbench import Method
from xbench.classifier import Passes
from xbench.explainer import Explainer
from xbench.metrics.sensitivity import Sensitivity
from xbench.subset import Batch
from xbench.testing import tiny_classifier, tiny_images


@dataclasses.dataclass(frozen=True)
class Wave(Method):
    """The image plus a wave and noise, below zero; constant for class 3 where ``flat``."""

    length: float = 5.0
    seed: int = 0
    flat: bool = False
    name = "wave"

    def __call__(self, classifier, x, y, rng):
        wave = torch.sin(torch.arange(x.shape[3]) / self.length)
        maps = x[:, 0] + wave + 0.2 * rng.normal("noise", x.shape[2:]).to(x) - 7
        return torch.where((y == 3)[:, None, None] & self.flat, torch.full_like(maps, 0.3), maps)

    def cost(self, shape):
        return Passes(forward=self.length, backward=2)

    def sweeps(self, shape):
        return {
            "length": [self.replace(length=length) for length in (2.0, 3.0, 5.0)],
            "seed": [self.replace(seed=seed) for seed in (0, 1)],
        }


def batch_of(count, shape=(1, 28, 28)):
    target = torch.arange(count) % 4
    return Batch([str(i) for i in range(count)], tiny_images(count, shape), target, target)


def reference(explainer, batch, cell):
    """From the definition, one image and one pair at a time: {column: {sweep: (b, pairs)}}."""
    table = {name: {} for name in ("ssim", "hog", "spearman")}
    for sweep, methods in explainer.method.sweeps(None).items():
        maps = [explainer.using(m).maps(batch).double().numpy() for m in methods]
        for rows in table.values():
            rows[sweep] = np.zeros((len(batch), len(maps) * (len(maps) - 1) // 2))
        for i in range(len(batch)):
            for p, (a, b) in enumerate(combinations(maps, 2)):
                x, y = ((z - z.min()) / (z.max() - z.min()) for z in (a[i], b[i]))
                table["ssim"][sweep][i, p] = structural_similarity(x, y, win_size=5, data_range=1)
                descriptors = [hog(z, pixels_per_cell=(cell, cell)) for z in (x, y)]
                table["hog"][sweep][i, p] = scipy.stats.pearsonr(*descriptors)[0]
                table["spearman"][sweep][i, p] = scipy.stats.spearmanr(a[i], b[i], axis=None)[0]
    return table


@pytest.mark.parametrize(("side", "cell"), [(28, 4), (64, 16)])
def test_equals_the_definition(side, cell):
    shape = (1, side, side)
    batch, explainer = batch_of(4, shape), Explainer(Wave(), tiny_classifier(shape))
    scored = Sensitivity()(explainer, batch, None)
    assert list(scored.scores) == [column.name for column in Sensitivity.columns]
    for name, sweeps in reference(explainer, batch, cell).items():
        for sweep, values in sweeps.items():
            np.testing.assert_allclose(scored.curves[f"{name} {sweep}"], values, atol=1e-5)
        expected = np.mean([values.mean(1) for values in sweeps.values()], 0)  # sweeps count alike, whatever their pairs
        np.testing.assert_allclose(scored.scores[name], expected, atol=1e-5)
    assert scored.reasons == {}
    assert scored.curves["ssim length"].shape == (4, 3)
    assert scored.curves["ssim seed"].shape == (4, 1)


def test_settings_that_change_nothing_score_1():
    class Same(Wave):
        def sweeps(self, shape):
            return {"nothing": [self, self, self]}

    scored = Sensitivity()(Explainer(Same(), tiny_classifier()), batch_of(3), None)
    for values in scored.scores.values():
        torch.testing.assert_close(values, torch.ones(3).double())


def test_constant_maps_have_no_correlation():
    scored = Sensitivity()(Explainer(Wave(flat=True), tiny_classifier()), batch_of(8), None)
    assert scored.scores["spearman"].isnan().nonzero()[:, 0].tolist() == [3, 7]
    assert scored.reasons == {
        "hog": {3: "map without gradient", 7: "map without gradient"},
        "spearman": {3: "constant map", 7: "constant map"},
    }
    torch.testing.assert_close(scored.scores["ssim"][[3, 7]], torch.ones(2).double())


def test_the_batch_size_changes_nothing():
    batch, explainer = batch_of(64), Explainer(Wave(), tiny_classifier())
    whole = Sensitivity()(explainer, batch, None)
    for part in [slice(0, 1), slice(63, 64), *(slice(i, min(i + 7, 64)) for i in range(0, 64, 7))]:
        small = Batch(batch.ids[part], batch.x[part], batch.label[part], batch.target[part])
        scores = Sensitivity()(explainer, small, None).scores
        for name, values in whole.scores.items():
            torch.testing.assert_close(scores[name], values[part], rtol=0, atol=1e-8)


def test_cost_counts_every_setting():
    assert Sensitivity().cost(Wave(), tiny_classifier()) == Passes(2 + 3 + 5 + 5 + 5, 10)


def test_a_method_without_sweeps_is_not_applicable():
    assert Sensitivity().not_applicable(Method(), tiny_classifier()) == "no hyper-parameter to sweep"
    assert Sensitivity().not_applicable(Wave(), tiny_classifier()) is None
