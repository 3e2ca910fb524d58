"""The generative variants (SP-G, LIME-G, MP-G, MP2-G, FIDO): the perturbation methods with fills that are inferred."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from perturbed import ids
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, ImageRandom
from xbench.fill import FILLS, make_filler
from xbench.ops.segments import superpixels
from xbench.testing import tiny_classifier, tiny_images
from xbench.testing.method import RANDOM_FILLS

# TorchScript is deprecated in favour of torch.export, in whose format no inpainter is distributed.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

METHOD_SPECS = [
    "sliding-patch(stride=9, fill={})",
    "lime(samples=12, segments=8, fill={})",
    "mp(iterations=3, upsample=7, fill={})",
    "mp2(upsample=7, fill={})",
    "fido(steps=3, samples=2, upsample=7, fill={})",
    "rise(masks=12, upsample=7, fill={})",
]


class Surroundings(nn.Module):
    """Every pixel in the hole is the mean of the image outside it plus a pattern, the others are returned wrongly."""

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        seen = 1 - hole
        mean = (image * seen).sum((1, 2, 3), keepdim=True) / (image.shape[1] * seen.sum((1, 2, 3), keepdim=True) + 1e-3)
        pattern = torch.linspace(-0.2, 0.2, image.shape[3])
        return ((mean + pattern.to(image)) * hole + 0.3 * seen).expand_as(image)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "surroundings.pt"
    torch.jit.script(Surroundings()).save(str(path))
    return f"torchscript:{path}:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


@pytest.fixture(scope="module")
def digits():
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    subset = DATASETS.make("mnist").load()
    names = list(subset.ids[:2])
    x, _, _ = subset.read(names)
    return classifier, x, classifier.probabilities(x).argmax(1), names


@pytest.mark.parametrize("template", METHOD_SPECS)
@pytest.mark.parametrize("fill", ["inpaint", "linear", "telea", "torchscript"])
def test_every_perturbation_method_takes_inferred_fills(template, fill, digits, script):
    classifier, x, y, names = digits
    spec = script if fill == "torchscript" else fill
    method = METHODS.make(template.format(f'"{spec}"'))
    assert method.not_applicable(classifier) is None
    passes = classifier.passes.copy()
    maps = method(classifier, x, y, ImageRandom(0, names))
    used, cost = classifier.passes - passes, method.cost(classifier.shape) * 2
    assert used == cost or (method.early_stop and used.forward < cost.forward)
    assert maps.shape == (2, 28, 28)
    assert maps.isfinite().all()
    assert maps.flatten(1).std(1).min() > 0
    again = method(classifier, x[1:], y[1:], ImageRandom(0, names[1:]))
    assert torch.allclose(again[0], maps[1], atol=1e-4)
    # The fill is what was asked for: the map is not that of a constant.
    assert not torch.allclose(maps, method.replace(fill="gray")(classifier, x, y, ImageRandom(0, names)), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("fill", ["linear", "telea", "local-mean", "torchscript"])
def test_sliding_patch_equals_a_loop_over_patches(fill, shape, script):
    spec = script if fill == "torchscript" else fill
    classifier, x, y = tiny_classifier(shape), tiny_images(2, shape), torch.tensor([2, 0])
    maps = METHODS.make(f'sliding-patch(patch=6, stride=9, fill="{spec}")')(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        filler = make_filler(spec, classifier, x[i : i + 1], ImageRandom(0, ids(2)[i : i + 1]))
        clean = classifier(x[i : i + 1]).softmax(1)[0, y[i]].item()
        starts = range(0, shape[1] - 5, 9)
        values = torch.zeros(len(starts), len(starts), dtype=torch.float64)
        for row, top in enumerate(starts):
            for column, left in enumerate(starts):
                hole = (slice(top, top + 6), slice(left, left + 6))
                keep = torch.ones(1, 1, *shape[1:])
                keep[0, 0][hole] = 0
                fill_image = filler(torch.tensor([0]), torch.tensor([row * len(starts) + column]), keep)[0]
                filled = x[i].clone()
                filled[:, hole[0], hole[1]] = fill_image[:, hole[0], hole[1]]
                values[row, column] = clean - classifier(filled[None]).softmax(1)[0, y[i]].item()
        expected = F.interpolate(values[None, None], size=shape[1:], mode="bilinear", align_corners=False)[0, 0]
        assert torch.allclose(maps[i].double(), expected, atol=2e-6)
        assert values.abs().max() > 5e-4


def test_lime_equals_a_loop_over_samples(script):
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([3])
    maps = METHODS.make(f'lime(samples=30, segments=9, fill="{script}")')(classifier, x, y, ImageRandom(0, ids(1)))
    labels = superpixels(x, 9, 0, 0.1)[0].view(28, 28)
    count = int(labels.max()) + 1
    draws = torch.cat([ImageRandom(0, ids(1)).uniform("kept", (30, 9), step=block)[0] for block in range(-(-count // 9))], 1)
    data = draws[:, :count] < 0.5
    data[0] = True
    probabilities = []
    for row in data:
        keep = row[labels].float()
        hole_image = Surroundings()((x * keep).float(), 1 - keep[None, None])[0]
        perturbed = torch.where(keep.bool(), x[0], hole_image)
        probabilities.append(classifier(perturbed[None]).softmax(1)[0, 3].item())
    distance = 1 - np.sqrt(data.double().mean(1).numpy())
    weights = np.sqrt(np.exp(-(distance**2) / 0.25**2))
    coefficients = Ridge(alpha=1).fit(data.numpy().astype(float), probabilities, sample_weight=weights).coef_
    assert np.allclose(maps[0].numpy(), coefficients[labels.numpy()], atol=1e-6)


@pytest.mark.parametrize("fill", sorted(set(FILLS) - {"inpaint", "torchscript"}))
def test_the_checks_know_which_fills_are_random(fill):
    classifier, x, image = tiny_classifier(), tiny_images(2), torch.arange(2)
    keep = torch.ones(2, 1, 28, 28)
    keep[:, :, 8:12, 8:12] = 0
    fills = [make_filler(fill, classifier, x, ImageRandom(seed, ids(2)))(image, image, keep) for seed in (0, 1)]
    assert torch.equal(*fills) == (fill not in RANDOM_FILLS)
