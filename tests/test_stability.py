"""Stability, on methods whose Lipschitz constant is known or can be found on a dense grid."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from xbench import METRICS, Method, XbenchError
from xbench.classifier import Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics import stability
from xbench.metrics._embedding import LockstepSearch, embedded
from xbench.metrics.stability import Stability
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_batch, tiny_classifier

SHAPE = (1, 6, 5)
CLASSIFIER = tiny_classifier(SHAPE).double()


@dataclasses.dataclass(frozen=True)
class Fake(Method):
    """Any function of (images, classes, draws) as a method of one forward pass; remembers what it was asked."""

    function: Callable[[Tensor, Tensor, ImageRandom], Tensor] = lambda x, y, rng: x[:, 0]
    asked: list[tuple[Tensor, Tensor, list[str]]] = dataclasses.field(default_factory=list)
    name = "fake"

    def __call__(self, classifier: Any, x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        classifier(x)
        self.asked.append((x, y, rng.ids))
        return self.function(x, y, rng)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        return Passes(forward=1)


@dataclasses.dataclass(frozen=True)
class FakeControl(Fake):
    control: ClassVar[bool] = True


def pinned(maps: Tensor) -> Tensor:
    """Maps in [0, 1] with one pixel at each end, so that min-max normalising changes nothing."""
    maps = maps.clone()
    maps[:, 0, 0], maps[:, -1, -1] = 0, 1
    return maps


def waves(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
    """Smooth, and much steeper in some pixels than in others."""
    steepness = (20 * torch.linspace(0, 1, 30).to(x) ** 2).view(6, 5)
    return pinned(0.5 + 0.5 * torch.sin(steepness * x[:, 0]))


def score(method: Method, batch: Batch, metric: Stability, seed: int = 0) -> Scored:
    explainer = Explainer(method, CLASSIFIER, seed)
    return metric(explainer, batch, explainer.maps(batch))


def images(count: int, seed: int = 0) -> Batch:
    return tiny_batch(count, CLASSIFIER, seed)


def test_ratio_of_a_scaled_image_is_the_scale() -> None:
    scored = score(Fake(lambda x, y, rng: -3.5 * x[:, 0]), images(4), Stability(calls=3))
    torch.testing.assert_close(scored.scores["lipschitz_raw"], torch.full((4,), 3.5).double())


def test_constant_method_scores_zero_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score(Fake(lambda x, y, rng: torch.ones_like(x[:, 0])), images(3), Stability(calls=3))
    assert all(torch.equal(values, torch.zeros(3).double()) for values in scored.scores.values())


def test_scores_are_the_largest_ratios_of_the_points_evaluated() -> None:
    method, batch, metric = Fake(lambda x, y, rng: 40 * x[:, 0] ** 3), images(3), Stability(random_calls=2, calls=4)
    maps = Explainer(method, CLASSIFIER).maps(batch)
    method.asked.clear()
    scored = metric(Explainer(method, CLASSIFIER), batch, maps)
    assert len(method.asked) == 6

    def normal(flat: Tensor) -> Tensor:
        return (flat - flat.min()) / (flat.max() - flat.min())

    for i in range(3):
        best, best_raw = [], []
        for moved, y, ids in method.asked:
            assert torch.equal(y, batch.target)
            assert ids == batch.ids
            assert float((moved - batch.x).abs().max()) <= 0.05 + 1e-12
            assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
            distance = math.dist(moved[i].flatten().tolist(), batch.x[i].flatten().tolist())
            new = 40 * moved[i, 0].flatten() ** 3
            best.append(float((normal(new) - normal(maps[i].flatten())).norm()) / distance)
            best_raw.append(float((new - maps[i].flatten()).norm()) / distance)
        assert float(scored.scores["lipschitz"][i]) == pytest.approx(max(best))
        assert float(scored.scores["lipschitz_raw"][i]) == pytest.approx(max(best_raw))
        assert scored.curves["lipschitz"][i].tolist() == pytest.approx([max(best[: n + 1]) for n in range(6)])


def test_curves_never_fall_and_end_at_the_score() -> None:
    scored = score(Fake(waves), images(5), Stability(random_search=True))
    for curve in scored.curves.values():
        assert curve.shape == (5, 15)
        assert (curve.diff(dim=1) >= 0).all()
    assert torch.equal(scored.curves["lipschitz"][:, -1], scored.scores["lipschitz"])
    assert torch.equal(scored.curves["lipschitz"][:, :5], scored.curves["random search"][:, :5])


def test_two_dimensions_reach_the_maximum_of_a_dense_grid() -> None:
    batch, seed = images(8), 3
    scored = score(Fake(waves), batch, Stability(dimensions=2, calls=25, random_search=True), seed)
    matrix = ImageRandom(seed, batch.ids).normal("embedding", (30, 2)).double()
    axis = torch.linspace(-math.sqrt(2), math.sqrt(2), 120, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    maxima = []
    for i in range(len(batch)):
        step = (0.5 * grid @ matrix[i].T).clamp(-1, 1).view(-1, *SHAPE)
        moved = (batch.x[i] + 0.05 * step).clamp(0, 1)
        change = waves(moved, batch.target, ImageRandom(0, [])) - waves(batch.x[i : i + 1], batch.target, ImageRandom(0, []))
        ratios = change.flatten(1).norm(dim=1) / (moved - batch.x[i]).flatten(1).norm(dim=1)
        maxima.append(float(ratios.max()))
    found, drawn = (scored.curves[name][:, -1] / torch.tensor(maxima) for name in ("lipschitz", "random search"))
    assert found.min() > 0.95
    assert found.max() < 1.01
    assert drawn.min() < 0.95  # so that 95 % is no gift


def test_search_finds_more_than_random_points() -> None:
    curves = score(Fake(waves), images(40), Stability(random_search=True)).curves
    found, drawn = curves["lipschitz"][:, -1], curves["random search"][:, -1]
    assert (found >= drawn).double().mean() > 0.6
    assert found.mean() > 1.03 * drawn.mean()


def test_search_follows_the_normalised_maps() -> None:
    """A unit that changes from image to image leaves the min-max maps, and so the search, as they are."""

    def rescaled(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        return waves(x, y, rng) * (3 + torch.sin(50 * x.sum((1, 2, 3))))[:, None, None] - 7

    plain, other = (score(Fake(function), images(6), Stability()) for function in (waves, rescaled))
    torch.testing.assert_close(other.curves["lipschitz"], plain.curves["lipschitz"])
    assert (other.scores["lipschitz_raw"] > 2 * plain.scores["lipschitz_raw"]).all()


def test_same_seed_gives_the_same_and_another_seed_another_search() -> None:
    first, second, other = (score(Fake(waves), images(3), Stability(calls=4), seed) for seed in (0, 0, 1))
    for name, values in first.scores.items():
        assert torch.equal(values, second.scores[name])
        assert not torch.equal(values, other.scores[name])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_change_nothing(size: int) -> None:
    batch, metric = images(9), Stability(calls=6)
    whole = score(Fake(waves), batch, metric)
    for index in torch.arange(9).split(size):
        at = index.tolist()
        part = Batch([batch.ids[i] for i in at], batch.x[at], batch.label[at], batch.target[at])
        scored = score(Fake(waves), part, metric)
        for name, values in scored.scores.items():
            torch.testing.assert_close(values, whole.scores[name][at], rtol=1e-6, atol=0)


def test_draws_of_stochastic_methods_are_frozen() -> None:
    noisy = Fake(lambda x, y, rng: x[:, 0] + rng.normal("noise", x.shape[2:]).to(x))
    torch.testing.assert_close(score(noisy, images(3), Stability(calls=2)).scores["lipschitz_raw"], torch.ones(3).double())


def test_points_that_do_not_leave_the_image_count_nothing() -> None:
    calls = []

    def drifting(x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
        calls.append(0)
        return x[:, 0] * len(calls) ** 2 + torch.arange(30).view(6, 5) ** len(calls)

    scored = score(Fake(drifting), images(2), Stability(eps=1e-20, calls=2))
    assert len(calls) == 8
    assert all(torch.equal(values, torch.zeros(2).double()) for values in scored.scores.values())


def test_controls_are_not_optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    guided = score(Fake(waves), images(3), Stability(random_search=True))
    monkeypatch.setattr(stability, "LockstepSearch", None)
    control = score(FakeControl(waves), images(3), Stability(random_search=True))
    assert control.record["seconds_gp"] == 0
    assert torch.equal(control.curves["lipschitz"], guided.curves["random search"])
    assert torch.equal(control.curves["lipschitz"], control.curves["random search"])


@pytest.mark.parametrize(("metric", "expected"), [(Stability(), 15), (Stability(2, None, 0.1, 3, 4, True), 11)])
def test_passes_are_what_cost_says(metric: Stability, expected: int) -> None:
    batch, explainer = images(2), Explainer(Fake(waves), CLASSIFIER)
    maps = explainer.maps(batch)
    before = CLASSIFIER.passes.copy()
    scored = metric(explainer, batch, maps)
    assert CLASSIFIER.passes - before == metric.cost(explainer.method, CLASSIFIER) * 2 == Passes(forward=2 * expected)
    assert set(scored.record) == {"seconds_gp", "seconds_explaining"}
    assert min(scored.record.values()) > 0


def test_embedding_equals_its_definition() -> None:
    x, z = images(2).x, torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.3]]).double()
    matrix = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    found = embedded(x, matrix, z, 0.7, 0.2).flatten(1)
    for i in range(2):
        for pixel in range(30):
            direction = 0.7 * sum(float(matrix[i, pixel, j]) * float(z[i, j]) for j in range(3))
            expected = float(x[i].flatten()[pixel]) + 0.2 * min(max(direction, -1), 1)
            assert float(found[i, pixel]) == pytest.approx(min(max(expected, 0), 1), abs=1e-12)


@pytest.mark.parametrize(("scale", "share"), [(None, 0.08), (1.0, 0.72)])
def test_default_scale_searches_the_inside_of_the_ball(scale: float | None, share: float) -> None:
    """At scale 1 most changes are clipped to a corner of the ball, by default few."""
    method, gray = Fake(), dataclasses.replace(images(40), x=torch.full((40, *SHAPE), 0.5).double())
    score(method, gray, Stability(scale=scale, random_calls=10, calls=0))
    steps = torch.cat([moved - 0.5 for moved, _, _ in method.asked[1:]]).abs()
    assert float((steps > 0.05 - 1e-9).double().mean()) == pytest.approx(share, abs=0.03)


def test_suggestions_lie_in_the_box_and_leave_the_threads_as_found() -> None:
    search, before = LockstepSearch(3, [0, 1]), threadpool_info()
    for call in range(4):
        z = search.suggest() if call else torch.zeros(2, 3).double()
        assert z.shape == (2, 3)
        assert (z.abs() <= math.sqrt(3)).all()
        search.register(z, z.sum(1))
    assert threadpool_info() == before


def test_is_registered_with_its_directions() -> None:
    assert METRICS.make("stability(calls=25, random_search=True)") == Stability(calls=25, random_search=True)
    directions = {column.name: column.higher_is_better for column in Stability.columns}
    assert directions == {"lipschitz": False, "lipschitz_raw": None}


@pytest.mark.parametrize("given", ["dimensions=0", "scale=0.0", "eps=0.0", "eps=1.5", "random_calls=0", "calls=-1"])
def test_refuses_parameters_out_of_range(given: str) -> None:
    with pytest.raises(XbenchError, match=f"{given.split('=')[0]} must be"):
        METRICS.make(f"stability({given})")
