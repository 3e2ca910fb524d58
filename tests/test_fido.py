"""FIDO against a slow optimisation of one image as in its authors' code, and on a classifier that reads one quadrant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from perturbed import SHAPES, affine, ids

from xbench import METHODS, ImageRandom, XbenchError
from xbench.classifier import Passes
from xbench.fill import make_filler
from xbench.methods.fido import Fido, concrete
from xbench.testing import tiny_classifier, tiny_images


def slow_fido(classifier, image, target, name, cell, steps, samples, sparsity, fill):
    """One image: the loss summed over pixels and averaged over samples, Adam written out (Kingma and Ba 2015, algorithm 1)."""
    _, h, w = image.shape
    rng = ImageRandom(0, [name])
    filler = make_filler(fill, classifier, image[None], rng)
    drop = torch.zeros(-(-h // cell), -(-w // cell), dtype=image.dtype)
    first, second = torch.zeros_like(drop), torch.zeros_like(drop)

    def enlarged(p):
        return F.interpolate(p[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0]

    for step in range(steps):
        drop.requires_grad_()
        dropout = enlarged(torch.sigmoid(drop))
        uniform = rng.uniform("concrete", (samples, h, w), step)[0].to(image)
        loss = sparsity * 224**2 / (h * w) * (1 - dropout).sum() * min(1, step / 30)
        for k in range(samples):
            odds = dropout.log() - (1 - dropout).log() + uniform[k].log() - (1 - uniform[k]).log()
            z = 1 - torch.sigmoid(odds / 0.1)
            rounded = z.detach().round()[None, None]
            background = filler(torch.tensor([0]), torch.tensor([step * samples + k]), rounded)[0]
            p = classifier((image * z + background * (1 - z))[None]).softmax(1)[0, target]
            loss = loss - torch.log(p / (1 - p)) / samples
        (gradient,) = torch.autograd.grad(loss, drop)
        with torch.no_grad():
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            rate = 0.05 * (1 - step / steps)
            mean, variance = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            drop = drop - rate * mean / (variance.sqrt() + 1e-8)
    return enlarged(torch.sigmoid(-drop)) - 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("fill", "cell"), [("blur", 4), ("telea", 8), ("linear", 5)])
def test_equals_one_image_at_a_time(fill, cell, shape):
    method = Fido(upsample=cell, steps=4, samples=3, sparsity=0.02, fill=fill)
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    maps = method(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        expected = slow_fido(classifier, x[i], y[i], ids(2)[i], cell, 4, 3, 0.02, fill)
        assert torch.allclose(maps[i], expected, atol=1e-9)
        assert expected.abs().max() > 0.01


@pytest.mark.parametrize("size", [16, 24])
def test_keeps_what_the_probability_reads_and_drops_the_rest(size):
    # q = 0.1 + 0.8 m, m the mean of the upper left quadrant, filled with black. Keeping it pays 0.8 / (q (1 - q)) log odds
    # per m, between 3.2 and 8.9, and costs a quarter of 224^2 lambda.
    weight = torch.zeros(1, size, size)
    weight[:, : size // 2, : size // 2] = 4 * 0.8 / size**2
    classifier, x = affine(weight, 0.1, mean=0.0), torch.ones(2, 1, size, size)
    near, far = slice(size // 2 - 4), slice(4 - size // 2, None)  # a cell away from the quadrant's border

    def explain(sparsity):
        method = Fido(upsample=4, steps=80, samples=4, fill="zero", sparsity=sparsity)
        return method(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))

    free, cheap, dear = explain(0.0), explain(1e-4), explain(1e-3)
    assert free[0, near, near].min() > 0.3
    assert free[0, far, far].abs().max() < 0.06
    assert cheap[0, near, near].min() > 0.3
    assert cheap[0, far, far].max() < -0.3
    assert dear[0].max() < -0.2
    # The other class is preserved by dropping.
    assert free[1, near, near].max() < -0.3


def test_concrete_masks_keep_with_the_probability_of_their_cell():
    drop = torch.tensor([[[-2.0, 1.0]]]).double()
    noise = torch.rand(1, 20000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = concrete(drop, noise)
    assert torch.allclose((z > 0.5).double().mean((0, 1, 2)), torch.sigmoid(-drop[0, 0]), atol=0.01)
    assert ((z < 0.05) | (z > 0.95)).double().mean() > 0.75
    # Where a probability is beyond rounding, and at the ends of the noise, masks and their gradients are finite.
    extreme = torch.tensor([[[-60.0, 60.0]]], requires_grad=True)
    z = concrete(extreme, torch.tensor([0.0, 1 - 2**-24]).view(1, 2, 1, 1).expand(1, 2, 1, 2))
    assert z.isfinite().all()
    assert torch.autograd.grad(z.sum(), extreme)[0].isfinite().all()
    assert torch.equal(z[0, :, 0].round(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    method = Fido(upsample=4, steps=8, samples=3, fill="local-mean")
    classifier, x = tiny_classifier(shape).double(), tiny_images(8, shape).double()
    y, names = torch.arange(8) % 4, ids(8)
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    whole = method(classifier, x, y, ImageRandom(0, names))
    with torch.no_grad():
        assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, names)))
    for batch in (1, 2, 7):  # fewer images than samples in a batch, and batches that do not divide
        classifier.batch_size = batch
        assert torch.allclose(method(classifier, x[:5], y[:5], ImageRandom(0, names[:5])), whole[:5], atol=1e-9)
    assert not whole.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 224, 224)])
def test_counted_passes_are_the_cost(shape):
    method = Fido(steps=2, samples=5, fill="blur")
    classifier, x = tiny_classifier(shape), tiny_images(2, shape)
    maps = method(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert maps.abs().max() <= 0.5
    assert classifier.passes == method.cost(shape) * 2 == Passes(20, 20)


def test_defaults_and_sweeps():
    assert Fido().resolved((1, 28, 28)) == Fido(upsample=2)
    assert Fido().resolved((3, 224, 224)) == Fido(upsample=4)
    assert Fido().cost((3, 224, 224)) == Passes(2400, 2400)
    assert Fido().at_upsample(8) == Fido(upsample=8)
    assert Fido().sweeps((1, 28, 28)) == {"seeds": [Fido(seed=seed) for seed in range(5)]}


def test_the_default_needs_an_inpainter_and_says_so():
    assert "fit-inpainter" in (Fido().not_applicable(tiny_classifier()) or "")
    assert Fido(fill="blur").not_applicable(tiny_classifier()) is None


@pytest.mark.parametrize("spec", ["fido(upsample=0)", "fido(steps=0)", "fido(samples=0)", "fido(sparsity=-1.0)"])
def test_impossible_parameters_are_refused(spec):
    name = spec[5:].partition("=")[0]
    with pytest.raises(XbenchError, match=f"{name} must"):
        METHODS.make(spec)
