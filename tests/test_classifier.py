"""The classifier noun: normalisation, counted passes, randomisation, digests, and the errors; and subsets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xbench import Classifier, NotApplicable, Subset, XbenchError
from xbench.batches import default_batch_size
from xbench.classifier import Passes
from xbench.subset import confident_ids
from xbench.testing import tiny_classifier, tiny_images, tiny_transformer


def build(**changes: object) -> Classifier:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5))
    module[1].running_mean.fill_(0.3)
    nn.init.constant_(module[1].weight, 2.0)
    module.train()
    given = {
        "name": "built",
        "shape": (2, 6, 6),
        "classes": 5,
        "label_space": "five",
        "mean": [0.2, 0.4],
        "std": [0.5, 0.1],
        "cam_layer": "0",
        "stages": [["4"], ["1", "0"]],
    }
    return Classifier(module, **{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _keep_the_global_generator() -> object:
    with torch.random.fork_rng(devices=[]):
        yield


def test_it_is_frozen_in_eval_mode() -> None:
    classifier = build()
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_it_owns_its_normalisation() -> None:
    classifier = build()
    x = torch.rand(3, 2, 6, 6)
    mean, std = torch.tensor([0.2, 0.4]).view(2, 1, 1), torch.tensor([0.5, 0.1]).view(2, 1, 1)
    torch.testing.assert_close(classifier(x), classifier.module((x - mean) / std))
    assert classifier.gray.equal(mean)
    zero = classifier.module(torch.zeros(1, 2, 6, 6))
    torch.testing.assert_close(classifier(classifier.gray.expand(1, 2, 6, 6)), zero)


@pytest.mark.parametrize("shape", [(1, 3, 6, 6), (1, 2, 6, 7), (2, 6, 6), (1, 1, 2, 6, 6)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(XbenchError) as caught:
        build()(torch.zeros(shape))
    assert str(caught.value).startswith("classifier 'built' takes images")
    assert "(2, 6, 6)" in str(caught.value)
    assert str(caught.value).endswith(f"got {shape}")


def test_a_layer_that_does_not_exist_is_named_with_those_that_do() -> None:
    for change in ({"cam_layer": "9"}, {"stages": [["4"], ["9"]]}):
        with pytest.raises(XbenchError, match="classifier 'built' has no layer '9'; it has: 0, 1, 2, 3, 4"):
            build(**change)
    with pytest.raises(NotApplicable, match="declares no cam_layer; it has: 0, 1, 2, 3, 4"):
        build(cam_layer=None).target_layer()
    classifier = build()
    assert classifier.target_layer() is classifier.module[0]


def test_a_long_list_of_layers_is_shown_from_its_end() -> None:
    module = nn.Sequential(nn.Flatten(), *(nn.Identity() for _ in range(30)), nn.Linear(72, 5))
    with pytest.raises(NotApplicable, match=r"it has: \.\.\., 12, 13, .*, 31; name one whose output is \(b, c, h, w\)"):
        Classifier(
            module,
            name="deep",
            shape=(2, 6, 6),
            classes=5,
            label_space="five",
            mean=[0, 0],
            std=[1, 1],
            cam_layer=None,
            stages=[],
        ).target_layer()


def test_feature_maps_are_counted_without_a_counted_pass() -> None:
    classifier = build().double()
    assert classifier.cam_channels == 3
    assert build(cam_layer=None).cam_channels == 0
    assert classifier.passes == Passes()
    assert not any(module._forward_hooks for module in classifier.modules())
    with pytest.raises(XbenchError, match=r"cam_layer '3' of classifier 'built' gives \(1, 48\), expected \(b, c, h, w\)"):
        _ = build(cam_layer="3").cam_channels


def test_passes_are_counted_in_images() -> None:
    classifier = build()
    x = torch.rand(5, 2, 6, 6)
    classifier(x)
    assert classifier.passes == Passes(5, 0)
    with torch.no_grad():
        classifier(x[:2].requires_grad_())
    assert classifier.passes == Passes(7, 0)
    leaf = x.clone().requires_grad_()
    logits = classifier(leaf)
    assert classifier.passes == Passes(12, 0)
    torch.autograd.grad(logits.sum(), leaf)
    assert classifier.passes == Passes(12, 5)
    before = classifier.passes.copy()
    classifier.probabilities(x)
    assert classifier.passes - before == Passes(5, 0)
    assert (Passes(1, 2) + Passes(3, 4)) * 2 == Passes(8, 12)


def test_probabilities_come_in_batches_and_without_gradients() -> None:
    classifier, sizes = build(), []
    classifier.module.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    x = torch.rand(7, 2, 6, 6, requires_grad=True)
    expected = classifier(x).softmax(1).detach()
    sizes.clear()
    classifier.batch_size = 3
    found = classifier.probabilities(x)
    assert sizes == [3, 3, 1]
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_randomised_changes_the_named_layers_and_nothing_else() -> None:
    classifier = build()
    original = {key: value.clone() for key, value in classifier.module.state_dict().items()}
    twin = classifier.randomised(["1", "0"], seed=0)
    changed = {key for key, value in twin.module.state_dict().items() if not value.equal(original[key])}
    assert changed == {"0.weight", "0.bias", "1.weight", "1.running_mean"}  # the other batch-norm values were at their reset
    assert all(value.equal(original[key]) for key, value in classifier.module.state_dict().items())
    assert twin.weights_digest != classifier.weights_digest
    assert not any(p.requires_grad for p in twin.parameters())


def test_randomised_is_reproducible_and_keyed_by_layer() -> None:
    classifier = build()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = classifier.randomised(["4"], seed=0).module.state_dict()
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    both = classifier.randomised(["0", "4"], seed=0).module.state_dict()
    assert one["4.weight"].equal(both["4.weight"])  # whatever else is randomised, and the global generator
    assert not one["4.weight"].equal(classifier.randomised(["4"], seed=1).module.state_dict()["4.weight"])


def test_a_layer_that_cannot_be_randomised_is_named() -> None:
    with pytest.raises(XbenchError, match=r"layer '2' of classifier 'built' \(ReLU\) has no reset_parameters"):
        build().randomised(["2"], seed=0)


def test_parameters_without_reset_are_drawn_anew_at_their_scale() -> None:
    classifier = tiny_transformer()
    classifier.module.position.fill_(-3.0)
    classifier.module.token.zero_()
    twin = classifier.randomised([""], seed=0).module
    before = classifier.module.state_dict()
    assert [name for name, value in twin.state_dict().items() if not value.equal(before[name])] == ["token", "position"]
    assert abs(twin.position.mean()) < 1.0
    assert abs(twin.position.square().mean().sqrt() - 3) < 0.5
    assert abs(twin.token.square().mean().sqrt() - 0.02) < 0.01
    twin = classifier.randomised(["attentions.0"], seed=0).module
    changed = [name for name, value in twin.state_dict().items() if not value.equal(before[name])]
    assert changed == ["attentions.0.in_proj_weight", "attentions.0.in_proj_bias"]


def test_the_passes_of_a_randomised_copy_are_counted_with_the_original() -> None:
    classifier = build()
    classifier.randomised(["4"], seed=0)(torch.rand(3, 2, 6, 6))
    assert classifier.passes == Passes(3, 0)


def test_weights_digest_covers_weights_buffers_and_normalisation() -> None:
    digest = build().weights_digest
    assert build().weights_digest == digest
    assert build(name="other").weights_digest == digest
    assert build(mean=[0.2, 0.5]).weights_digest != digest
    assert build(std=[0.5, 0.2]).weights_digest != digest
    for change in ("0.bias", "1.running_var"):
        classifier = build()
        classifier.module.state_dict()[change][0] += 1e-3
        assert classifier.weights_digest != digest


@pytest.mark.parametrize(
    ("size", "device", "expected"), [(28, "cpu", 256), (32, "cpu", 256), (224, "cpu", 4), (5000, "cpu", 1)]
)
def test_default_batch_size_is_a_power_of_two(size: int, device: str, expected: int) -> None:
    assert default_batch_size((3, size, size), device) == expected


def subset_of(x: Tensor, label: Tensor) -> Subset:
    ids = tuple(f"i{n}" for n in range(len(x)))

    def read(wanted: object) -> tuple[Tensor, Tensor, None]:
        index = torch.tensor([int(i[1:]) for i in wanted])  # type: ignore[attr-defined]
        return x[index], label[index], None

    return Subset("toy", ids, tuple(x.shape[1:]), "tiny-4", "0" * 64, read)  # type: ignore[arg-type]


def test_subset_digest_covers_source_ids_and_order() -> None:
    subset = subset_of(tiny_images(3), torch.zeros(3, dtype=torch.long))
    digests = [subset.digest(), subset.digest(["i0", "i1"]), subset.digest(["i1", "i0"])]
    assert len(set(digests)) == 3
    assert subset.digest(subset.ids) == digests[0]


def test_a_subset_gives_its_first_images_or_says_how_many_it_has() -> None:
    subset = subset_of(tiny_images(3), torch.zeros(3, dtype=torch.long))
    assert subset.first(2) == ("i0", "i1")
    assert subset.first(None) == subset.ids
    with pytest.raises(XbenchError, match="subset 'toy' has 3 images, 4 were asked for"):
        subset.first(4)


def test_confident_ids_are_correct_and_above_the_threshold() -> None:
    classifier = tiny_classifier()
    x = tiny_images(40)
    confidence, predicted = classifier.probabilities(x).max(1)
    threshold = float(confidence.median())
    label = torch.where(torch.arange(40) % 3 == 0, (predicted + 1) % 4, predicted)
    expected = [f"i{n}" for n in range(40) if n % 3 and confidence[n] > threshold]
    assert 5 < len(expected) < 30
    assert confident_ids(subset_of(x, label), classifier, threshold) == expected
