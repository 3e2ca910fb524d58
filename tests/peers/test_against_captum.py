"""Sliding patch against Captum's Occlusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import nn

from xbench import ImageRandom
from xbench.methods.sliding_patch import SlidingPatch


def occlusion(classifier, x, y, patch, stride):
    """Captum's map (b, h, w): the mean drop of the probability over the patches that cover a pixel, gray as baseline."""
    occluder = Occlusion(nn.Sequential(classifier, nn.Softmax(1)))
    window = (x.shape[1], patch, patch)
    baseline = classifier.gray.expand_as(x[:1])
    with torch.no_grad():
        return occluder.attribute(x, window, (x.shape[1], stride, stride), baseline, y, perturbations_per_eval=16)[:, 0]


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (7, 7), (6, 2), (4, 3)])
def test_the_grid_of_values_is_that_of_occlusion(digits, patch, stride):
    classifier, x, y, names = digits
    maps = SlidingPatch(patch=patch, stride=stride)(classifier, x, y, ImageRandom(0, names))
    theirs = occlusion(classifier, x, y, patch, stride)
    positions = (28 - patch) // stride + 1
    # Our map is the grid stretched; undone, every value goes to the pixels of its patch.
    stretch = F.interpolate(torch.eye(positions).double()[None], size=28, mode="linear", align_corners=False)[0].T
    undo = torch.linalg.pinv(stretch)
    values = undo @ maps @ undo.T
    covered = torch.zeros(28, positions).double()
    for k in range(positions):
        covered[k * stride : k * stride + patch, k] = 1
    ours = covered @ values @ covered.T / (covered @ torch.ones_like(values) @ covered.T)
    error = (ours - theirs).abs().max().item()
    correlation = np.corrcoef(ours.flatten(), theirs.flatten())[0, 1]
    print(f"patch {patch}, stride {stride}: largest difference {error:.1e}, correlation {correlation:.9f}")
    assert theirs.abs().max() > 0.05
    assert error < 1e-6  # Captum takes the differences in float32
