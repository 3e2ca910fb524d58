"""The CIFAR ResNet-20, against its definition written out, an analytic network and wrong files; and a run on own images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import Outcome
from PIL import Image
from torch import Tensor

from xbench import CLASSIFIERS, Classifier, XbenchError
from xbench.testing import check_classifier, tiny_images

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def random_state(classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state dict written from the paper's table 6: 1 + 3 x 3 x 2 convolutions, each with batch norm, and a linear layer."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, narrow: int, wide: int) -> None:
        state[f"{convolution}.weight"] = torch.randn((wide, narrow, 3, 3), generator=draw) / (9 * narrow) ** 0.5
        state[f"{norm}.weight"] = 0.5 + torch.rand(wide, generator=draw)
        state[f"{norm}.bias"] = 0.3 * torch.randn(wide, generator=draw)
        state[f"{norm}.running_mean"] = 0.3 * torch.randn(wide, generator=draw)
        state[f"{norm}.running_var"] = 0.5 + torch.rand(wide, generator=draw)

    layer("conv1", "bn1", 3, 16)
    for group, wide in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            narrow = wide // 2 if block == 0 and group > 1 else wide
            layer(f"layer{group}.{block}.conv1", f"layer{group}.{block}.bn1", narrow, wide)
            layer(f"layer{group}.{block}.conv2", f"layer{group}.{block}.bn2", wide, wide)
    state["linear.weight"] = torch.randn((classes, 64), generator=draw) / 8
    state["linear.bias"] = torch.randn(classes, generator=draw)
    return state


def weights_file(path: Path, *, favourite: int | None = None, **parameters: int) -> Path:
    """Random weights in a file; those of a ``favourite`` class predict it for every image."""
    state = random_state(**parameters)
    if favourite is not None:
        state["linear.weight"] *= 1e-3
        state["linear.bias"][favourite] = 20.0
    safetensors.torch.save_file(state, path)
    return path


def load(path: Path, **parameters: object) -> Classifier:
    return CLASSIFIERS.get("resnet20")(weights=str(path), **parameters).load()


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits of images in [0, 1], written from section 4.2 of He et al. 2016 in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def normalised(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.weight"]
        windows = F.unfold(x, 3, padding=1, stride=stride)
        side = -(-x.shape[2] // stride)
        return (kernel.flatten(1) @ windows).view(len(x), -1, side, side)

    x = (x.double() - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = normalised(convolved(x, "conv1"), "bn1").clamp(min=0)
    for group, wide in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            name, stride = f"layer{group}.{block}", 2 if block == 0 and group > 1 else 1
            inner = normalised(convolved(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            inner = normalised(convolved(inner, f"{name}.conv2"), f"{name}.bn2")
            shortcut = torch.zeros_like(inner)
            front = (wide - x.shape[1]) // 2
            shortcut[:, front : front + x.shape[1]] = x[:, :, ::stride, ::stride]
            x = (inner + shortcut).clamp(min=0)
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_conforms(tmp_path):
    check_classifier(f'resnet20(weights="{weights_file(tmp_path / "net.safetensors")}")')
    check_classifier(f'resnet20(weights="{weights_file(tmp_path / "net7.safetensors", classes=7)}", classes=7)')


def test_logits_are_those_of_the_definition(tmp_path):
    classifier = load(weights_file(tmp_path / "net.safetensors"))
    x = tiny_images(3, (3, 32, 32))
    expected = reference(random_state(), x)
    torch.testing.assert_close(classifier(x).double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(classifier.double()(x.double()), expected, atol=1e-6, rtol=1e-6)


def test_shortcuts_alone_carry_subsampled_channels_to_the_middle(tmp_path):
    """With blocks whose convolutions give 0, channel 24 + i of the end is channel i of the start, every 4th pixel."""
    state = random_state()
    for name, tensor in state.items():
        if name.endswith(("bn2.weight", "bn2.bias")):
            tensor.zero_()
        if name.endswith("bn2.running_mean"):
            tensor.zero_()
    state["conv1.weight"].zero_()
    for channel in range(3):
        state["conv1.weight"][channel, channel, 1, 1] = 1.0
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0 - 1e-5)):
        state[f"bn1.{name}"].fill_(value)
    state["linear.weight"].zero_()
    state["linear.bias"].zero_()
    for channel in range(3):
        state["linear.weight"][channel, 24 + channel] = 1.0
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    classifier = load(tmp_path / "net.safetensors")
    x = tiny_images(2, (3, 32, 32))
    seen = ((x - classifier.mean) / classifier.std).clamp(min=0)[:, :, ::4, ::4].mean((2, 3))
    torch.testing.assert_close(classifier(x), F.pad(seen, (0, 7)))


def test_activation_maps_are_rectified_and_layers_hold_their_own_relus(tmp_path):
    classifier = load(weights_file(tmp_path / "net.safetensors"))
    maps: list[Tensor] = []
    calls: dict[str, int] = {}
    with classifier.target_layer().register_forward_hook(lambda _module, _inputs, output: maps.append(output)):
        classifier(tiny_images(2, (3, 32, 32)))
    assert maps[0].shape == (2, 64, 8, 8)
    assert maps[0].min() == 0
    relus = [module for module in classifier.module.modules() if isinstance(module, torch.nn.ReLU)]
    for i, relu in enumerate(relus):
        relu.register_forward_hook(lambda *_words, i=i: calls.update({str(i): calls.get(str(i), 0) + 1}))
    classifier(tiny_images(1, (3, 32, 32)))
    assert calls == {str(i): 1 for i in range(19)}


def test_stages_run_from_the_output_to_the_input(tmp_path):
    classifier = load(weights_file(tmp_path / "net.safetensors"))
    assert [len(stage) for stage in classifier.stages] == [1, 12, 12, 12, 2]
    assert classifier.stages[0] == ("linear",)
    assert classifier.stages[1][:4] == ("layer3.2.bn2", "layer3.2.conv2", "layer3.2.bn1", "layer3.2.conv1")
    assert classifier.stages[4] == ("bn1", "conv1")


def test_name_and_digest(tmp_path):
    """The name leaves the folder out; the digest is of the function: batch norm's counters and half precision change it not."""
    classifier = load(weights_file(tmp_path / "net.safetensors"), label_space="pets")
    assert classifier.name == 'resnet20(weights="net.safetensors", label_space="pets")'
    counted = random_state() | {f"layer1.{i}.bn1.num_batches_tracked": torch.tensor(64000) for i in range(3)}
    safetensors.torch.save_file(counted, tmp_path / "counted.safetensors")
    assert load(tmp_path / "counted.safetensors").weights_digest == classifier.weights_digest
    half = {name: tensor.half() for name, tensor in random_state().items()}
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    assert load(tmp_path / "half.safetensors").module.linear.weight.dtype == torch.float32
    assert load(weights_file(tmp_path / "other.safetensors", seed=1)).weights_digest != classifier.weights_digest


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    path = weights_file(tmp_path / "net.safetensors")
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet20", 'needs a file of weights: resnet20(weights="FILE.safetensors")'),
        ("resnet20(weights=None)", 'needs a file of weights: resnet20(weights="FILE.safetensors")'),
        ('resnet20(weights="absent.safetensors")', "weights file absent.safetensors does not exist"),
        ('resnet20(weights="PATH")', "weights file {folder} is damaged or no file of weights"),
        ('resnet20(weights="PATH/x.pth")', "x.pth is damaged, or holds more than tensors, which could run code"),
        ('resnet20(weights="PATH/cut.safetensors")', "cut.safetensors is damaged or no file of weights"),
        (
            'resnet20(weights="PATH/net.safetensors", classes=100)',
            "it has other shapes: linear.weight (10, 64) instead of (100, 64), linear.bias (10,) instead of (100,)",
        ),
        (
            'resnet20(weights="PATH/module.safetensors")',
            "it misses conv1.weight, bn1.weight, bn1.bias, bn1.running_mean ...; it",
        ),
        ('resnet20(weights="PATH/module.safetensors")', "it has the unexpected module."),
        ('resnet20(weights="PATH/less.safetensors")', "it misses layer2.1.bn1.running_var"),
        ('resnet20(weights="PATH/net.safetensors", classes=0)', "classes=0: must be at least 1"),
        ('resnet20(weights="PATH/net.safetensors", label_space="")', "label_space='': must name what the logits mean"),
        ("resnet20(weight=3)", "unknown parameter of resnet20 'weight': did you mean 'weights'?"),
    ],
)
def test_wrong_weights_are_named(tmp_path, spec, message):
    data = weights_file(tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    state = random_state()
    torch.save(random_state, tmp_path / "x.pth")
    safetensors.torch.save_file({f"module.{name}": t for name, t in state.items()}, tmp_path / "module.safetensors")
    del state["layer2.1.bn1.running_var"]
    safetensors.torch.save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(XbenchError) as caught:
        CLASSIFIERS.make(spec.replace("PATH", str(tmp_path))).load()
    assert message.format(folder=tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def cifar_tree(root: Path, classes: Sequence[str] = CIFAR10) -> Path:
    for folder in [root / part / name for part in ("train", "test") for name in classes]:
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (len(folder.name) * 20, 80, 160)).save(folder / "a.png")
    return root


def test_from_a_folder_to_a_board(xbench: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cifar_tree(tmp_path / "images")
    # A bias makes the network sure of class 3 whatever the image, so that the rule chooses the images of that class.
    weights_file(tmp_path / "net.safetensors", favourite=3)
    classifier = 'resnet20(weights="net.safetensors")'
    words = ("--images", "1", "--heldout", "0", "--out", "subset.json")
    done = xbench("subset", 'imagefolder(path="images")', "-c", classifier, *words)
    assert done.status == 0, done.err
    assert list(json.loads((tmp_path / "subset.json").read_text())["evaluation"]) == ["test/cat/a.png"]
    suite = tmp_path / "mine.toml"
    suite.write_text('title = "t"\ndescription = "d"\ndataset = "mnist"\nclassifier = "mnist-cnn"\n[[metrics]]\nspec = "area"')
    data = ("--dataset", 'subset(file="subset.json")')
    words = ("--suite", suite, "-c", classifier, "-m", "gradient", "--store", "store", "--batch-size", "4")
    done = xbench("run", *data, *words)
    assert done.status == 0, done.err
    assert 'subset subset(file="subset.json"); classifier resnet20(weights="net.safetensors")' in done.out
    assert "1 cells, 0 failed" in done.out
    data = ("--dataset", f'subset(file="{tmp_path}/subset.json", path="{tmp_path}/images")')
    assert "1 stored, 0 not applicable, 0 to compute" in xbench("plan", *data, *words).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("images",), "has no classifier of its own: name one with --classifier"),
        (("images", "-c", "mnist-cnn"), "has images (3, 32, 32), classifier 'mnist-cnn' takes (1, 28, 28)"),
        (("pets", "-c", "NET"), "classifier 'resnet20(weights=\"net.safetensors\")' has 'cifar-10'"),
        (("images", "-c", "NET"), "are predicted correctly with p > 0.5; 500 were asked for"),
    ],
)
def test_a_choice_of_images_that_cannot_be_made(xbench, tmp_path, words, message):
    cifar_tree(tmp_path / "images")
    cifar_tree(tmp_path / "pets", ["cat", "dog"])
    net = f'resnet20(weights="{weights_file(tmp_path / "net.safetensors")}")'
    folder, *others = [word.replace("NET", net) for word in words]
    done = xbench("subset", f'imagefolder(path="{tmp_path / folder}")', *others)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert message in done.err
