"""MP2 against a slow removal of one image's cells, on classifiers whose order is known, and MP2-G on real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from perturbed import SHAPES, affine, ids
from scratch import findings, register, scratch_registries

from xbench import CLASSIFIERS, DATASETS, METHODS, ImageRandom, Method, XbenchError
from xbench.classifier import Passes
from xbench.fill import make_filler
from xbench.methods.mp2 import Mp2, log_odds, probe
from xbench.testing import check_method, tiny_classifier, tiny_images


def slow_mp2(classifier, image, target, name, cell, fill):
    """One image, cell by cell, with the gradient of the probability itself."""
    _, h, w = image.shape
    rows, columns = h // cell, w // cell
    filler = make_filler(fill, classifier, image[None], ImageRandom(0, [name]))
    kept = torch.ones(rows, columns, dtype=torch.bool)
    order = torch.zeros(rows, columns, dtype=image.dtype)
    steps = -(-rows * columns // 2)

    def pixels(grid):
        return grid.to(image.dtype).repeat_interleave(cell, 0).repeat_interleave(cell, 1)

    for step in range(steps):

        def infer(grid, step=step):
            return filler(torch.tensor([0]), torch.tensor([step]), pixels(grid)[None, None])[0]

        background = infer(kept).clone()
        for r in range(rows):
            for k in range(columns):
                if kept[r, k]:
                    others = kept.clone()
                    for i in range(rows):
                        for j in range(columns):
                            others[i, j] &= (i // 2 + j // 2 + r // 2 + k // 2) % 2 == 1
                    here = (slice(None), slice(r * cell, (r + 1) * cell), slice(k * cell, (k + 1) * cell))
                    background[here] = infer(others)[here]
        mask = kept.to(image.dtype).requires_grad_()
        p = classifier((image * pixels(mask) + background * (1 - pixels(mask)))[None]).softmax(1)[0, target]
        if p <= 1 / classifier.classes:
            break
        (gradient,) = torch.autograd.grad(p, mask)
        candidates = [(-abs(float(gradient[r, k])), r, k) for r in range(rows) for k in range(columns) if kept[r, k]]
        for _, r, k in sorted(candidates)[:2]:
            kept[r, k] = False
            order[r, k] = 1 - step / steps
    return order, pixels(order)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["blur", "gray", "local-mean", "linear", "telea"])
def test_equals_one_image_and_cell_at_a_time(fill, shape):
    cell = 7 if shape[1] == 28 else 8
    method = Mp2(upsample=cell, fill=fill)
    classifier, x = tiny_classifier(shape).double(), tiny_images(3, shape).double()
    y = classifier.probabilities(x).argmax(1)
    maps = method(classifier, x, y, ImageRandom(0, ids(3)))
    binary = method.replace(map="binary")(classifier, x, y, ImageRandom(0, ids(3)))
    removed = 0
    for i in range(3):
        order, expected = slow_mp2(classifier, x[i], y[i], ids(3)[i], cell, fill)
        assert torch.allclose(maps[i], expected, atol=1e-12)
        assert torch.equal(binary[i] == 1, expected > 0)
        assert torch.equal(binary[i] == 0, expected == 0)
        removed += int((order > 0).sum())
    assert removed > 8


def test_a_linear_probability_loses_its_largest_contributions_first():
    # q = 0.05 + the cells' contributions, all different; filled with black a cell takes its contribution away.
    contribution = torch.arange(1.0, 17.0)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    contribution[torch.tensor([2, 9])] *= -1
    contribution = (0.8 * contribution / contribution.sum()).double()
    weight = (contribution / 49).view(1, 4, 4).repeat_interleave(7, 1).repeat_interleave(7, 2)
    classifier = affine(weight, 0.05, mean=0.0).double()
    order, p = Mp2(upsample=7, fill="zero").removal(
        classifier, torch.ones(2, 1, 28, 28).double(), torch.tensor([0, 1]), ImageRandom(0, ids(2))
    )
    expected, q = np.zeros(16), 0.85
    for step, pair in enumerate(np.argsort(-contribution.abs().numpy()).reshape(8, 2)):
        if q <= 0.5:
            break
        expected[pair] = 1 - step / 8
        q -= contribution[torch.from_numpy(pair)].sum().item()
    assert 0 < (expected > 0).sum() < 16
    assert np.allclose(order[0].flatten(), expected)
    assert p[0].item() == pytest.approx(q)
    assert p[0] <= 0.5
    # The other class starts at 0.15, below chance: nothing is removed.
    assert not order[1].any()
    assert p[1].item() == pytest.approx(0.15)


def test_equal_gradients_go_in_raster_order_and_an_odd_cell_alone():
    classifier = affine(torch.zeros(1, 28, 28), 0.9)
    order, p = Mp2(upsample=4, fill="gray").removal(classifier, tiny_images(1), torch.tensor([0]), ImageRandom(0, ids(1)))
    assert torch.allclose(order.flatten(), 1 - torch.arange(49).div(2, rounding_mode="floor") / 25)
    assert p.item() == pytest.approx(0.9)
    assert classifier.passes == Passes(26, 25)


def test_images_that_have_stopped_are_not_asked_again():
    contribution = torch.zeros(16).double()
    contribution[5] = 0.8
    weight = (contribution / 49).view(1, 4, 4).repeat_interleave(7, 1).repeat_interleave(7, 2)
    classifier = affine(weight, 0.1, mean=0.0).double()
    # One pair of cells brings the first image to chance, nothing the second, where that cell is black already.
    x = torch.ones(3, 1, 28, 28).double()
    x[1, :, 7:14, 7:14] = 0.7
    Mp2(upsample=7, fill="zero")(classifier, x[:1], torch.tensor([0]), ImageRandom(0, ids(1)))
    assert classifier.passes == Passes(2, 2)
    Mp2(upsample=7, fill="gray")(classifier, x[1:2], torch.tensor([0]), ImageRandom(0, ids(1)))
    assert classifier.passes == Passes(4, 4)
    method = Mp2(upsample=7, fill="blur")
    before = classifier.passes.copy()
    method(classifier, x, torch.tensor([0, 0, 0]), ImageRandom(0, ids(3)))  # blurred white stays white
    assert classifier.passes - before == method.cost((1, 28, 28)) * 3
    assert method.cost((1, 28, 28)) == Passes(8, 8)


@pytest.fixture(scope="module")
def digits():
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    subset = DATASETS.make("mnist").load()
    names = list(subset.ids[:6])
    x, _, _ = subset.read(names)
    return classifier, x, classifier.probabilities(x).argmax(1), names


def test_the_literal_generative_form_ranks_nothing_and_ours_does(digits):
    classifier, x, y, names = digits
    filler = make_filler("telea", classifier, x, ImageRandom(0, names))
    image = torch.arange(len(x))
    kept = torch.ones(len(x), 14, 14, dtype=torch.bool)
    kept[:, 6:9, 5:8] = False
    mask = kept.float().requires_grad_()
    pixels = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    literal = x * pixels + filler(image, image, pixels.detach()) * (1 - pixels)
    (gradient,) = torch.autograd.grad(classifier(literal).softmax(1).gather(1, y[:, None]).sum(), mask)
    assert not gradient[kept].any()
    p, slope = probe(classifier, x, y, filler, image, 0, kept)
    assert ((slope > 0) & kept).flatten(1).sum(1).min() > 30
    # The stop is tested on the literal image.
    assert torch.allclose(p, classifier.probabilities(literal.detach()).gather(1, y[:, None])[:, 0], atol=1e-6)


@pytest.mark.parametrize("fill", ["telea", "linear", "local-mean", "inpaint"])
def test_the_removed_region_grows_on_digits_until_chance(fill, digits):
    classifier, x, y, names = digits
    before = classifier.passes.copy()
    order, p = Mp2(upsample=4, fill=fill).removal(classifier, x[:4], y[:4], ImageRandom(0, names[:4]))
    assert order.shape == (4, 7, 7)
    for cells, last in zip(order.flatten(1), p, strict=True):
        levels = cells[cells > 0].unique(return_counts=True)
        count = len(levels[0])
        assert count > 1
        assert torch.allclose(levels[0].flip(0), 1 - torch.arange(count) / 25)  # a pair in every iteration, from the first on
        assert (levels[1] == 2).all() or count == 25
        assert last <= 0.1 or count == 25
    assert (p <= 0.1).sum() >= 3, "with each of these fills most digits reach chance"
    assert (classifier.passes - before).forward < 26 * 4


def test_blur_often_does_not_reach_chance(digits):
    classifier, x, y, names = digits
    order, p = Mp2(upsample=4).removal(classifier, x, y, ImageRandom(0, names))
    blurred = classifier.probabilities(make_filler("blur", classifier, x, ImageRandom(0, names))(torch.arange(6), y, x))
    everything = order.flatten(1).all(1)
    assert everything.sum() >= 3
    assert torch.allclose(p[everything], blurred.gather(1, y[:, None])[everything, 0], atol=1e-5)
    assert (p[~everything] <= 0.1).all()


def test_deleting_what_the_binary_map_marks_brings_a_digit_to_chance(digits):
    classifier, x, y, names = digits
    method = Mp2(fill="gray")
    marked = method.replace(map="binary")(classifier, x, y, ImageRandom(0, names))[:, None]
    p = classifier.probabilities(torch.where(marked > 0, classifier.gray, x)).gather(1, y[:, None])[:, 0]
    assert torch.allclose(p, method.removal(classifier, x, y, ImageRandom(0, names))[1], atol=1e-6)
    assert (p <= 0.1).sum() >= 5
    assert marked.mean() < 0.5


def test_log_odds_keep_what_the_softmax_rounds_off():
    logits = torch.tensor([[30.0, 0.0, 1.0], [0.0, -2.0, 3.0]], requires_grad=True)
    y = torch.tensor([0, 2])
    odds = log_odds(logits, y)
    p = logits.detach().double().softmax(1).gather(1, y[:, None])[:, 0]
    assert torch.allclose(odds.double(), torch.log(p / (1 - p)))
    assert torch.autograd.grad(odds.sum(), logits)[0].gather(1, y[:, None]).eq(1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    method = Mp2(upsample=7, fill="local-mean")
    classifier, x = tiny_classifier(shape).double(), tiny_images(10, shape).double()
    y = classifier.probabilities(x).argmax(1)
    whole = method(classifier, x, y, ImageRandom(0, ids(10)))
    if shape[0] == 1:
        assert len({int(m.bool().sum()) for m in whole}) > 1, "images must stop at different iterations"
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, ids(10))))
    classifier.batch_size = 3
    assert torch.allclose(method(classifier, x, y, ImageRandom(0, ids(10))), whole, atol=1e-12)
    for i in range(3):
        alone = method(classifier, x[i : i + 1], y[i : i + 1], ImageRandom(0, ids(10)[i : i + 1]))
        assert torch.allclose(alone[0], whole[i], atol=1e-12)
    assert not whole.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())


def test_defaults_sweeps_and_costs_follow_the_image_size():
    assert Mp2().resolved((1, 28, 28)) == Mp2(upsample=2)
    assert Mp2().resolved((3, 224, 224)) == Mp2(upsample=8)
    assert Mp2().cost((3, 224, 224)) == Passes(392, 392)
    assert Mp2().cost((1, 28, 28)) == Passes(98, 98)
    assert Mp2().at_upsample(4) == Mp2(upsample=4)
    grids = {size: [m.upsample for m in Mp2().sweeps((3, size, size))["grid"]] for size in (28, 224)}
    assert grids == {28: [4, 2, 1], 224: [8, 4, 2]}


@pytest.mark.parametrize("spec", ["mp2(upsample=0)", 'mp2(map="area")', 'mp2(fill="grey")'])
def test_impossible_parameters_are_refused(spec):
    with pytest.raises(XbenchError, match=r"upsample must|map=|fill must"):
        METHODS.make(spec)


@pytest.mark.parametrize(("asked", "stops", "allowed"), [(1, True, True), (3, True, True), (4, True, False), (1, False, False)])
def test_an_early_stop_may_ask_less_than_the_cost_and_never_more(asked, stops, allowed):
    def call(self, classifier, x, y, rng):
        for _ in range(asked):
            classifier.probabilities(x)
        return x.sum(1)

    with scratch_registries():
        name = register(
            METHODS,
            Method,
            __doc__="Sum of the channels (own decision).",
            __call__=call,
            cost=lambda self, shape: Passes(3),
            early_stop=stops,
        )
        if allowed:
            check_method(name)
        else:
            assert f"Passes(forward={2 * asked}, backward=0) counted for 2 images, cost() says" in findings(check_method, name)
