"""L2X against its definition, written out image by image, and its two maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.l2x import L2X
from xbench.methods.nvp import Nvp
from xbench.testing import tiny_classifier, tiny_images

IDS = ["a", "b", "c"]


def network(method: L2X, shape: tuple[int, int, int] = (1, 28, 28)) -> nn.Module:
    torch.manual_seed(0)
    return method.resolved(shape).network(shape, 4)


def test_network_is_that_of_nvp() -> None:
    torch.manual_seed(0)
    naive = Nvp(upsample=4, width=5).network((3, 32, 32), 4).state_dict()
    state = network(L2X(upsample=4, width=5), (3, 32, 32)).state_dict()
    assert state.keys() == naive.keys()
    assert all(state[name].equal(naive[name]) for name in naive)


@pytest.mark.parametrize("method", [L2X(upsample=4, width=4), L2X(upsample=4, width=4, tau=0.1, share=0.5, baseline="zero")])
def test_loss_is_its_definition(method: L2X) -> None:
    classifier = tiny_classifier().double()
    x = tiny_images(3).double()
    module = network(method).double()
    for _ in range(30):
        module(x)  # batch norm's statistics, without which the scores of an untrained network are nearly equal
    module.eval()
    loss = method.loss(module, classifier, x, ImageRandom(4, IDS))

    k = round(method.share * 49)
    expected = 0.0
    with torch.no_grad():
        for i, name in enumerate(IDS):
            scores = module(x[i : i + 1]).flatten()
            mask = torch.zeros(49, dtype=torch.float64)
            for u in ImageRandom(4, [name]).uniform("gumbel", (k, 49))[0].double():
                draw = ((scores - torch.log(-torch.log(u))) / method.tau).exp()
                mask = torch.maximum(mask, draw / draw.sum())
            keep = F.interpolate(mask.view(1, 1, 7, 7), size=(28, 28), mode="bilinear")
            base = 0.5 if method.baseline == "gray" else 0.0
            p, q = (classifier(image).softmax(1) for image in (x[i : i + 1], keep * x[i] + (1 - keep) * base))
            expected += float((p * (p / q).log()).sum())
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-6)


def test_maps_are_the_upsampled_scores_or_the_best_cells() -> None:
    x, y, rng = tiny_images(3), torch.zeros(3, dtype=torch.int64), ImageRandom(0, IDS)
    method = L2X(upsample=4, share=0.3)
    module = network(method).eval()
    with torch.no_grad():
        scores = module(x)
        expected = F.interpolate(scores, size=(28, 28), mode="bilinear")[:, 0]
        torch.testing.assert_close(method.explain(module, x, y, rng), expected)
        selection = method.replace(output="topk").explain(module, x, y, rng)
    assert set(selection.unique().tolist()) == {0.0, 1.0}
    k = round(0.3 * 49)
    assert selection.sum((1, 2)).tolist() == [k * 16] * 3, "whole cells of 4 x 4 pixels"
    cells = selection[:, 2::4, 2::4].flatten(1) > 0
    for row, chosen in zip(scores.flatten(1), cells, strict=True):
        assert row[chosen].min() > row[~chosen].max()
    assert METHODS.make('l2x(output="topk")').trained_as() == L2X()


def test_at_least_one_cell_is_drawn() -> None:
    method = L2X(upsample=16, share=0.01, width=4)
    module = network(method).eval()
    x = tiny_images(2)
    assert method.loss(module, tiny_classifier(), x, ImageRandom(0, IDS[:2])).isfinite()
    with torch.no_grad():
        selection = method.replace(output="topk").explain(module, x, torch.zeros(2, dtype=torch.int64), ImageRandom(0, IDS[:2]))
    assert selection.sum((1, 2)).tolist() == [14 * 14] * 2


def test_resolved_and_sweeps_are_those_of_vp() -> None:
    assert L2X().resolved((1, 28, 28)) == L2X(upsample=2)
    assert L2X().resolved((3, 224, 224)) == L2X(upsample=8)
    assert L2X().sweeps((1, 28, 28)) == {"upsample": [L2X(upsample=1), L2X(upsample=2), L2X(upsample=4)]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("upsample=3", "upsample must be 1, 2, 4, 8 or 16, got 3"),
        ("share=0.0", "share must be above 0 and at most 1, got 0.0"),
        ("share=1.1", "share must be above 0 and at most 1, got 1.1"),
        ("tau=0.0", "tau must be above 0, got 0.0"),
        ("width=0", "width must be at least 1, got 0"),
        ('baseline="white"', "white"),
        ('output="mask"', "output"),
    ],
)
def test_bad_parameters_are_refused(given: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(f"l2x({given})")
