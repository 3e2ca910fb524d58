"""The deletion metric against the pixel flipping of Quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xbench import METHODS, METRICS, Batch, Classifier, Explainer

quantus = pytest.importorskip("quantus")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:quantus.*")
@pytest.mark.parametrize("spec", ["gradient", "integrated-gradients(steps=10)"])
def test_the_curve_is_that_of_pixel_flipping(digits: tuple[Classifier, Tensor, Tensor, list[str]], spec: str) -> None:
    classifier, x, y, names = digits
    classifier, x = classifier.float(), x.float()
    explainer = Explainer(METHODS.make(spec), classifier)
    batch = Batch(ids=names, x=x, label=y, target=y, boxes=None)
    # A little noise breaks ties, which each side would break in its own way.
    maps = explainer.maps(batch)
    maps = maps + 1e-3 * maps.amax() * torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    curve = METRICS.make("deletion")(explainer, batch, maps).curves["probability"].numpy()
    flipping = quantus.PixelFlipping(
        features_in_step=28,
        perturb_baseline=float(classifier.gray),
        abs=False,
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    theirs = np.array(
        flipping(
            model=classifier,
            x_batch=x.numpy(),
            y_batch=y.numpy(),
            a_batch=maps[:, None].numpy(),
            softmax=True,
            channel_first=True,
            device="cpu",
        )
    )
    error = np.abs(curve[:, 1:] - theirs).max()  # theirs begins after the first step
    print(f"{spec}: {theirs.shape[1]} points an image, largest difference {error:.1e}")
    assert theirs.shape == (5, 28)
    assert theirs.std() > 0.1
    assert error < 1e-5
