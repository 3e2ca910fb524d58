"""Consistency, against scikit-image and scipy on the same maps."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn.functional import avg_pool2d, interpolate

from xbench import METRICS, Method, XbenchError
from xbench.classifier import Passes
from xbench.explainer import Explainer
from xbench.metrics.consistency import Consistency
from xbench.subset import Batch
from xbench.testing import tiny_classifier, tiny_images


@dataclasses.dataclass(frozen=True)
class Grid(Method):
    """The image averaged on a grid of 1/m of its size, all below zero."""

    m: int = 3
    name = "grid"

    def __call__(self, classifier, x, y, rng):
        coarse = avg_pool2d(x.mean(1, keepdim=True), self.m)
        return (1 + y[:, None, None]) * interpolate(coarse, size=x.shape[2:], mode="nearest")[:, 0] - 9

    def cost(self, shape):
        return Passes(forward=self.m, backward=1)

    def at_upsample(self, m):
        return self.replace(m=m) if m != 16 else None


@dataclasses.dataclass(frozen=True)
class Flat(Grid):
    """The same map at every size; constant for the images of class 0."""

    name = "flat"

    def __call__(self, classifier, x, y, rng):
        return x[:, 0] * (y != 0)[:, None, None] - 2


class Memory:
    """A store that keeps maps by key and image."""

    def __init__(self):
        self.kept = {}
        self.labels = []

    def maps(self, key, label, ids, groups, compute):
        missing = [i for i, image in enumerate(ids) if (key, image) not in self.kept]
        if missing:
            self.labels.append(label)
            self.kept |= {(key, ids[i]): row for i, row in zip(missing, compute(missing), strict=True)}
        return torch.stack([self.kept[key, image] for image in ids])


def batch_of(count, shape=(1, 28, 28)):
    target = torch.arange(count) % 4
    return Batch([str(i) for i in range(count)], tiny_images(count, shape), target, target)


def explainer_of(method, shape=(1, 28, 28), store=None):
    return Explainer(method, tiny_classifier(shape), store=store)


def reference(method, sizes, batch, data_range=1):
    """From the definition, one image and one pair at a time."""
    maps = {m: method.replace(m=m)(None, batch.x, batch.target, None).double().numpy() for m in sizes}
    rows = []
    for i in range(len(batch)):
        row = []
        for a, b in combinations(sizes, 2):
            x, y = ((z - z.min()) / (z.max() - z.min()) for z in (maps[a][i], maps[b][i]))
            ssim = structural_similarity(
                x, y, win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range
            )
            psnr = peak_signal_noise_ratio(x, y, data_range=data_range)
            row.append((ssim, scipy.stats.pearsonr(x.ravel(), y.ravel())[0], psnr))
        rows.append(np.mean(row, 0))
    return dict(zip(("ssim", "pc", "psnr"), np.transpose(rows), strict=True))


@pytest.mark.parametrize("sizes", [None, (2, 7), (4, 1, 2, 7)])
def test_equals_the_definition(sizes):
    batch = batch_of(5)
    scored = Consistency(sizes)(explainer_of(Grid()), batch, None)
    expected = reference(Grid(), sizes or (1, 2, 4), batch)
    assert list(scored.scores) == [column.name for column in Consistency.columns]
    for name, values in expected.items():
        np.testing.assert_allclose(scored.scores[name], values, atol=1e-4 if name == "psnr" else 1e-5)
    assert scored.reasons == {}
    assert scored.record == {"floored_psnr_pairs": 0}


def test_the_data_range_is_that_of_the_normalised_maps():
    batch = batch_of(4)
    scores = Consistency()(explainer_of(Grid()), batch, None).scores
    wrong = reference(Grid(), (1, 2, 4), batch, data_range=2)
    assert (torch.from_numpy(wrong["ssim"]) > scores["ssim"] + 1e-3).all()
    np.testing.assert_allclose(wrong["psnr"] - scores["psnr"].numpy(), 20 * np.log10(2), atol=1e-4)


def test_equal_and_constant_maps():
    batch = batch_of(8)
    scored = Consistency()(explainer_of(Flat()), batch, None)
    torch.testing.assert_close(scored.scores["ssim"], torch.ones(8).double())
    torch.testing.assert_close(scored.scores["psnr"], torch.full((8,), 100.0).double())
    torch.testing.assert_close(scored.scores["pc"][batch.target != 0], torch.ones(6).double())
    assert scored.scores["pc"][batch.target == 0].isnan().all()
    assert scored.reasons == {"pc": {0: "constant map", 4: "constant map"}}
    assert scored.record == {"floored_psnr_pairs": 24}


def test_the_batch_size_changes_nothing():
    batch = batch_of(64)
    explainer = explainer_of(Grid())
    whole = Consistency()(explainer, batch, None).scores
    for part in [slice(0, 1), slice(63, 64), *(slice(i, min(i + 7, 64)) for i in range(0, 64, 7))]:
        small = Batch(batch.ids[part], batch.x[part], batch.label[part], batch.target[part])
        scores = Consistency()(explainer, small, None).scores
        for name, values in whole.items():
            torch.testing.assert_close(scores[name], values[part], rtol=0, atol=1e-5)


def test_maps_are_stored_once_per_size():
    store = Memory()
    explainer = explainer_of(Grid(), store=store)
    first = Consistency()(explainer, batch_of(3), None).scores
    again = Consistency()(explainer, batch_of(3), None).scores
    assert store.labels == ["tiny/grid(m=1)", "tiny/grid(m=2)", "tiny/grid(m=4)"]
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_sizes_follow_the_image_and_the_cost_counts_all_of_them():
    small, large = tiny_classifier(), tiny_classifier((1, 64, 64))
    assert Consistency().cost(Grid(), small) == Passes(1 + 2 + 4, 3)
    assert Consistency((4, 8)).cost(Grid(), large) == Passes(12, 2)
    assert Consistency().not_applicable(Grid(), small) is None
    assert Consistency().not_applicable(Grid(), large) == "no mask grid"  # the default sizes end with 16 there
    assert Consistency((4, 8)).not_applicable(Grid(), large) is None
    assert Consistency().not_applicable(Method(), small) == "no mask grid"


@pytest.mark.parametrize("sizes", [(), (4,), (4, 4), (0, 2)])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(XbenchError, match="at least two different positive integers"):
        METRICS.make(f"consistency(sizes={sizes})")
