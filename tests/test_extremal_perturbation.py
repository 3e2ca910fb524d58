"""EP against a slow optimisation of one mask with every cell and pixel by itself, and on classifiers that read one region."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from perturbed import SHAPES, assert_iterative_batch_invariant, ids
from torch import nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, XbenchError
from xbench.classifier import Passes
from xbench.methods.extremal_perturbation import ExtremalPerturbation, assigned
from xbench.ops.pyramid import blur_pyramid, sharpened
from xbench.ops.smooth_mask import SmoothMask
from xbench.testing import tiny_classifier, tiny_images


def slow_mask(grid, size, step, sigma):
    """The mask and its canvas, pixel by pixel; a pixel's cells as in TorchRay: those of a square around its own."""
    margin = round(sigma)
    radius, padding = 1 + math.ceil(sigma / step), 1 + math.ceil((margin + sigma) / step)
    height, width = (step * (math.ceil(n / step) + 2 * padding - 2 * radius) - step + 1 for n in size)
    while height < margin + size[0]:
        height += step
    while width < margin + size[1]:
        width += step
    canvas = grid.new_zeros(height, width)
    rows, columns = grid.shape
    for row, column in itertools.product(range(height), range(width)):
        values = []
        for i, k in itertools.product(range(2 * radius + 1), repeat=2):
            r, c = row // step + i - padding, column // step + k - padding
            distance = math.hypot(row - margin - step * r, column - margin - step * c) / sigma
            bump = math.exp(-2 * max(0.0, distance - 0.5) ** 2)
            inside = 0 <= r < rows and 0 <= c < columns
            values.append(grid[r, c] * bump if inside else grid.new_zeros(()))
        v = torch.stack(values)
        canvas = canvas.index_put((torch.tensor(row), torch.tensor(column)), (v * (20 * v).softmax(0)).sum())
    return canvas[margin : margin + size[0], margin : margin + size[1]], canvas


@pytest.mark.parametrize(("step", "sigma"), [(2, 3.0), (3, 2.6), (1, 1.0), (4, 1.4), (7, 2.6), (9, 2.0)])
def test_the_mask_and_its_gradient_are_those_of_every_pixel_by_itself(step, sigma):
    size = (7, 8)
    generate = SmoothMask(size, step, sigma)
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(2, generate.rows, generate.columns, generator=generator, dtype=torch.float64).requires_grad_()
    masks, canvas = generate(grid)
    for i in range(2):
        expected, whole = slow_mask(grid[i], size, step, sigma)
        assert torch.allclose(masks[i], expected, atol=1e-12)
        assert torch.allclose(canvas[i], whole.flatten(), atol=1e-12)
    weight = torch.rand(masks.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((masks * weight).sum() + canvas.square().sum(), grid)
    slow = [slow_mask(grid[i], size, step, sigma) for i in range(2)]
    loss = sum((mask * w).sum() + whole.square().sum() for (mask, whole), w in zip(slow, weight, strict=True))
    assert torch.allclose(gradient, torch.autograd.grad(loss, grid)[0], atol=1e-10)


def test_at_224_px_the_canvas_is_torchrays():
    generate = SmoothMask((224, 224), 7, 21)
    assert (generate.rows, generate.columns) == (32, 32)
    masks, canvas = generate(torch.ones(1, 32, 32))
    assert masks.shape == (1, 224, 224)
    assert canvas.shape == (1, 260**2)
    assert masks.min() > 0.7
    assert masks.max() <= 1


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 14, 28])
def test_a_digit_has_masks_of_every_step(step):
    generate = SmoothMask((28, 28), step, 2.625)
    masks, canvas = generate(torch.ones(1, generate.rows, generate.columns))
    assert masks.shape == (1, 28, 28)
    assert canvas.shape[1] >= (28 + generate.margin) ** 2


def slow_ep(classifier, image, target, area, iterations, step, sigma, weight, jitter):
    """One mask: momentum and the area's loss written out; ties of the sort share the template."""
    _, h, w = image.shape
    grid = torch.ones(math.ceil(h / step), math.ceil(w / step), dtype=image.dtype)
    generate, pyramid, velocity = SmoothMask((h, w), step, sigma), blur_pyramid(image[None]), None
    for t in range(iterations):
        grid.requires_grad_()
        (mask,), (canvas,) = generate(grid[None])
        masked = sharpened(pyramid, mask[None, None])[0]
        logit = classifier(masked.flip(3) if jitter and t % 2 == 0 else masked)[0, target]
        n = len(canvas)
        ordered = sorted(canvas.tolist())
        template = [0.0 if i < int(n * (1 - area)) else 1.0 for i in range(n)]
        shares = {value: [template[i] for i, _ in same] for value, same in groups(ordered)}
        wanted = torch.tensor([sum(shares[v]) / len(shares[v]) for v in canvas.tolist()], dtype=image.dtype)
        loss = weight * 1.0035**t * ((canvas - wanted) ** 2).mean() - logit
        (gradient,) = torch.autograd.grad(loss, grid)
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
        grid = (grid.detach() - 0.01 * velocity).clamp(0, 1)
    return mask.detach()


