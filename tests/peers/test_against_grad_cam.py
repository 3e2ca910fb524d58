"""GradCAM against the package pytorch-grad-cam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xbench import METHODS, ImageRandom
from xbench.ops.normalise import minmax

pytest.importorskip("pytorch_grad_cam")

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


def test_maps_are_those_of_the_package_up_to_their_scale(digits):
    classifier, x, _, names = digits
    y = torch.tensor([0, 3, 9, 1, 7])  # not the predicted classes
    ours = minmax(METHODS.make("gradcam")(classifier, x, y, ImageRandom(0, names)))
    with GradCAM(model=classifier, target_layers=[classifier.target_layer()]) as package:
        theirs = package(input_tensor=x.clone().requires_grad_(), targets=[ClassifierOutputTarget(int(c)) for c in y])
    for name, our, their in zip(names, ours.numpy(), theirs, strict=True):
        error = np.abs(our - their).max()
        print(f"{name}: largest difference {error:.1e}, correlation {np.corrcoef(our.flatten(), their.flatten())[0, 1]:.6f}")
        assert error < 1e-5  # the package adds 1e-7 to the maximum that it divides by, and computes in float32
    assert ours.std() > 0.1
