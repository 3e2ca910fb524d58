"""Sensitivity-max, on maps whose change is known and against Captum on the same draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.metrics import sensitivity_max
from given_maps import part
from torch import Tensor

from xbench import METRICS, Explainer, ImageRandom, Method, XbenchError
from xbench.classifier import Passes
from xbench.metric import Scored
from xbench.metrics.sensitivity_max import SensitivityMax
from xbench.subset import Batch
from xbench.testing import tiny_batch, tiny_classifier

CLASSIFIER = tiny_classifier((3, 9, 8)).double()


@dataclasses.dataclass(frozen=True)
class Fake(Method):
    """Any function of (images, classes, draws) as a method of one forward pass."""

    function: Callable[[Tensor, Tensor, ImageRandom], Tensor] = lambda x, y, rng: x.sum(1)
    name = "fake"

    def __call__(self, classifier: Any, x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        classifier(x)
        return self.function(x, y, rng)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        return Passes(forward=1)


def images(count: int) -> Batch:
    return tiny_batch(count, CLASSIFIER)


def score(method: Method, batch: Batch, draws: int = 4, seed: int = 5) -> Scored:
    explainer = Explainer(method, CLASSIFIER, seed)
    return SensitivityMax(draws=draws)(explainer, batch, explainer.maps(batch))


def moved(batch: Batch, draws: int, seed: int = 5) -> Tensor:
    """(draws, b, c, h, w), from the definition."""
    rng = ImageRandom(seed, batch.ids)
    uniform = torch.stack([rng.uniform("ball", batch.x.shape[1:], step) for step in range(draws)]).double()
    return batch.x + 0.04 * (uniform - 0.5)


def curved(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
    return (3 * x).sin().sum(1) + y.view(-1, 1, 1)


def test_equals_the_definition() -> None:
    batch = images(3)
    scored = score(Fake(curved), batch)
    for i in range(3):
        changes = []
        for x in moved(batch, 4)[:, i]:
            assert 0.015 < float((x - batch.x[i]).abs().max()) <= 0.02
            old, new = ((3 * image).sin().sum(0) + int(batch.target[i]) for image in (batch.x[i], x))
            changes.append(math.dist(old.flatten().tolist(), new.flatten().tolist()) / math.hypot(*old.flatten().tolist()))
        assert scored.curves["change"][i].tolist() == pytest.approx(changes)
        assert float(scored.scores["sensitivity_max"][i]) == pytest.approx(max(changes))


def test_equals_captum_on_the_same_draws() -> None:
    batch = images(4)

    def perturb(x: Tensor) -> Tensor:
        return moved(batch, 4).transpose(0, 1).flatten(0, 1)  # Captum repeats every image, not the batch

    def explain(x: tuple[Tensor] | Tensor, target: Tensor) -> tuple[Tensor]:
        return (curved(x[0] if isinstance(x, tuple) else x, target, ImageRandom(0, [])),)

    expected = sensitivity_max(explain, batch.x, perturb, n_perturb_samples=4, target=batch.target)
    torch.testing.assert_close(score(Fake(curved), batch).scores["sensitivity_max"], expected)


def test_maps_that_do_not_change_and_maps_of_zeros() -> None:
    batch = images(4)

    def flat(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        values = torch.tensor([1.0, 0.0, -2.0, 1e-300], dtype=x.dtype).repeat(len(x) // 4)
        return torch.ones_like(x[:, 0]) * values.view(-1, 1, 1)

    scored = score(Fake(flat), batch)
    assert scored.scores["sensitivity_max"].isnan().tolist() == [False, True, False, False]
    assert scored.scores["sensitivity_max"].nan_to_num(0).tolist() == [0, 0, 0, 0]
    assert scored.reasons == {"sensitivity_max": {1: "map of zeros"}}


def test_a_factor_changes_nothing_and_a_shift_does() -> None:
    batch = images(3)
    plain, scaled, shifted = (
        score(Fake(lambda x, y, rng, a=a, b=b: a * curved(x, y, rng) + b), batch).scores["sensitivity_max"]
        for a, b in ((1, 0), (-8, 0), (1, 10))
    )
    torch.testing.assert_close(scaled, plain)
    assert (shifted < 0.9 * plain).all()


def test_draws_of_stochastic_methods_are_frozen() -> None:
    noise = Fake(lambda x, y, rng: rng.normal("noise", x.shape[2:]).to(x))
    assert torch.equal(score(noise, images(3)).scores["sensitivity_max"], torch.zeros(3).double())


def test_more_draws_only_raise_it_and_batches_change_nothing() -> None:
    batch = images(9)
    few, many = (score(Fake(curved), batch, draws) for draws in (3, 8))
    assert torch.equal(few.curves["change"], many.curves["change"][:, :3])
    assert (many.scores["sensitivity_max"] >= few.scores["sensitivity_max"]).all()
    for size in (1, 7):
        found = [
            score(Fake(curved), part(batch, at.tolist()), 3).scores["sensitivity_max"] for at in torch.arange(9).split(size)
        ]
        torch.testing.assert_close(torch.cat(found), few.scores["sensitivity_max"], rtol=1e-9, atol=0)


def test_is_registered_and_refuses_parameters_out_of_range() -> None:
    assert METRICS.make("sensitivity-max(radius=0.1, draws=3)") == SensitivityMax(0.1, 3)
    assert SensitivityMax().cost(Fake(), CLASSIFIER) == Passes(forward=10)
    for given in ("radius=0.0", "radius=1.5", "draws=0"):
        with pytest.raises(XbenchError, match=f"{given.split('=')[0]} must be"):
            METRICS.make(f"sensitivity-max({given})")


def test_draws_share_batches_but_not_those_of_methods_that_amplify_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, sizes = images(4), []

    def seen(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        sizes.append(len(x))
        assert len(x) == len(y) == len(rng.ids)
        return curved(x, y, rng)

    monkeypatch.setattr(CLASSIFIER, "fitting_batch_size", 9)
    shared = score(Fake(seen), batch, draws=5)
    alone = score(type("Iterative", (Fake,), {"iterative": True})(seen), batch, draws=5)
    assert sizes == [4, 8, 8, 4] + [4] * 6  # the first of each is the map itself
    assert shared.curves["change"].equal(alone.curves["change"])
