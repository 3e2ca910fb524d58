"""The class activation maps against the package pytorch-grad-cam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xbench import METHODS, ImageRandom
from xbench.ops.normalise import minmax

pytest.importorskip("pytorch_grad_cam")

import pytorch_grad_cam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class LogProbability(ClassifierOutputTarget):
    """The package's ScoreCAM takes a softmax over the feature maps' scores: of these it is the probabilities, scaled."""

    def __call__(self, logits):
        return logits.log_softmax(-1)[self.category]


@pytest.mark.parametrize(
    ("spec", "theirs", "layer", "target"),
    [
        ("gradcam", "GradCAM", "relu3", ClassifierOutputTarget),
        ("layercam", "LayerCAM", "relu3", ClassifierOutputTarget),
        ("hirescam", "HiResCAM", "relu3", ClassifierOutputTarget),
        # The package enlarges masks with align_corners=True: the same on a layer of the image's size.
        ('scorecam(fill="zero")', "ScoreCAM", "relu1", LogProbability),
    ],
)
def test_maps_are_those_of_the_package_up_to_their_scale(digits, spec, theirs, layer, target):
    classifier, x, _, names = digits
    classifier.cam_layer = layer
    y = torch.tensor([0, 3, 9, 1, 7])  # not the predicted classes
    maps = METHODS.make(spec)(classifier, x, y, ImageRandom(0, names))
    if spec == "hirescam":  # signed; the package cuts negative values off before it enlarges the map
        grid = torch.linalg.pinv(torch.nn.functional.interpolate(torch.eye(7).double()[None], size=28, mode="linear")[0].T)
        coarse = (grid @ maps @ grid.T).relu()
        maps = torch.nn.functional.interpolate(coarse[:, None], size=28, mode="bilinear")[:, 0]
    ours = minmax(maps)
    with getattr(pytorch_grad_cam, theirs)(model=classifier, target_layers=[classifier.target_layer()]) as package:
        package_maps = package(input_tensor=x.clone().requires_grad_(), targets=[target(int(c)) for c in y])
    for name, our, their in zip(names, ours.numpy(), package_maps, strict=True):
        error = np.abs(our - their).max()
        correlation = np.corrcoef(our.flatten(), their.flatten())[0, 1]
        print(f"{spec}, {name}: largest difference {error:.1e}, correlation {correlation:.6f}")
        assert error < 1e-5  # the package adds 1e-7 to the maximum that it divides by, and computes in float32
    assert ours.std() > 0.1
