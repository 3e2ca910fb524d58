"""VarSal against its definition, written out image by image, and its encoder and outputs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.varsal import VarSal
from xbench.ops.topk import soft_topk
from xbench.testing import tiny_classifier, tiny_images

IDS = ["a", "b", "c", "d", "e"]


def network(method: VarSal, shape: tuple[int, int, int] = (1, 28, 28)) -> nn.Module:
    torch.manual_seed(0)
    return method.resolved(shape).network(shape, 4)


@pytest.mark.parametrize(("m", "width"), [(1, 64), (1, 8), (4, 12)])
def test_encoder_has_the_papers_layers(m: int, width: int) -> None:
    module = network(VarSal(upsample=m, width=width), (3, 32, 32))
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [width] * 4 + [width // 2] * 5 + [width // 4] * 6 + [2]
    assert all(conv.kernel_size == (3, 3) for conv in convs)
    assert [conv.stride[0] for conv in convs] == [2] * int(math.log2(m)) + [1] * (16 - int(math.log2(m)))
    assert [type(layer) for layer in module.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 15 + [nn.Conv2d]
    assert module(torch.rand(2, 3, 32, 32)).shape == (2, 2, 32 // m, 32 // m)


def test_recipe_is_the_papers_but_for_the_learning_rate() -> None:
    method = VarSal()
    assert (method.weight_decay, method.betas, method.batch) == (5e-4, (0.9, 0.99), 128)
    assert method.sweeps((1, 28, 28)) == {"upsample": [VarSal(upsample=1), VarSal(upsample=2), VarSal(upsample=4)]}
    assert method.resolved((1, 28, 28)) == method.resolved((3, 224, 224)) == method


@pytest.mark.parametrize(
    "method",
    [
        VarSal(width=4, upsample=4, beta=20.0),
        VarSal(width=4, upsample=4, beta=20.0, prior="standard", baselines=("zero",)),
        VarSal(width=4, upsample=4, beta=20.0, alpha=0.3, printed_form=True, baselines=("gray", "blur"), eps=0.1),
    ],
)
def test_loss_is_its_definition(method: VarSal) -> None:
    classifier = tiny_classifier().double()
    x = tiny_images(5).double()
    module = network(method).double().eval()
    loss = method.loss(module, classifier, x, ImageRandom(4, IDS))

    alpha = 0.0 if method.prior == "standard" else method.alpha
    factor = torch.eye(7, dtype=torch.float64) + alpha * torch.ones(7, 7).triu(1).tril(1).double()
    factor += factor.mT - torch.eye(7)
    covariance = torch.kron(factor, factor)
    prior = MultivariateNormal(torch.zeros(49, dtype=torch.float64), covariance)
    expected, chosen = 0.0, set()
    with torch.no_grad():
        for i, name in enumerate(IDS):
            one = ImageRandom(4, [name])
            mu, log_nu = module(x[i : i + 1])[0]
            kl = float(kl_divergence(MultivariateNormal(mu.flatten(), log_nu.exp().flatten().diag()), prior))
            kl = 2 * kl + 49 - float(torch.logdet(covariance)) if method.printed_form else kl
            field = mu + (log_nu / 2).exp() * one.normal("field", (7, 7))[0]
            score = F.interpolate(field[None, None], size=(28, 28), mode="bilinear").flatten(1)
            score = (score - score.min()) / (score.max() - score.min())
            ratio = 0.1 + 0.8 * one.uniform("ratio", ()).double()
            keep = soft_topk(score, 784 * ratio, method.eps).view(1, 1, 28, 28)
            baseline = method.baselines[int(one.integers("background", len(method.baselines), ()))]
            chosen.add(baseline)
            base = {
                "gray": torch.tensor(0.5),
                "zero": torch.tensor(0.0),
                "blur": torch.from_numpy(gaussian_filter(x[i, 0].numpy(), 10 * 28 / 224, mode="nearest")),
                "noise": 0.5 + 0.2 * one.normal("fill", (1, 28, 28)),
                "mean-noise": x[i].mean() + 0.2 * one.normal("fill", (1, 28, 28)),
            }[baseline]
            p, q = (classifier(image).softmax(1) for image in (x[i : i + 1], keep * x[i] + (1 - keep) * base))
            expected += float((p * (p / q).log()).sum()) + method.beta / 784 * kl
    assert chosen == set(method.baselines), "every baseline is drawn"
    assert float(loss.detach()) == pytest.approx(expected / 5, rel=1e-6)


def test_outputs_are_those_of_the_posterior() -> None:
    x, y = tiny_images(3), torch.zeros(3, dtype=torch.int64)
    rng = ImageRandom(0, IDS[:3])
    method = VarSal(width=4)
    module = network(method).eval()
    with torch.no_grad():
        mu, log_nu = module(x).unbind(1)
        deviation = (log_nu / 2).exp()
        torch.testing.assert_close(method.explain(module, x, y, rng), mu)
        torch.testing.assert_close(method.replace(output="std").explain(module, x, y, rng), deviation)
        samples = [method.replace(output="sample").explain(module, x, y, ImageRandom(seed, IDS[:3])) for seed in range(20)]
        noise = (torch.stack(samples) - mu) / deviation
        assert not samples[0].equal(samples[1])
        assert abs(float(noise.mean())) < 0.02
        assert float(noise.std()) == pytest.approx(1, abs=0.02)
        coarse = network(method.at_upsample(4)).eval()
        mu, log_nu = coarse(x).unbind(1)
        # The variance of the upsampled field, from its independent cells' weights.
        weights = F.interpolate(torch.eye(49).view(49, 1, 7, 7), size=(28, 28), mode="bilinear").flatten(1)
        variance = (log_nu.exp().flatten(1) @ weights.square()).view(3, 28, 28)
        std = method.replace(upsample=4, output="std").explain(coarse, x, y, rng)
        torch.testing.assert_close(std, variance.sqrt())
    assert METHODS.make('varsal(output="sample")').trained_as() == VarSal() == METHODS.make('varsal(output="std")').trained_as()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("upsample=3", "upsample must be 1, 2, 4, 8 or 16, got 3"),
        ("alpha=0.51", "alpha must be between 0 and 0.5, got 0.51"),
        ("alpha=-0.1", "alpha must be between 0 and 0.5, got -0.1"),
        ("beta=-1.0", "beta must not be negative, got -1.0"),
        ("weight_decay=-1.0", "weight_decay must not be negative, got -1.0"),
        ("width=6", "width must be a multiple of 4, got 6"),
        ("eps=0.0", "eps must be above 0, got 0.0"),
        ("batch=0", "batch must be at least 1, got 0"),
        ('baselines=("blur", "white")', "white"),
        ("baselines=()", "baselines must name at least one fill"),
        ('prior="flat"', "prior"),
        ('output="map"', "output"),
    ],
)
def test_bad_parameters_are_refused(given: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(f"varsal({given})")
