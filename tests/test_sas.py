"""SaS against a slow optimisation of one image and mask at a time, a classifier that reads one region, and real digits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from perturbed import SHAPES, ids
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.optimize import brentq
from torch import nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, NotApplicable, XbenchError
from xbench.classifier import Passes
from xbench.methods.sas import Sas, softmax_pool
from xbench.ops.normalise import minmax
from xbench.ops.pyramid import blur_pyramid, sharpened
from xbench.ops.schedule import schedule_masks
from xbench.testing import tiny_classifier, tiny_images


def slow_pool(field, window):
    h, w = field.shape
    half = window // 2
    rows = []
    for r, c in itertools.product(range(h), range(w)):
        near = [
            field[min(max(r + i, 0), h - 1), min(max(c + k, 0), w - 1)]
            for i in range(-half, half + 1)
            for k in range(-half, half + 1)
        ]
        weights = [(20 * (v - max(near))).exp() for v in near]
        rows.append(sum(v * u for v, u in zip(near, weights, strict=True)) / sum(weights))
    return torch.stack(rows).view(h, w)


def features_of(classifier, image, layer):
    z = ((image - classifier.mean) / classifier.std)[None]
    for name, module in classifier.module.named_children():
        z = module(z)
        if name == layer:
            break
    return z.flatten()


def slow_sas(classifier, image, target, name, *, mode="both", layer=None, pool=0, exact=True):
    """The pre-mask of one image after 3 iterations with K = 5, sigma 1 and learning rate 1; every mask by itself."""
    _, h, w = image.shape
    left, right = (torch.from_numpy(gaussian_filter1d(np.eye(n), 1.0, axis=0, mode="nearest", truncate=4.0)) for n in (h, w))
    sigmas = [20 * h / 224 * (1 - level / 7) for level in range(7)]
    blurs = [
        [gaussian_filter(c.numpy(), sigma, mode="nearest", radius=int(np.ceil(4 * sigma))) for c in image] for sigma in sigmas
    ]
    levels = [*(torch.from_numpy(np.stack(blur)) for blur in blurs), image]

    def premask(leaf):
        smooth = left @ leaf @ right.T
        return slow_pool(smooth, pool) if pool else smooth

    def score(mask):
        masked = sum((1 - (7 * mask - level).abs()).clamp(min=0) * blurred for level, blurred in enumerate(levels))
        if layer is None:
            return classifier(masked[None])[0, target]
        return -(features_of(classifier, masked, layer) - features_of(classifier, image, layer)).pow(2).sum()

    leaf = 1e-2 * ImageRandom(0, [name]).normal("premask", (h, w))[0].double()
    for _ in range(3):
        leaf.requires_grad_()
        s = premask(leaf)
        fixed = s.detach().numpy()
        loss = 0
        for k in range(1, 5):
            root = brentq(lambda t, k=k, s=fixed: np.mean((1 + np.exp(t - s)) ** -2.0) - k / 5, -100, 100, xtol=1e-13)
            t = torch.tensor(root, dtype=torch.float64)
            if exact:  # one Newton step, whose derivative by s is the root's
                m = torch.sigmoid(s.detach() - t)
                t = t + (torch.sigmoid(s - t).square().mean() - k / 5) / (2 * m.square() * (1 - m)).mean()
            m = torch.sigmoid(s - t)
            loss = loss - (score(m) if mode != "deletion" else 0) + (score(1 - m) if mode != "insertion" else 0)
        (gradient,) = torch.autograd.grad(loss, leaf)
        leaf = leaf.detach() - gradient
    return premask(leaf)


VARIANTS = [
    {},
    {"mode": "insertion"},
    {"mode": "deletion"},
    {"exact": False},
    {"pool": 3},
    {"layer": "relu1", "mode": "insertion"},
    {"layer": "fc"},
]


@pytest.mark.parametrize(
    ("variant", "shape"), [*((v, (1, 16, 12)) for v in VARIANTS), *(({}, shape) for shape in SHAPES)], ids=str
)
def test_equals_one_image_and_mask_at_a_time(variant, shape):
    # The logits of the tiny classifier are enlarged, so that three steps move the pre-mask by far more than its start.
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    classifier.module.fc.weight *= 200 if "layer" not in variant else 30
    method = Sas(iterations=3, steps=5, **variant)
    premask = method.premask(classifier, x, y, ImageRandom(0, ids(2)))
    assert torch.equal(method(classifier, x, y, ImageRandom(0, ids(2))), minmax(premask))
    for i in range(2):
        expected = slow_sas(classifier, x[i], y[i], ids(2)[i], **variant)
        assert expected.max() - expected.min() > 0.1
        torch.testing.assert_close(premask[i], expected.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_softmax_pool_equals_a_loop_and_is_nearly_the_maximum(window):
    fields = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([slow_pool(field, window) for field in fields])
    torch.testing.assert_close(softmax_pool(fields, window), expected)
    maximum = nn.functional.max_pool2d(1e3 * fields, window, stride=1, padding=window // 2)
    torch.testing.assert_close(softmax_pool(1e3 * fields, window), maximum)


def wrapped(module):
    """A network of two classes as a classifier that does not normalise."""
    return Classifier(
        module,
        name="two",
        shape=(1, 28, 28),
        classes=2,
        label_space="two",
        mean=[0.0],
        std=[1.0],
        cam_layer=None,
        stages=[],
    )


@pytest.mark.parametrize("mode", ["insertion", "deletion", "both"])
def test_map_is_highest_where_the_classifier_reads(mode):
    # Four bright squares, of which the classifier reads one; blurred, it is darker.
    x, read = torch.zeros(1, 1, 28, 28), torch.zeros(28, 28, dtype=torch.bool)
    for top, left in itertools.product((5, 19), (5, 19)):
        x[0, 0, top : top + 4, left : left + 4] = 1
    read[5:9, 19:23] = True
    linear = nn.Linear(784, 2, bias=False)
    linear.weight.data = torch.tensor([[0.5], [-0.5]]) * read.flatten()
    classifier = wrapped(nn.Sequential(nn.Flatten(), linear))
    (s,) = Sas(mode=mode, iterations=30).premask(classifier, x, torch.tensor([0]), ImageRandom(0, ids(1)))
    assert s[read].min() > s[~read].quantile(0.95)
    assert s[read].mean() > s[:14, :14].max() + 1
    # Raising the other class's logit means hiding the square.
    (s,) = Sas(mode=mode, iterations=30).premask(classifier, x, torch.tensor([1]), ImageRandom(0, ids(1)))
    assert s[read].max() < s[~read].quantile(0.05)


def test_digits_at_the_defaults():
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    names = subset.ids[:2]
    x, _, _ = subset.read(names)
    whole = classifier(x)
    y = whole.argmax(1)
    pyramid = blur_pyramid(x)

    def profile(premask):
        """Logits (2, 21) under the masks and under their complements."""
        masks = schedule_masks(premask, 20)
        assert (masks.square().mean((2, 3)) - torch.arange(21) / 20).abs().max() < 1e-5
        with torch.no_grad():
            logits = [classifier(sharpened(pyramid, keep).flatten(0, 1)).view(2, 21, -1) for keep in (masks, 1 - masks)]
        return [values[torch.arange(2), :, y] for values in logits]

    premasks = [Sas(iterations=i).premask(classifier, x, y, ImageRandom(0, names)) for i in (1, 10, 200)]
    ranges = premasks[-1].amax((1, 2)) - premasks[-1].amin((1, 2))
    assert ranges.min() > 10
    gains = [(insertion - deletion).mean(1) for insertion, deletion in map(profile, premasks)]
    assert (gains[1] > gains[0] + 1).all()
    assert (gains[2] > gains[1]).all()
    insertion, deletion = profile(premasks[-1])
    assert (insertion[:, :6].diff(dim=1) > 0).all()
    assert (deletion[:, :6].diff(dim=1) < 0).all()
    assert (insertion[:, 2:-1] > 0.8 * whole.amax(1, keepdim=True)).all()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((1, 28, 28), "sas(iterations=5)"),
        ((3, 32, 32), 'sas(iterations=4, mode="deletion")'),
        ((3, 224, 224), 'sas(iterations=1, steps=4, layer="conv2")'),
        ((1, 28, 28), 'sas(iterations=2, steps=4, layer="fc", mode="insertion")'),
    ],
)
def test_counted_passes_are_the_cost_under_no_grad_too(shape, spec):
    method = METHODS.make(spec)
    classifier, x = tiny_classifier(shape), tiny_images(2, shape)
    with torch.no_grad():
        maps = method(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert not maps.requires_grad
    assert maps.amin() == 0
    assert maps.amax() == 1
    assert classifier.passes == method.cost(shape) * 2


def test_costs_are_those_of_the_paper():
    assert Sas().cost((1, 28, 28)) == Passes(7600, 7600)
    assert Sas().cost((3, 224, 224)) == Passes(30400, 30400)
    assert Sas(mode="insertion", layer="fc").cost((3, 32, 32)) == Passes(3801, 3800)


@pytest.mark.parametrize("variant", [{}, {"layer": "conv1"}], ids=str)
def test_batch_size_order_and_repetition_change_nothing(variant):
    method = Sas(iterations=8, steps=6, **variant)
    classifier, x, y = tiny_classifier().double(), tiny_images(6).double(), torch.arange(6) % 4
    classifier.module.fc.weight *= 30
    names = ids(6)
    whole = method(classifier, x, y, ImageRandom(0, names))
    assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, names)))
    for batch_size in (1, 12, 17):  # masks one by one; two images together; three
        classifier.batch_size = batch_size
        assert torch.allclose(method(classifier, x, y, ImageRandom(0, names)), whole, rtol=0, atol=1e-6)
    part = torch.tensor([5, 2])
    maps = method(classifier, x[part], y[part], ImageRandom(0, [names[i] for i in part]))
    assert torch.allclose(maps, whole[part], rtol=0, atol=1e-6)
    other = method(classifier, x, y, ImageRandom(1, names))
    assert not torch.allclose(other, whole, atol=1e-3)


def test_no_batch_is_larger_than_the_classifiers():
    classifier, sizes = tiny_classifier(), []
    handle = classifier.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    for batch_size, expected in ((40, {40, 20}), (7, {7, 6}), (1, {1})):
        classifier.batch_size = batch_size
        Sas(iterations=1, steps=21)(classifier, tiny_images(3), torch.zeros(3, dtype=torch.int64), ImageRandom(0, ids(3)))
        assert set(sizes) == expected
        sizes.clear()
    handle.remove()


class Twice(nn.Module):
    """A network that calls one layer twice and has one that gives no tensor."""

    def __init__(self):
        super().__init__()
        self.shared, self.pair = nn.ReLU(), nn.MaxPool2d(2, return_indices=True)

    def forward(self, z):
        values, _ = self.pair(self.shared(self.shared(z)))
        return values.flatten(1)[:, :2]


def test_unusable_layers_are_refused_and_no_hook_stays():
    x, y, rng = tiny_images(1), torch.tensor([0]), ImageRandom(0, ids(1))
    classifier, method = tiny_classifier(), Sas(iterations=1, layer="conv9")
    assert method.not_applicable(classifier) is not None
    assert Sas(layer="conv2").not_applicable(classifier) is Sas().not_applicable(classifier) is None
    with pytest.raises(NotApplicable, match="has no layer 'conv9'; it has: conv1, relu1, conv2"):
        method(classifier, x, y, rng)
    twice = wrapped(Twice())
    for layer in ("shared", "pair"):
        with pytest.raises(NotApplicable, match=f"layer '{layer}' of classifier 'two' must give one tensor"):
            Sas(iterations=1, layer=layer)(twice, x, y, rng)
    Sas(iterations=1, layer="conv1")(classifier, x, y, rng)
    for left in (classifier, twice):
        assert not any(module._forward_hooks for module in left.modules())


def test_features_are_those_before_an_inplace_activation():
    maps = []
    for inplace in (False, True):
        classifier, x = tiny_classifier().double(), tiny_images(2).double()
        classifier.module.relu1 = nn.ReLU(inplace=inplace)
        maps.append(Sas(iterations=3, layer="conv1")(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2))))
    assert torch.equal(*maps)


def test_defaults_and_sweeps_follow_the_image_size():
    assert Sas().resolved((1, 28, 28)) == Sas(iterations=200, lr=1.0, sigma=1.0)
    assert Sas().resolved((3, 224, 224)) == Sas(iterations=800, lr=49.0, sigma=7.0)
    given = Sas(iterations=3, lr=0.5, sigma=0.0)
    assert given.resolved((3, 224, 224)) == given
    classifier, x, y = tiny_classifier((3, 64, 64)), tiny_images(1, (3, 64, 64)), torch.tensor([1])
    short = Sas(iterations=2, steps=4)
    maps = [m(classifier, x, y, ImageRandom(0, ids(1))) for m in (short, short.replace(lr=4.0, sigma=2.0))]
    assert torch.equal(*maps)
    assert Sas().sweeps((1, 28, 28)) == {"seeds": [Sas(seed=seed) for seed in range(5)]}
    assert Sas().at_upsample(2) is None


@pytest.mark.parametrize(
    "spec", ["steps=1", "iterations=0", "lr=0.0", "sigma=-1.0", "pool=-1", "pool=4", 'mode="neither"'], ids=str
)
def test_impossible_parameters_are_refused(spec):
    with pytest.raises(XbenchError, match=spec.partition("=")[0]):
        METHODS.make(f"sas({spec})")
