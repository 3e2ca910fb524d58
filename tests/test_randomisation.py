"""Randomisation, against maps known analytically and fits that are recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn

from xbench import METRICS, Method, TrainedMethod, XbenchError
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metrics.randomisation import Randomisation
from xbench.randomising import randomise
from xbench.subset import Batch
from xbench.testing import tiny_classifier, tiny_images

NAMES = [column.name for column in Randomisation.columns]


@dataclasses.dataclass(frozen=True)
class Slope(Method):
    """The signed gradient of the class's logit."""

    name = "slope"

    def __call__(self, classifier, x, y, rng):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(classifier(x).gather(1, y[:, None]).sum(), x)[0].sum(1)

    def cost(self, shape):
        return Passes(1, 1)


@dataclasses.dataclass(frozen=True)
class Size(Slope):
    """The gradient's absolute value."""

    name = "size"

    def __call__(self, classifier, x, y, rng):
        return super().__call__(classifier, x, y, rng).abs()


@dataclasses.dataclass(frozen=True)
class Ink(Method):
    """A control."""

    control = True
    name = "ink"

    def __call__(self, classifier, x, y, rng):
        return x.mean(1) - 0.5

    def cost(self, shape):
        return Passes()


@dataclasses.dataclass(frozen=True)
class Fitted(TrainedMethod):
    """A trained method whose map is a convolution of the image."""

    epochs: int = 7
    name = "fitted"
    refit = {"epochs": 2}  # noqa: RUF012

    def explain(self, network, x, y, rng):
        return network(x)[:, 0] + 0.1 * y[:, None, None] * x[:, 0]


class Fits:
    """Networks that depend on the classifier's weights, the recipe and the seed; every fit is noted."""

    def __init__(self):
        self.made = []

    def find(self, method, classifier):
        raise AssertionError("a refitted method is never looked up")

    def fit(self, method, classifier, seed):
        self.made.append((classifier.weights_digest, method.epochs, seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(classifier.weights_digest[:8], 16) + 31 * method.epochs + seed)
            return nn.Conv2d(1, 1, 5, padding=2).to(classifier.mean), f"{self.made[-1]}"


def classifier_of(module, side, classes, stages):
    return Classifier(
        module,
        name="tested",
        shape=(1, side, side),
        classes=classes,
        label_space="tested",
        mean=[0.5],
        std=[0.25],
        cam_layer=None,
        stages=stages,
    )


def linear():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 4))
    return classifier_of(module, 16, 4, [["1"]])


def batch_of(count, shape=(1, 28, 28)):
    target = torch.arange(count) % 4
    return Batch([str(i) for i in range(count)], tiny_images(count, shape), target, target)


def part_of(batch, start, stop):
    part = slice(start, stop)
    return Batch(batch.ids[part], batch.x[part], batch.label[part], batch.target[part])