def groups(ordered):
    return [(value, list(same)) for value, same in itertools.groupby(enumerate(ordered), key=lambda pair: pair[1])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("parameters", "settings"),
    [("", (2, None, 30.0, False)), ("sigma=4.0, weight=300.0, jitter=True, upsample=3", (3, 4.0, 300.0, True))],
)
def test_equals_one_mask_at_a_time(parameters, settings, shape):
    method = METHODS.make(f"extremal-perturbation(areas=(0.1, 0.3), iterations=5, {parameters})")
    step, sigma, weight, jitter = settings
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    masks = method.masks(classifier, x, y)
    for i, (k, area) in itertools.product(range(2), enumerate((0.1, 0.3))):
        expected = slow_ep(classifier, x[i], y[i], area, 5, step, sigma or 21 * shape[1] / 224, weight, jitter)
        assert torch.allclose(masks[i, k], expected, atol=1e-6)
    assert torch.allclose(method(classifier, x, y, ImageRandom(0, ids(2))), masks.sum(1))
    assert (masks.amax((2, 3)) - masks.amin((2, 3))).min() > 0.01


def test_equal_values_share_the_template():
    values = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0], [2.0, 2.0, 1.0, 3.0, 1.0], [1.0] * 5])
    assert torch.equal(assigned([2], values[:1, None])[0, 0], torch.tensor([1.0, 0, 1, 0, 0]))
    assert torch.equal(assigned([2], values[1:2, None])[0, 0], torch.tensor([0.5, 0.5, 0, 1, 0]))
    assert torch.allclose(assigned([2], values[2:, None])[0, 0], torch.full((5,), 0.4))
    both = assigned([2, 3], values[:2, None].expand(-1, 2, -1))
    assert torch.equal(both[:, 0], torch.tensor([[1.0, 0, 1, 0, 0], [0.5, 0.5, 0, 1, 0]]))
    assert torch.equal(both[:, 1], torch.tensor([[1.0, 0, 1, 0, 1], [1, 1, 0, 1, 0]]))


class Detail(nn.Module):
    """Logits +-s, s the sum over one region of the image's product with a checkerboard: what a blur destroys."""

    def __init__(self, region):
        super().__init__()
        self.register_buffer("region", region)

    def forward(self, z):
        s = (z[:, 0] * self.region).sum((1, 2))
        return torch.stack([s, -s], 1)


def test_the_mask_covers_what_the_logit_reads_and_has_the_area():
    board = ((torch.arange(28)[:, None] + torch.arange(28)) % 2).float()
    region = torch.zeros(28, 28)
    region[4:12, 16:24] = 1
    classifier = Classifier(
        Detail(region * (2 * board - 1)),
        name="detail",
        shape=(1, 28, 28),
        classes=2,
        label_space="two",
        mean=[0.0],
        std=[1.0],
        cam_layer=None,
        stages=[],
    )
    x = board.expand(1, 1, 28, 28)
    method = ExtremalPerturbation(areas=(0.1,), iterations=300, weight=100.0)
    (mask,) = method(classifier, x, torch.tensor([0]), ImageRandom(0, ids(1)))
    inside = region.bool()
    assert mask[inside].mean() > 0.8
    assert mask[~inside].mean() < 0.15
    assert 0.05 < mask.mean() < 0.2


@pytest.fixture(scope="module")
def digits():
    subset = DATASETS.make("mnist").load()
    names = list(subset.ids[:3])
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    x, _, _ = subset.read(names)
    return classifier, x, classifier.probabilities(x).argmax(1)


def test_a_fifth_of_a_digit_keeps_its_logit(digits):
    classifier, x, y = digits
    before = classifier.passes.copy()
    method = ExtremalPerturbation(areas=(0.2,), iterations=200)
    masks = method.masks(classifier, x, y)
    assert classifier.passes - before == method.cost(classifier.shape) * 3
    own = y[:, None]
    kept, blurred = (classifier(sharpened(blur_pyramid(x), m)[:, 0]).gather(1, own) for m in (masks, torch.zeros_like(masks)))
    assert (kept > 0.8 * classifier(x).gather(1, own)).all()
    assert (kept > blurred + 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    assert_iterative_batch_invariant(ExtremalPerturbation(iterations=6), shape)


def test_defaults_sweeps_and_costs_follow_the_image_size():
    method = ExtremalPerturbation()
    assert method.resolved((3, 224, 224)) == method.replace(upsample=7, sigma=21.0, weight=300.0, jitter=True)
    assert method.resolved((1, 28, 28)) == method.replace(upsample=2, sigma=2.625, weight=30.0, jitter=False)
    assert method.cost((1, 28, 28)) == Passes(2400, 2400)
    assert method.at_upsample(4) == method.replace(upsample=4)
    assert [m.areas for m in method.sweeps((1, 28, 28))["area"]] == [(0.05,), (0.1,), (0.2,), (0.4,)]


@pytest.mark.parametrize("argument", ["areas=()", "areas=(0.5, 1.0)", "iterations=0", "upsample=0", "sigma=0.0", "weight=-1.0"])
def test_impossible_parameters_are_refused(argument):
    with pytest.raises(XbenchError, match=f"{argument.partition('=')[0]} must"):
        METHODS.make(f"extremal-perturbation({argument})")
