"""Sample realism: against LIME's own samples and a slow loop over patches, and classifiers whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, Batch, Classifier, Explainer
from xbench.fill import make_filler
from xbench.metrics.sample_realism import SampleRealism
from xbench.perturb import stream
from xbench.rng import ImageRandom
from xbench.testing import tiny_batch, tiny_classifier


class Region(nn.Module):
    """Two classes; the softmax probability of the second is the mean of the upper left 8 x 8 pixels."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        p = x[:, :, :8, :8].mean((1, 2, 3)) + self.mean
        return torch.stack([(1 - p).log(), p.log()], 1)


def region(mean: float = 0.0) -> Classifier:
    about = {"name": "region", "label_space": "two", "std": [1.0], "cam_layer": None, "stages": []}
    return Classifier(Region(mean), shape=(1, 20, 20), classes=2, mean=[mean], **about).double()  # type: ignore[arg-type]


def explainer(classifier: Classifier, fill: str = "gray") -> Explainer:
    return Explainer(METHODS.make(f'sliding-patch(fill="{fill}")'), classifier)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 24, 31)])
@pytest.mark.parametrize("fill", ["blur", "noise", "local-mean"])
def test_equals_the_definition_image_by_image(shape: tuple[int, int, int], fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are recorded from a run of LIME itself; the patches are filled one after another."""
    classifier = tiny_classifier(shape).double()
    classifier.module.fc.weight.mul_(20)
    batch = tiny_batch(3, classifier)
    metric = SampleRealism(samples=25, patch=7, stride=5)
    scored = metric(explainer(classifier, fill), batch, None)

    seen: list[Tensor] = []

    def recording(*arguments: object) -> Tensor:
        classifier_, x, steps, mask_of, filler, _ = arguments
        seen.append(stream(classifier_, x, steps, mask_of, filler, lambda logits, _i: logits.argmax(1)))  # type: ignore[arg-type]
        return stream(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("xbench.methods.lime.stream", recording)
    lime = METHODS.make(f'lime(samples=25, fill="{fill}")')
    lime(classifier, batch.x, batch.target, ImageRandom(0, batch.ids))
    filler = make_filler(fill, classifier, batch.x, ImageRandom(0, batch.ids))
    for i in range(3):
        share = [seen[0][i, 1:].tolist().count(k) / 24 for k in range(4)]
        assert scored.curves["labels"][i].tolist() == pytest.approx(share)
        assert float(scored.scores["entropy"][i]) == pytest.approx(-sum(p * math.log(p) for p in share if p))
        assert float(scored.scores["common"][i]) == pytest.approx(sum(sorted(share)[-3:]))

        target, whole = int(batch.target[i]), float(classifier.probabilities(batch.x[i : i + 1])[0, batch.target[i]])
        position, changes, outside = 0, [], []
        for top in range(0, shape[1] - 6, 5):
            for left in range(0, shape[2] - 6, 5):
                keep = torch.ones(1, 1, *shape[1:], dtype=torch.float64)
                keep[:, :, top : top + 7, left : left + 7] = 0
                made = filler(torch.tensor([i]), torch.tensor([position]), keep)
                p = float(classifier.probabilities(batch.x[i : i + 1] * keep + made * (1 - keep))[0, target])
                changes.append(whole - p)
                boxes = batch.boxes[i].tolist()  # type: ignore[index]
                if all(left + 7 <= x0 or left >= x1 or top + 7 <= y0 or top >= y1 for x0, y0, x1, y1 in boxes):
                    outside.append(abs(whole - p))
                position += 1
        assert scored.curves["patches"][i].tolist() == pytest.approx(changes, abs=1e-12)
        assert float(scored.scores["outside"][i]) == pytest.approx(sum(outside) / len(outside))


def test_a_patch_outside_of_what_the_classifier_sees_changes_nothing() -> None:
    """p = 1 where the 8 x 8 corner is white; a black patch of 4 x 4 within it takes 1/4 away."""
    classifier = region()
    x = torch.ones(3, 1, 20, 20, dtype=torch.float64) * (1 - 1e-9)
    corner, other, nothing = ([0, 0, 8, 8], [8, 0, 20, 20], [0, 0, 20, 20])
    one = torch.ones(3, dtype=torch.int64)
    batch = Batch(["a", "b", "c"], x, one, one, [torch.tensor([box]).float() for box in (corner, other, nothing)])
    scored = SampleRealism(samples=2, patch=4, stride=4)(explainer(classifier, "zero"), batch, None)
    assert scored.scores["outside"][:2].tolist() == pytest.approx([0, (4 * 0.25 + 6 * 0) / 10], abs=1e-8)
    assert scored.scores["outside"].isnan().tolist() == [False, False, True]
    assert scored.reasons["outside"] == {2: "every patch touches a box"}
    assert scored.curves["patches"][0].view(5, 5)[:2, :2].flatten().tolist() == pytest.approx([0.25] * 4)


def test_samples_that_look_alike_have_no_entropy() -> None:
    """A fill equal to the image changes nothing: one label, in every sample; a coin's two labels have at most log 2."""
    x = torch.full((1, 1, 20, 20), 0.7, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.int64)
    scored = SampleRealism(samples=40)(explainer(region(0.7)), Batch(["a"], x, one, one), None)
    assert scored.scores["entropy"].tolist() == [0]
    assert scored.scores["common"].tolist() == [1]
    assert scored.reasons["outside"] == {0: "no boxes"}
    mixed = SampleRealism(samples=200)(explainer(region(0.2)), Batch(["a"], x, one, one), None)
    share = float(mixed.curves["labels"][0, 1])
    assert 0 < share < 1
    assert float(mixed.scores["entropy"]) == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))


def test_batches_change_nothing_and_passes_are_what_cost_says() -> None:
    classifier = tiny_classifier()
    batch = tiny_batch(4, classifier)
    metric, bound = SampleRealism(samples=10, stride=5), explainer(classifier, "blur")
    expected = metric(bound, batch, None)
    for size in (1, 7, 64):
        classifier.batch_size = size
        before = classifier.passes.copy()
        scored = metric(bound, batch, None)
        assert classifier.passes - before == metric.cost(bound.method, classifier) * 4
        for name, values in expected.scores.items():
            torch.testing.assert_close(scored.scores[name], values, rtol=0, atol=1e-5)


def test_only_methods_with_a_fill_have_a_score() -> None:
    metric, classifier = METRICS.make("sample-realism"), tiny_classifier((3, 64, 64))
    assert metric.not_applicable(METHODS.make("gradient"), classifier) == "no fill"
    assert metric.not_applicable(METHODS.make("lime"), classifier) is None
    assert "no inpainter ships" in str(metric.not_applicable(METHODS.make('lime(fill="inpaint")'), classifier))
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        SampleRealism(stride=0)


def test_digits_at_the_defaults() -> None:
    """Every digit has patches beside its box; the inpainter leaves the black margin as it is, gray does not."""
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    ids = list(subset.ids[:4])
    x, label, boxes = subset.read(ids)
    batch = Batch(ids, x, label, classifier.probabilities(x).argmax(1), boxes)
    outside = {
        fill: SampleRealism(samples=10)(explainer(classifier, fill), batch, None).scores["outside"]
        for fill in ("gray", "inpaint")
    }
    assert not outside["gray"].isnan().any()
    assert float(outside["inpaint"].mean()) < 0.1 * float(outside["gray"].mean())
