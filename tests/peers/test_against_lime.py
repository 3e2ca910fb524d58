"""LIME against the package of its authors, on the same superpixels and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.segmentation import slic

from xbench import ImageRandom
from xbench.methods.lime import Lime

pytest.importorskip("lime")

from lime.lime_image import LimeImageExplainer

SAMPLES, SEGMENTS = 500, 50


class Samples(np.random.RandomState):
    """Gives the package the samples that we drew, where it asks for them."""

    def __init__(self, kept):
        super().__init__(0)
        self.kept = kept

    def randint(self, low, high=None, size=None, dtype=int):
        if size is None:  # the seed of a segmentation that is not used
            return 0
        assert (low, high, size) == (0, 2, self.kept.size)
        return self.kept.flatten()


@pytest.mark.parametrize("fill", ["gray", "zero"])
def test_coefficients_are_those_of_the_package(digits, fill):
    classifier, x, y, names = digits
    maps = Lime(samples=SAMPLES, segments=SEGMENTS, fill=fill)(classifier, x, y, ImageRandom(0, names))
    colour = float(classifier.gray) if fill == "gray" else 0.0

    def predict(images):
        return classifier.probabilities(torch.from_numpy(images[:, None, :, :, 0])).numpy()

    for i, name in enumerate(names):
        segments = slic(x[i, 0].numpy(), SEGMENTS, compactness=0.1, sigma=0, start_label=0, channel_axis=None)
        count = segments.max() + 1
        rng = ImageRandom(0, [name])
        blocks = [rng.uniform("kept", (SAMPLES, SEGMENTS), step=k)[0] for k in range(-(-count // SEGMENTS))]
        kept = (torch.cat(blocks, 1)[:, :count] < 0.5).numpy().astype(int)
        explainer = LimeImageExplainer(random_state=Samples(kept))
        explanation = explainer.explain_instance(
            x[i, 0].numpy(),
            predict,
            labels=(int(y[i]),),
            hide_color=colour,
            top_labels=None,
            num_samples=SAMPLES,
            segmentation_fn=lambda _image, segments=segments: segments,
        )
        theirs = np.zeros(count)
        for segment, coefficient in explanation.local_exp[int(y[i])]:
            theirs[segment] = coefficient
        ours = np.array([maps[i].numpy()[segments == k][0] for k in range(count)])
        rank = spearmanr(ours, theirs).statistic
        error = np.abs(ours - theirs).max()
        print(f"{name}, {fill}: {count} superpixels, rank correlation {rank:.6f}, largest difference {error:.1e}")
        assert np.abs(theirs).max() > 0.01
        assert rank > 0.99
        assert error < 1e-6
