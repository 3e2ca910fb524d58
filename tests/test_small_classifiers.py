"""The small classifiers: their networks against the papers' tables, and the recipe on images that are easy to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xbench import CLASSIFIERS, DATASETS, XbenchError
from xbench.models._small import SmallClassifier
from xbench.testing import check_classifier, tiny_images
from xbench.weights import load_weights, save_weights


def made(name, path, **parameters):
    """The classifier with random weights in a file."""
    entry = CLASSIFIERS.get(name)(**parameters)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = entry.network().state_dict()
        for tensor in state.values():
            if tensor.ndim == 1:  # a fresh batch norm is what randomising gives
                tensor += 0.1 + 0.2 * torch.rand(tensor.shape)
        save_weights(path, state, {})
    return entry.replace(weights=str(path))


def stripes(root, size=(32, 32), images=24, mode="RGB"):
    """Three classes in train and test: stripes across, stripes down, and a checkerboard, of random colours."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[: size[1], : size[0]] // 4 % 2
    for part, count in (("train", images), ("test", 8)):
        for name, pattern in (("across", y), ("down", x), ("squares", (x + y) % 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                low, high = draw.integers(0, 90, 3), draw.integers(160, 256, 3)
                pixels = np.where(pattern[..., None] > 0, high, low).astype(np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i}.png")
    return root


@pytest.mark.parametrize("parameters", [{"channels": 1, "size": 28, "classes": 4}, {"size": 64}])
def test_conforms_at_other_sizes(tmp_path, parameters):
    check_classifier(made("resnet8", tmp_path / "w", **parameters).spec)


@pytest.mark.parametrize("size", [28, 32, 33, 64])
def test_vgg_takes_images_of_other_sizes(tmp_path, size):
    classifier = made("vgg16-small", tmp_path / "w", channels=1, size=size, classes=3).load()
    assert classifier(tiny_images(1, (1, size, size))).shape == (1, 3)


def test_parameters_are_as_many_as_in_the_papers():
    """Counted by layer: a 3 x 3 convolution has 9 in out, a batch norm 2 out, the linear layer in out + out."""
    layers_in_all = {"resnet8": 8, "resnet20": 20, "vgg16-small": 14}  # of VGG's three linear layers one is left
    convolutions = {
        "resnet8": [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)],
        "resnet20": [(3, 16)] + [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5,
        "vgg16-small": [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)]
        + [(256, 256)] * 2 + [(256, 512)] + [(512, 512)] * 5,
    }  # fmt: skip
    for name, layers in convolutions.items():
        module = CLASSIFIERS.get(name)().network()
        wide = layers[-1][1]
        expected = sum(9 * a * b + 2 * b for a, b in layers) + 11 * wide - wide + 10
        assert sum(p.numel() for p in module.parameters()) == expected
        found = [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
        assert found == layers
        assert len(layers) + 1 == layers_in_all[name]


def test_vgg_is_convolutions_poolings_and_one_linear_layer(tmp_path):
    classifier = made("vgg16-small", tmp_path / "w").load()
    state = {name: tensor.double() for name, tensor in classifier.module.state_dict().items()}
    images = tiny_images(1, (3, 32, 32))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    x = (images.double() - mean) / std
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            kernel, bn = state[f"block{block}.conv{i}.weight"], f"block{block}.bn{i}"
            b, _, h, w = x.shape
            x = (kernel.flatten(1) @ torch.nn.functional.unfold(x, 3, padding=1)).view(b, -1, h, w)
            scale = state[f"{bn}.weight"] / (state[f"{bn}.running_var"] + 1e-5).sqrt()
            shift = state[f"{bn}.bias"] - state[f"{bn}.running_mean"] * scale
            x = (x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    expected = x[..., 0, 0] @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(classifier(images).double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("mode", "size"), [("RGB", 16), ("L", 20)])
def test_the_recipe_learns_from_a_folder_and_says_how_to_use_what_it_made(xbench, tmp_path, mode, size):
    spec = f'imagefolder(path="{stripes(tmp_path / "images", (size, size), mode=mode)}"' + (
        ", channels=1)" if mode == "L" else ")"
    )
    done = xbench("fit-classifier", "resnet8", "--dataset", spec, "--epochs", "40", "--out", tmp_path / "net.safetensors")
    assert done.status == 0, done.err
    used = done.out.split("use it as: ")[1].strip()
    classifier, test = CLASSIFIERS.make(used).load(), DATASETS.make(spec).load("test")
    assert (classifier.shape, classifier.label_space, classifier.classes) == (test.shape, test.label_space, 3)
    x, label, _ = test.read(test.ids)
    accuracy = float((classifier.probabilities(x).argmax(1) == label).float().mean())
    assert accuracy > 0.9
    assert f"accuracy on {spec}:test {accuracy:.4f}" in done.out
    assert load_weights(tmp_path / "net.safetensors")[1]["accuracy"] == round(accuracy, 4)


def test_two_fits_with_one_seed_are_identical_and_leave_the_random_state_alone(tmp_path):
    data = DATASETS.get("imagefolder")(path=str(stripes(tmp_path / "images", (16, 16), 6)))
    train, test = data.load("train"), data.load("test")
    before = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        entry = CLASSIFIERS.make("resnet8").suited_to(train)
        entry.fit(train, test, tmp_path / name, seed=seed, epochs=1, report=lambda line: None)
    assert torch.get_rng_state().equal(before)
    a, b, c = (load_weights(tmp_path / name)[2] for name in "abc")
    assert a == b != c


def test_a_training_that_diverges_is_named(tmp_path, monkeypatch):
    data = DATASETS.get("imagefolder")(path=str(stripes(tmp_path / "images", (16, 16), 2)))
    entry = CLASSIFIERS.make("resnet8").suited_to(data.load("train"))
    monkeypatch.setattr(SmallClassifier, "_varied", lambda self, x, draws: x * float("nan"))
    with pytest.raises(XbenchError, match=r"training resnet8\(.*\) diverged in epoch 1"):
        entry.fit(data.load("train"), data.load("test"), tmp_path / "w", seed=0, epochs=1, report=print)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet20", "--out", "x"), "the recipe of 'resnet20' has no dataset of its own: name one with --dataset"),
        (("vgg16-small", "--out", "x", "--dataset", "cifra10"), "unknown dataset 'cifra10': did you mean 'cifar10'?"),
        (("resnet8", "--out", "x", "--dataset", "photos"), "unknown part of dataset 'photos' 'train'"),
        (("resnet8", "--out", "x", "--dataset", "mnist", "--device", "cuda:77"), "device 'cuda:77' cannot be used"),
        (("resnet8(channels=2)", "--out", "x", "--dataset", "mnist"), "resnet8(channels=...): given 2"),
        (("resnet8(size=4)", "--out", "x", "--dataset", "mnist"), "size=4: must be at least 8"),
    ],
)
def test_a_fit_that_cannot_be_is_named(xbench, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = xbench("fit-classifier", *words)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert message in done.err


def test_images_that_are_not_square_are_named(tmp_path):
    train = DATASETS.get("imagefolder")(path=str(stripes(tmp_path / "images", (32, 24), 1))).load("train")
    with pytest.raises(XbenchError, match=r"takes square images, .* has 32 x 24: give its size"):
        CLASSIFIERS.make("resnet8").suited_to(train)


def test_without_weights_the_message_says_how_to_make_them():
    with pytest.raises(XbenchError, match="xbench fit-classifier vgg16-small --dataset D --out FILE"):
        CLASSIFIERS.make("vgg16-small").load()
