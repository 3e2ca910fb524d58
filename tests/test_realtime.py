"""RealTime against its definition, written out image by image, and its network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.realtime import RealTime
from xbench.testing import tiny_classifier, tiny_images

IDS = [f"image-{i}" for i in range(8)]


def network(method: RealTime, shape: tuple[int, int, int] = (1, 28, 28)) -> nn.Module:
    torch.manual_seed(0)
    module = method.resolved(shape).network(shape, 4)
    with torch.no_grad():
        module.mask.weight.mul_(10)  # so that the masks of an untrained network are not flat
        for _ in range(30):
            module(tiny_images(8, shape), torch.arange(8) % 4)  # batch norm's statistics
    return module


@pytest.mark.parametrize(
    ("m", "size", "cells"), [(None, 28, 14), (1, 28, 28), (4, 28, 7), (8, 28, 4), (16, 32, 2), (None, 64, 16), (None, 225, 57)]
)
def test_masks_lie_on_the_grid(m: int | None, size: int, cells: int) -> None:
    module = network(RealTime(upsample=m, width=2), (3, size, size)).eval()
    mask = module(torch.rand(2, 3, size, size), torch.tensor([0, 3]))
    assert mask.shape == (2, cells, cells)
    assert mask.min() >= 0
    assert mask.max() <= 1
    halvings = [layer.stride for layer in module.modules() if isinstance(layer, nn.Conv2d)].count((2, 2))
    assert halvings == max(3 if size < 64 else 5, len(bin(m or 1)) - 2)


def test_the_class_filters_the_features_at_the_bottom() -> None:
    module = network(RealTime(width=4)).eval()
    x = tiny_images(1)
    seen: list[torch.Tensor] = []
    module.up[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :32]))
    with torch.no_grad():
        bottom = x
        for block in module.down:
            bottom = block(bottom)
        for factor in (-1e12, 0.0, 1e12):
            module.classes.weight[2] = factor * bottom.mean((2, 3))[0]
            module(x, torch.tensor([2]))
    whole = F.interpolate(bottom, size=(7, 7), mode="nearest")
    assert whole.amax() > 0
    for features, share in zip(seen, (0.0, 0.5, 1.0), strict=True):
        torch.testing.assert_close(features, share * whole)


@pytest.mark.parametrize(
    "method",
    [
        RealTime(width=4, upsample=4),
        RealTime(width=4, upsample=4, baselines=("zero",), area=3.0, smoothness=0.5, destruction=2.0, power=0.5),
    ],
)
def test_loss_is_its_definition(method: RealTime) -> None:
    classifier = tiny_classifier().double()
    x = tiny_images(8).double()
    module = network(method).double().eval()
    loss = method.loss(module, classifier, x, ImageRandom(4, IDS))

    expected, fakes = 0.0, 0
    with torch.no_grad():
        for i, name in enumerate(IDS):
            one = ImageRandom(4, [name])
            c = asked = int(classifier(x[i : i + 1]).argmax())
            fake = float(one.uniform("fake", ())) < 0.3
            fakes += fake
            if fake:
                others = [(c + n) % 4 for n in (1, 2, 3)]
                asked = others[int(one.integers("class", 3, ()))]
            cells = module(x[i : i + 1], torch.tensor([asked]))
            assert cells.amax() - cells.amin() > 0.3
            mask = F.interpolate(cells[None], size=(28, 28), mode="bilinear")[0, 0]
            base = {
                "zero": torch.zeros(28, 28).double(),
                "blur": torch.from_numpy(gaussian_filter(x[i, 0].numpy(), 10 * 28 / 224, mode="nearest")),
                "noise": 0.5 + 0.2 * one.normal("fill", (1, 28, 28))[0, 0].double(),
            }[method.baselines[int(one.integers("background", len(method.baselines), ()))]]

            def probability(keep: torch.Tensor, i: int = i, c: int = c, base: torch.Tensor = base) -> torch.Tensor:
                return classifier((keep * x[i, 0] + (1 - keep) * base)[None, None]).softmax(1)[0, c]

            preserved, destroyed = probability(mask), probability(1 - mask)
            if fake:  # an empty mask must not show the class, and its complement must
                preserved, destroyed = destroyed, preserved
            steps = sum(float((mask[a + 1] - mask[a]).square().sum()) for a in range(27))
            steps += sum(float((mask[:, a + 1] - mask[:, a]).square().sum()) for a in range(27))
            expected += method.smoothness * steps + method.area * float(mask.mean())
            expected += float(method.destruction * destroyed**method.power - preserved.log())
    assert 0 < fakes < 8
    assert float(loss.detach()) == pytest.approx(expected / 8, rel=1e-6)


def test_gradient_is_finite_where_the_class_is_gone() -> None:
    classifier = tiny_classifier()
    classifier.module.fc.weight.mul_(1e6)  # type: ignore[union-attr, operator]
    method = RealTime(width=4, upsample=4)
    module = network(method)
    x = tiny_images(8)
    method.loss(module, classifier, x, ImageRandom(0, IDS)).backward()
    probabilities = classifier(0.5 + 0 * x).softmax(1)
    assert (probabilities == 0).any(), "the classifier is as sure as float32 allows"
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters())


def test_map_is_the_upsampled_mask_of_the_class() -> None:
    x, rng = tiny_images(3), ImageRandom(0, IDS[:3])
    method = RealTime(upsample=4, width=4)
    module = network(method).eval()
    y = torch.tensor([0, 1, 2])
    with torch.no_grad():
        expected = F.interpolate(module(x, y)[:, None], size=(28, 28), mode="bilinear")[:, 0]
        torch.testing.assert_close(method.explain(module, x, y, rng), expected)
        assert not method.explain(module, x, y + 1, rng).equal(expected)


def test_resolved_fills_in_the_papers_grid() -> None:
    assert RealTime().resolved((3, 224, 224)) == RealTime(upsample=4)
    assert RealTime().resolved((1, 28, 28)) == RealTime(upsample=2)
    assert RealTime().sweeps((1, 28, 28)) == {"upsample": [RealTime(upsample=1), RealTime(upsample=2), RealTime(upsample=4)]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("upsample=3", "upsample must be 1, 2, 4, 8 or 16, got 3"),
        ("area=-1.0", "area must not be negative, got -1.0"),
        ("smoothness=-1.0", "smoothness must not be negative, got -1.0"),
        ("destruction=-1.0", "destruction must not be negative, got -1.0"),
        ("power=0.0", "power must be above 0, got 0.0"),
        ("epochs=0", "epochs must be at least 1, got 0"),
        ('baselines=("white",)', "white"),
        ("baselines=()", "baselines must name at least one fill"),
    ],
)
def test_bad_parameters_are_refused(given: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(f"realtime({given})")