def similarities(a, b):
    """From the definition, of two maps in numpy."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = ((z - z.min()) / (z.max() - z.min()) for z in (a, b))
    return {
        "ssim": structural_similarity(x, y, win_size=5, data_range=1),
        "pc": scipy.stats.pearsonr(a.ravel(), b.ravel())[0],
        "spearman": scipy.stats.spearmanr(a, b, axis=None)[0],
        "spearman_abs": scipy.stats.spearmanr(abs(a), abs(b), axis=None)[0],
        "hog": scipy.stats.pearsonr(hog(x, pixels_per_cell=(4, 4)), hog(y, pixels_per_cell=(4, 4)))[0],
    }


@pytest.mark.parametrize("method", [Slope(), Size()])
@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_maps_of_a_linear_classifier_are_its_weights(method, mode, seed):
    classifier, batch = linear(), batch_of(4, (1, 16, 16))
    scored = Randomisation(mode=mode, seed=seed)(Explainer(method, classifier), batch, None)
    new = classifier.randomised(["1"], seed)
    shown = np.abs if isinstance(method, Size) else np.asarray
    for i, y in enumerate(batch.target.tolist()):
        before, after = (shown(c.module[1].weight[y].view(16, 16).numpy()) for c in (classifier, new))
        for name, value in similarities(before, after).items():
            assert scored.scores[name][i].item() == pytest.approx(value, abs=1e-4), name
            assert scored.curves[name][i].tolist() == pytest.approx([value], abs=1e-4), name
    assert list(scored.scores) == NAMES == list(scored.curves)
    assert scored.reasons == {}


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_stages_of_a_network(mode):
    classifier, batch = tiny_classifier(), batch_of(5)
    scored = Randomisation(mode=mode)(Explainer(Slope(), classifier), batch, None)
    layers = [["fc"], ["conv2"], ["conv1"]] if mode == "independent" else [["fc"], ["fc", "conv2"], ["fc", "conv2", "conv1"]]
    before = Slope()(classifier, batch.x, batch.target, None)
    for stage, names in enumerate(layers):
        after = Slope()(classifier.randomised(names, 0), batch.x, batch.target, None)
        expected = [similarities(x, y) for x, y in zip(before.numpy(), after.numpy(), strict=True)]
        for name in NAMES:
            np.testing.assert_allclose(scored.curves[name][:, stage], [row[name] for row in expected], atol=1e-4)
    for name in NAMES:
        assert scored.curves[name].shape == (5, 3)
        torch.testing.assert_close(scored.scores[name], scored.curves[name].mean(1))


@pytest.mark.parametrize(
    ("stages", "ends"), [(1, [7]), (2, [3, 7]), (3, [2, 4, 7]), (5, [1, 2, 4, 5, 7]), (7, [*range(1, 8)]), (9, [*range(1, 8)])]
)
def test_declared_stages_are_merged_evenly_and_all_covered(stages, ends, monkeypatch):
    module = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(7)), nn.Flatten())
    order = [str(i) for i in reversed(range(7))]
    classifier, batch = classifier_of(module, 12, 144, [[name] for name in order]), batch_of(2, (1, 12, 12))
    randomised = []
    original = randomise

    def spied(twin, layers, seed):
        original(twin, layers, seed)
        twin.drawn = [*getattr(twin, "drawn", []), *layers]
        randomised.append(twin.drawn)

    monkeypatch.setattr("xbench.metrics.randomisation.randomise", spied)
    Randomisation(stages=stages)(Explainer(Ink(), classifier), batch, None)
    assert randomised == [order[:end] for end in ends]
    randomised.clear()
    Randomisation(mode="independent", stages=stages)(Explainer(Ink(), classifier), batch, None)
    assert randomised == [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def test_a_control_scores_1():
    scored = Randomisation()(Explainer(Ink(), tiny_classifier()), batch_of(3), None)
    for name in NAMES:
        torch.testing.assert_close(scored.scores[name], torch.ones(3).double())


def test_the_class_explained():
    classifier, batch = tiny_classifier(), batch_of(6)
    asked = []

    class Asked(Slope):
        def __call__(self, classifier, x, y, rng):
            asked.append((classifier.weights_digest, y.tolist()))
            return super().__call__(classifier, x, y, rng)

    Randomisation(stages=1)(Explainer(Asked(), classifier), batch, None)
    new = classifier.randomised(["fc", "conv2", "conv1"], 0)
    assert asked == [(classifier.weights_digest, batch.target.tolist()), (new.weights_digest, batch.target.tolist())]
    asked.clear()
    Randomisation(stages=1, target="predicted")(Explainer(Asked(), classifier), batch, None)
    predicted = new(batch.x).argmax(1).tolist()
    assert predicted != batch.target.tolist()
    assert asked == [(classifier.weights_digest, batch.target.tolist()), (new.weights_digest, predicted)]


@pytest.mark.parametrize("target", ["original", "predicted"])
@pytest.mark.parametrize("stages", [2, 5])
def test_cost_is_what_the_counters_report_and_the_classifier_is_left_as_found(target, stages):
    classifier, metric = tiny_classifier(), Randomisation(target=target, stages=stages)
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    before = classifier.passes.copy()
    metric(Explainer(Slope(), classifier), batch_of(6), None)
    assert classifier.passes - before == metric.cost(Slope(), classifier) * 6
    torch.testing.assert_close(dict(classifier.state_dict()), state, rtol=0, atol=0)


def test_a_trained_method_is_refitted_and_shows_its_noise_floor():
    classifier, batch, fits = tiny_classifier(), batch_of(4), Fits()
    explainer = Explainer(Fitted(), classifier, states=fits)
    scored = Randomisation(stages=2, seed=4)(explainer, batch, None)
    twins = [classifier.randomised(layers, 4) for layers in (["fc"], ["fc", "conv2", "conv1"])]
    assert [one for i, one in enumerate(fits.made) if one not in fits.made[:i]] == [
        (classifier.weights_digest, 2, 4),
        *((twin.weights_digest, 2, 4) for twin in twins),
        (classifier.weights_digest, 2, 5),
    ]

    def maps_of(classifier, seed):
        network, _ = Fits().fit(Fitted(epochs=2), classifier, seed)
        with torch.no_grad():
            return Fitted().explain(network, batch.x, batch.target, None).numpy()

    reference = maps_of(classifier, 4)
    for stage, twin in enumerate(twins):
        expected = [similarities(x, y) for x, y in zip(reference, maps_of(twin, 4), strict=True)]
        for name in NAMES:
            np.testing.assert_allclose(scored.curves[name][:, stage], [row[name] for row in expected], atol=1e-4)
    expected = [similarities(x, y) for x, y in zip(reference, maps_of(classifier, 5), strict=True)]
    for name in NAMES:
        np.testing.assert_allclose(scored.curves[f"floor_{name}"], [[row[name]] for row in expected], atol=1e-4)
    assert list(scored.scores) == NAMES


def test_constant_maps_have_no_correlation():
    class Dead(Slope):
        """As GradCAM behind its ReLU: nothing is left of some maps once the classifier is randomised."""

        def __call__(self, classifier, x, y, rng):
            maps = super().__call__(classifier, x, y, rng)
            return maps * (y != 1)[:, None, None] if classifier.weights_digest != intact else maps

    classifier = tiny_classifier()
    intact = classifier.weights_digest
    scored = Randomisation()(Explainer(Dead(), classifier), batch_of(8), None)
    for name in ("pc", "spearman", "spearman_abs", "hog"):
        assert scored.scores[name].isnan().nonzero()[:, 0].tolist() == [1, 5]
        assert scored.reasons[name] == dict.fromkeys((1, 5), "map without gradient" if name == "hog" else "constant map")
    assert not scored.scores["ssim"].isnan().any()


@pytest.mark.parametrize("method", [Slope(), Fitted()])
def test_the_batch_size_changes_nothing(method):
    # In float64, so that what differs is the metric and not the rounding of the classifier's gradient.
    batch, explainer = batch_of(64), Explainer(method, tiny_classifier().double(), states=Fits())
    batch = dataclasses.replace(batch, x=batch.x.double())
    metric = Randomisation(stages=1)
    whole = metric(explainer, batch, None)
    for start, stop in [(0, 1), (63, 64), *((i, min(i + 7, 64)) for i in range(0, 64, 7))]:
        part = metric(explainer, part_of(batch, start, stop), None)
        for name, values in whole.curves.items():
            torch.testing.assert_close(part.curves[name], values[start:stop], rtol=0, atol=1e-8)


def test_a_classifier_without_stages_is_not_applicable():
    classifier = tiny_classifier()
    assert Randomisation().not_applicable(Slope(), classifier) is None
    classifier.stages = ()
    assert Randomisation().not_applicable(Slope(), classifier) == "classifier declares no stages"


@pytest.mark.parametrize("bad", [{"stages": 0}, {"mode": "both"}, {"target": "label"}])
def test_bad_parameters_are_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=name):
        Randomisation(**bad)
    with pytest.raises(XbenchError, match=name):
        METRICS.make(f"randomisation({name}={value!r})")
