"""RISE against a slow loop over masks, and on classifiers whose map is known."""

from __future__ import annotations

import pytest
import torch
from perturbed import SHAPES, affine, assert_batch_invariant, ids
from skimage.transform import resize

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.rise import Rise, random_masks
from xbench.testing import tiny_classifier, tiny_images


def slow_masks(seed, count, cell, keep, h, w):
    """The authors' recipe, with scikit-image's resize."""
    generator = ImageRandom(seed, []).shared("masks")
    rows, columns = -(-h // cell), -(-w // cell)
    grids = torch.rand(count, rows, columns, generator=generator) < keep
    down, right = torch.randint(cell, (2, count), generator=generator).tolist()
    masks = []
    for j in range(count):
        size = ((rows + 1) * cell, (columns + 1) * cell)
        large = resize(grids[j].double().numpy(), size, order=1, mode="reflect", anti_aliasing=False)
        masks.append(torch.from_numpy(large[down[j] : down[j] + h, right[j] : right[j] + w]))
    return masks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spec", ["rise(masks=50)", "rise(masks=30, upsample=5, keep=0.3, seed=4)"])
def test_equals_a_loop_over_masks_on_the_normalised_image(spec, shape):
    method = METHODS.make(spec)
    classifier, x, y = tiny_classifier(shape), tiny_images(3, shape), torch.tensor([0, 3, 1])
    maps = method(classifier, x, y, ImageRandom(method.seed, ids(3)))
    masks = slow_masks(method.seed, method.masks, method.upsample or 2, method.keep, *shape[1:])
    for i in range(3):
        expected = torch.zeros(shape[1:], dtype=torch.float64)
        for mask in masks:
            normalised = (x[i] - classifier.mean) / classifier.std
            logits = classifier.module((normalised * mask.float())[None])
            expected += logits.softmax(1)[0, y[i]].item() * mask
        expected /= method.masks * method.keep
        assert torch.allclose(maps[i].double(), expected, atol=1e-5)


def test_a_constant_probability_gives_the_mean_mask_times_it():
    classifier = affine(torch.zeros(1, 28, 28), 0.3)
    maps = Rise(masks=200)(classifier, tiny_images(2), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    mean = sum(slow_masks(0, 200, 2, 0.5, 28, 28)) / (200 * 0.5)
    assert torch.allclose(maps[0].double(), 0.3 * mean, atol=1e-5)
    assert torch.allclose(maps[1].double(), 0.7 * mean, atol=1e-5)


def test_the_expectation_of_a_probability_that_reads_one_pixel():
    # q = 0.2 + 0.6 M(pixel): far away M is independent and the map's mean is E q = 0.5; at the pixel it is
    # (0.2 keep + 0.6 E M^2) / keep, with E M^2 measured on the masks.
    weight = torch.zeros(1, 28, 28)
    weight[0, 14, 14] = 1.2
    x = torch.full((1, 1, 28, 28), 0.5)
    x[0, 0, 14, 14] = 1.0
    count = 4000
    maps = Rise(masks=count, upsample=4)(affine(weight, 0.2), x, torch.tensor([0]), ImageRandom(0, ids(1)))
    square = sum(mask[14, 14] ** 2 for mask in slow_masks(0, count, 4, 0.5, 28, 28)) / count
    assert abs(float(maps[0, 14, 14]) - (0.2 + 0.6 * float(square) / 0.5)) < 0.01
    far = maps[0].clone()
    far[3:26, 3:26] = 0.5
    assert abs(far - 0.5).max() < 0.04
    assert abs(far[far != 0.5].mean() - 0.5) < 0.01
    assert maps[0].argmax() == 14 * 28 + 14


def test_masks_are_smooth_fill_the_image_and_keep_the_stated_share():
    x = torch.zeros(1, 3, 40, 56, dtype=torch.float64)
    masks = random_masks(torch.Generator().manual_seed(1), 500, 8, 0.3, x)(torch.arange(500))
    assert masks.shape == (500, 1, 40, 56)
    assert masks.dtype == torch.float64
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-12
    assert abs(masks.mean() - 0.3) < 0.01
    # Between the centres of two cells, 8 * 6 / 5 px apart, a mask changes by at most 1.
    assert masks.diff(dim=2).abs().max() <= 5 / 48 + 1e-9


def test_a_single_cell_gives_constant_masks():
    masks = random_masks(torch.Generator().manual_seed(1), 50, 40, 0.5, torch.zeros(1, 1, 28, 28))(torch.arange(50))
    assert torch.equal(masks.amax((1, 2, 3)), masks.amin((1, 2, 3)))
    assert torch.equal(masks.unique(), torch.tensor([0.0, 1.0]))


def test_a_mask_depends_on_its_index_only():
    masks = random_masks(torch.Generator().manual_seed(1), 20, 4, 0.5, torch.zeros(1, 1, 28, 28))
    together = masks(torch.arange(20))
    assert torch.allclose(masks(torch.tensor([7, 3, 7])), together[[7, 3, 7]], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    assert_batch_invariant(METHODS.make("rise(masks=40)"), tiny_images(64, shape))


@pytest.mark.parametrize(
    ("shape", "spec"), [((1, 28, 28), "rise"), ((3, 224, 224), "rise(masks=6)"), ((3, 32, 32), "rise(masks=9)")]
)
def test_counted_passes_are_the_cost(shape, spec):
    method = METHODS.make(spec)
    classifier = tiny_classifier(shape)
    maps = method(classifier, tiny_images(2, shape), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert classifier.passes == method.cost(shape) * 2


def test_defaults_follow_the_image_size():
    assert Rise().cost((3, 224, 224)).forward == 8000
    assert Rise().cost((1, 28, 28)).forward == 500
    assert Rise().resolved((3, 224, 224)) == Rise(masks=8000, upsample=32)
    # 7 x 7 cells of 32 px at 224 px, cells of 2 px at 28 px: the same map as with the size written out.
    for shape, m in (((3, 224, 224), 32), ((1, 28, 28), 2)):
        classifier, x, y = tiny_classifier(shape), tiny_images(1, shape), torch.tensor([1])
        method = Rise(masks=4)
        assert method.resolved(shape) == Rise(masks=4, upsample=m)
        default = method(classifier, x, y, ImageRandom(0, ids(1)))
        assert torch.equal(default, method.at_upsample(m)(classifier, x, y, ImageRandom(0, ids(1))))
        assert not torch.equal(default, method.at_upsample(2 * m)(classifier, x, y, ImageRandom(0, ids(1))))


def test_seeds_fills_and_float64():
    classifier, x, y = tiny_classifier().double(), tiny_images(2).double(), torch.tensor([0, 1])
    maps = {seed: Rise(masks=20)(classifier, x, y, ImageRandom(seed, ids(2))) for seed in (0, 1)}
    assert maps[0].dtype == torch.float64
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)
    assert not torch.allclose(maps[0], Rise(masks=20, fill="zero")(classifier, x, y, ImageRandom(0, ids(2))), atol=1e-4)
    assert [method.seed for method in Rise(masks=20).sweeps((1, 28, 28))["seeds"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("spec", ["rise(masks=0)", "rise(keep=0.0)", "rise(keep=1.0)", "rise(upsample=0)"])
def test_impossible_parameters_are_refused(spec):
    name = spec[5:].partition("=")[0]
    with pytest.raises(XbenchError, match=f"{name} must be"):
        METHODS.make(spec)
