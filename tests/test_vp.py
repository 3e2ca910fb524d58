"""VP and nVP against their definition, every trained mask on an adder of pixels, and the shipped networks' quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Explainer, ImageRandom, Subset, XbenchError
from xbench.checkpoints import Checkpoints
from xbench.classifier import Classifier
from xbench.methods.l2x import L2X
from xbench.methods.nvp import Nvp
from xbench.methods.realtime import RealTime
from xbench.methods.varsal import VarSal
from xbench.methods.vp import GridExplainer, MaskExplainer, Vp
from xbench.ops.resize import resized
from xbench.ops.topk import soft_topk
from xbench.testing import tiny_classifier, tiny_images
from xbench.training import fit

IDS = ["a", "b", "c"]


def network(method: MaskExplainer, shape: tuple[int, int, int] = (1, 28, 28)) -> nn.Module:
    torch.manual_seed(0)
    return method.resolved(shape).network(shape, 4)


@pytest.mark.parametrize(("name", "channels"), [("vp", 2), ("nvp", 1)])
@pytest.mark.parametrize(("m", "size", "convolutions"), [(None, 28, 5), (1, 28, 5), (4, 28, 5), (None, 224, 12), (16, 64, 12)])
def test_network_has_the_papers_depth_and_ends_on_the_grid(
    name: str, channels: int, m: int | None, size: int, convolutions: int
) -> None:
    method = METHODS.get(name)(upsample=m, width=3)
    module = network(method, (3, size, size)).eval()
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == convolutions
    assert all(conv.kernel_size == (3, 3) for conv in convs)
    cell = m or (2 if size < 64 else 8)
    assert [conv.stride[0] for conv in convs].count(2) == math.log2(cell)
    assert module(torch.rand(1, 3, size, size)).shape == (1, channels, size // cell, size // cell)


def test_resolved_fills_in_the_papers_grid_and_beta() -> None:
    assert Vp().resolved((1, 28, 28)) == Vp(upsample=2, beta=1e-3)
    assert Vp().resolved((3, 224, 224)) == Vp(upsample=8, beta=1e-2)
    assert Vp(upsample=4, beta=0.0).resolved((1, 28, 28)) == Vp(upsample=4, beta=0.0)
    assert Vp().at_upsample(2).resolved((1, 28, 28)) == Vp().resolved((1, 28, 28))
    assert Nvp().resolved((3, 224, 224)) == Nvp(upsample=8)
    assert Vp().sweeps((1, 28, 28)) == {"upsample": [Vp(upsample=1), Vp(upsample=2), Vp(upsample=4)]}
    assert Nvp().sweeps((3, 224, 224)) == {"upsample": [Nvp(upsample=4), Nvp(upsample=8), Nvp(upsample=16)]}


@pytest.mark.parametrize("method", [Vp(beta=50.0), Vp(eps=0.1, baseline="mean-noise"), Nvp(), Nvp(upsample=4, baseline="blur")])
def test_loss_is_its_definition(method: MaskExplainer) -> None:
    classifier = tiny_classifier().double()
    x = tiny_images(3).double()
    module = network(method).double().eval()
    rng = ImageRandom(4, IDS)
    resolved = method.resolved((1, 28, 28))
    loss = resolved.loss(module, classifier, x, rng)

    expected = 0.0
    with torch.no_grad():
        for i, name in enumerate(IDS):
            one = ImageRandom(4, [name])
            output = module(x[i : i + 1])
            field = output[:, :1]
            if isinstance(resolved, Vp):
                posterior = torch.distributions.Normal(output[:, 0], (output[:, 1] / 2).exp())
                prior = torch.distributions.Normal(0.0, 1.0)
                assert resolved.beta is not None
                expected += resolved.beta / 784 * float(torch.distributions.kl_divergence(posterior, prior).sum())
                field = (posterior.mean + posterior.stddev * one.normal("field", output.shape[2:]))[:, None]
            score = F.interpolate(field, size=(28, 28), mode="bilinear").flatten(1)
            score = (score - score.min()) / (score.max() - score.min())
            keep = soft_topk(score, 784 * one.uniform("ratio", ()).double(), resolved.eps).view(1, 1, 28, 28)
            base = {
                "gray": torch.full((28, 28), 0.5),
                "blur": torch.from_numpy(gaussian_filter(x[i, 0].numpy(), 10 * 28 / 224, mode="nearest")),
                "mean-noise": x[i].mean() + 0.2 * one.normal("fill", (1, 28, 28)),
            }[resolved.baseline]
            p, q = (classifier(image).softmax(1) for image in (x[i : i + 1], keep * x[i] + (1 - keep) * base))
            expected += float((p * (p / q).log()).sum())
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-6)


@pytest.mark.parametrize("cells", [7, 14, 28, 5])
def test_upsampled_field_and_its_exact_variance(cells: int) -> None:
    x = torch.empty(2, 1, 28, 20)
    field = torch.randn(2, cells, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(field[:, None], size=(28, 20), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resized(field, x), expected)
    # The variance of a sum of independent cells is the sum of squared weights times their variances.
    basis = torch.eye(cells * 5, dtype=torch.float64).view(-1, 1, cells, 5)
    weights = F.interpolate(basis, size=(28, 20), mode="bilinear", align_corners=False).flatten(1)
    variance = field.square()
    expected = (variance.flatten(1) @ weights.square()).view(2, 28, 20)
    torch.testing.assert_close(resized(variance, x, "bilinear-squared"), expected)


def test_maps_are_the_upsampled_outputs_of_the_network() -> None:
    x, y, rng = tiny_images(3), torch.zeros(3, dtype=torch.int64), ImageRandom(0, IDS)
    module = network(Vp()).eval()
    with torch.no_grad():
        mu, log_nu = module(x).unbind(1)
        torch.testing.assert_close(Vp().explain(module, x, y, rng), resized(mu, x))
        torch.testing.assert_close(
            Vp(output="std").explain(module, x, y, rng), resized(log_nu.exp(), x, "bilinear-squared").sqrt()
        )
        naive = network(Nvp()).eval()
        torch.testing.assert_close(Nvp().explain(naive, x, y, rng), resized(naive(x)[:, 0], x))


@pytest.mark.parametrize(
    "method",
    [
        Vp(width=8, epochs=8, lr=5e-3, batch=16),
        Nvp(width=8, epochs=8, lr=5e-3, batch=16),
        VarSal(width=16, upsample=2, epochs=8, lr=1e-2, batch=16, baselines=("gray",)),
        L2X(width=8, epochs=8, lr=5e-3, batch=16),
        RealTime(width=4, epochs=8, lr=5e-3, batch=16, baselines=("gray",), area=2.0),
    ],
)
def test_training_finds_the_only_pixels_that_matter(method: GridExplainer) -> None:
    # The classifier adds up the pixels above and below gray; an image is gray noise with one white or one black square.
    adder = nn.Linear(256, 2)
    with torch.no_grad():
        adder.weight.copy_(torch.tensor([[0.04], [-0.04]]).expand(2, 256))
        adder.bias.zero_()
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), adder),
        name="adder",
        shape=(1, 16, 16),
        classes=2,
        label_space="two",
        mean=[0.5],
        std=[0.5],
        cam_layer=None,
        stages=[],
    )
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.02 * torch.randn(256, 1, 16, 16, generator=generator)
    squares = torch.zeros(256, 16, 16, dtype=torch.bool)
    for i, (top, left, white) in enumerate(torch.randint(11, (256, 3), generator=generator).tolist()):
        images[i, 0, top : top + 5, left : left + 5] = float(white % 2)
        squares[i, top : top + 5, left : left + 5] = True
    ids, label = tuple(map(str, range(256))), classifier(images).argmax(1)

    def read(chosen: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        index = [int(i) for i in chosen]
        return images[index], label[index], None

    fitted = fit(method, classifier, Subset("squares:train", ids[50:], (1, 16, 16), "two", "", read))
    trained = method.resolved(classifier.shape).network(classifier.shape, 2)
    trained.load_state_dict(fitted.state)
    with torch.no_grad():
        maps, others = (
            method.explain(trained.eval(), images[:50], y, ImageRandom(0, ids[:50])) for y in (label[:50], 1 - label[:50])
        )
    top = maps.flatten(1).topk(25).indices
    assert squares[:50].flatten(1).gather(1, top).float().mean() > 0.8, "of the 25 best pixels, chance is 0.1"
    if isinstance(method, RealTime):
        assert others.mean() < 0.6 * maps.mean(), "the mask of a class that is not there is emptier"


@pytest.mark.parametrize("spec", [f"{name}(upsample={m})" for name in ("vp", "nvp") for m in (1, 2, 4)] + ["vp", "nvp"])
def test_shipped_networks_explain_digits(spec: str, tmp_path: Path) -> None:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    dataset = DATASETS.make("mnist")
    subset = dataset.load("evaluation")
    ids = list(subset.ids[:50])
    x, label, _ = subset.read(ids)
    checkpoints = Checkpoints(dataset, tmp_path)
    maps = Explainer(METHODS.make(spec), classifier, states=checkpoints)(x, label, ids)
    assert classifier.passes.forward == 0
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros(50, 784).scatter_(1, order[:, :157], 1.0).view_as(x)  # a fifth of the pixels
    with_best = classifier.probabilities(torch.where(kept > 0, x, classifier.gray)).gather(1, label[:, None]).mean()
    without = classifier.probabilities(torch.where(kept > 0, classifier.gray, x)).gather(1, label[:, None]).mean()
    assert with_best > 0.55, "the gradient has 0.24, random pixels 0.11"
    assert without < 0.35, "the gradient has 0.39, random pixels 0.68"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("upsample=3", "upsample must be 1, 2, 4, 8 or 16, got 3"),
        ("eps=0.0", "eps must be above 0, got 0.0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ("beta=-1.0", "beta must not be negative, got -1.0"),
        ('baseline="white"', "baseline"),
        ('output="sample"', "output"),
    ],
)
def test_bad_parameters_are_refused(given: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(f"vp({given})")
