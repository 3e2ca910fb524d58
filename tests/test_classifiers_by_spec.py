"""The classifiers torchvision, timm, checkpoint and module: what they load, what is overridden, and what they refuse."""

from __future__ import annotations

import pickle
import urllib.error

import own_models
import pytest
import safetensors.torch
import torch
import torchvision.models
from torch import nn

from xbench import CLASSIFIERS, XbenchError
from xbench.models._files import read_state
from xbench.testing import check_classifier, tiny_images

SMALL = 'torchvision(arch="shufflenet_v2_x0_5", size=64, label_space="made", '


def load(spec):
    return CLASSIFIERS.make(spec).load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of weights as users have them: of a grey network of their own, and of torchvision's with 7 classes."""
    folder = tmp_path_factory.mktemp("weights")
    state = own_models.state()
    safetensors.torch.save_file(state, folder / "grey.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "grey.pth")
    torch.save(own_models.state(classes=9), folder / "nine.pt")
    torch.save(own_models.Grey(), folder / "whole.pth")
    torch.save({"epoch": 3}, folder / "empty.pth")
    (folder / "text.pth").write_text("no weights")
    (folder / "text.safetensors").write_text("no weights")
    torch.manual_seed(3)
    network = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=7)
    safetensors.torch.save_file(network.state_dict(), folder / "shuffle.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _keep_the_global_generator():
    with torch.random.fork_rng(devices=[]):
        yield


GREY = 'checkpoint(path="{folder}/{file}", arch="own_models:grey", size=28, label_space="made")'


def test_untrained_networks_conform():
    check_classifier("torchvision")
    check_classifier("torchvision(arch='resnet18', weights=None, size=64, classes=5, label_space='made')")


def test_a_torchvision_transformer_conforms():
    spec = "torchvision(arch='vit_b_16', weights=None, size=32, classes=3, label_space='made')"
    with pytest.MonkeyPatch.context() as patch:  # one of 12 layers
        patch.setattr(torchvision.models, "get_model", tiny_vit)
        check_classifier(spec)


def tiny_vit(_arch, weights, image_size, num_classes=1000):
    assert weights is None
    module = torchvision.models.VisionTransformer(
        image_size, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=20, num_classes=num_classes
    )
    nn.init.normal_(module.heads.head.weight)  # torchvision's is 0 before the training, and so are all gradients
    return module


def test_a_timm_transformer_conforms():
    pytest.importorskip("timm")
    check_classifier("timm")
    classifier = load("timm(arch='test_vit', weights=None, size=32, label_space='made', classes=6)")
    assert (classifier.cam_layer, classifier.classes, classifier.shape) == (None, 6, (3, 32, 32))
    assert classifier.gray.flatten().tolist() == [0.5, 0.5, 0.5]
    assert load("timm(arch='test_resnet', weights=None, size=64, label_space='made')").cam_layer == "layer4"


def test_normalisation_and_stages_are_those_of_the_architecture():
    classifier = load("torchvision(arch='resnet18', weights=None, size=64, label_space='made')")
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert classifier.cam_layer == "layer4"
    assert [stage[0] for stage in classifier.stages] == ["fc", "layer3.1.bn2", "layer2.1.bn2", "layer1.1.bn2", "bn1"]
    assert "layer4.0.conv1" in classifier.stages[0]
    assert CLASSIFIERS.make("torchvision(arch='inception_v3')").size is None


def test_overrides_are_used():
    classifier = load(
        SMALL + "weights=None, mean=(0.5, 0.5, 0.25), std=(0.5, 0.5, 0.5), cam_layer='stage2', classes=4, seed=2)"
    )
    assert classifier.gray.flatten().tolist() == [0.5, 0.5, 0.25]
    assert (classifier.cam_layer, classifier.classes, classifier.label_space) == ("stage2", 4, "made")
    assert classifier.weights_digest != load(SMALL + "weights=None, classes=4)").weights_digest
    other_seed = load(SMALL + "weights=None, classes=4, seed=1)")
    assert other_seed.weights_digest == load(SMALL + "weights=None, classes=4, seed=1)").weights_digest


def test_a_file_tells_its_number_of_logits(folder):
    classifier = load(SMALL + f'weights="{folder}/shuffle.safetensors")')
    assert classifier.classes == 7
    assert (
        classifier.name
        == SMALL.replace("size=64, label_space", 'weights="shuffle.safetensors", size=64, label_space').rstrip(", ") + ")"
    )
    same = load(f'checkpoint(path="{folder}/shuffle.safetensors", arch="shufflenet_v2_x0_5", size=64, label_space="made")')
    assert same.weights_digest == classifier.weights_digest
    assert 'checkpoint(path="shuffle.safetensors"' in same.name
    state = safetensors.torch.load_file(folder / "shuffle.safetensors")
    assert all(value.equal(state[name]) for name, value in same.module.state_dict().items())


@pytest.mark.parametrize("file", ["grey.safetensors", "grey.pth"])
def test_a_checkpoint_of_ones_own_network(folder, file):
    spec = GREY.format(folder=folder, file=file)
    check_classifier(spec)
    classifier, network = load(spec), own_models.Grey().eval()
    network.load_state_dict(own_models.state())
    torch.testing.assert_close(classifier(tiny_images(2)), network(tiny_images(2)))


def test_a_network_made_by_a_function():
    spec = "module(factory='own_models:grey', size=28, label_space='made', mean=(0.5,), std=(0.25,))"
    check_classifier(spec)
    state = torch.get_rng_state()
    classifier = load(spec)
    assert torch.get_rng_state().equal(state)
    assert (classifier.cam_layer, classifier.classes, classifier.shape) == ("block.1", 3, (1, 28, 28))


class Code:
    def __reduce__(self):
        return (print, ("code of the file runs",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    for name in ("code.pth", "raw.pt"):
        with pytest.raises(XbenchError, match=f"{name} is damaged, or holds more than tensors"):
            read_state(tmp_path / name)
    assert "code of the file runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision(arch='resnet5')", "unknown torchvision architecture 'resnet5': did you mean 'resnet50'?"),
        ("torchvision(weights='IMAGENET1K_V3')", "did you mean 'IMAGENET1K_V2'?"),
        ("torchvision(weights='absent.pth', label_space='x')", "weights file absent.pth does not exist"),
        ("torchvision(classes=5)", "classes=5: is for a file of yours or an untrained network"),
        ("torchvision(weights=None, size=0)", "size=0: must be at least 1"),
        (SMALL.replace('label_space="made", ', "") + "weights=None)", "say what its 1000 logits mean"),
        (SMALL + "weights='FOLDER/grey.safetensors')", "it misses conv1.0.weight"),
        (SMALL + "weights='FOLDER/shuffle.safetensors', classes=5)", "fc.weight (7, 1024) instead of (5, 1024)"),
        ("checkpoint(path='x.pth')", "needs a file and its architecture"),
        ("checkpoint(path='x.h5', arch='resnet18')", "must end in .safetensors, .pth or .pt"),
        ("checkpoint(path='x.pth', arch='resnet19')", "unknown architecture 'resnet19': did you mean 'resnet1"),
        ("checkpoint(path='x.pth', arch='own_models:grey')", "does not say the images' size"),
        (GREY.replace("{file}", "nine.pt"), "other shapes: out.weight (9, 8) instead of (3, 8)"),
        (GREY.replace("{file}", "whole.pth"), "holds more than tensors"),
        (GREY.replace("{file}", "empty.pth"), "holds no state dict"),
        (GREY.replace("{file}", "text.pth"), "text.pth is damaged"),
        (GREY.replace("{file}", "text.safetensors"), "text.safetensors is damaged"),
        ("module(size=28)", "needs a function and the images' size"),
        ("module(factory='own_models:grey', label_space='x')", "needs a function and the images' size"),
        ("module(factory='own_models', size=28)", "must be written package.module:function"),
        ("module(factory='own_modles:grey', size=28)", "own_modles cannot be imported (ModuleNotFoundError"),
        ("module(factory='own_models:gray', size=28)", "unknown function of own_models 'gray': did you mean 'grey'?"),
        ("module(factory='own_models:fails', size=28)", "fails (FileNotFoundError: no weights here)"),
        ("module(factory='own_models:number', size=28)", "returns a int, expected an nn.Module"),
        ("module(factory='own_models:grey', size=28)", "say what its 3 logits mean"),
        ("timm(arch='test_vti')", "unknown timm architecture 'test_vti': did you mean 'test_vit'?"),
        ("timm(arch='test_vit', weights='V2')", "valid are 'DEFAULT', None, a file"),
        ("timm(arch='test_vit', weights='absent.safetensors', label_space='x')", "absent.safetensors does not exist"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, spec, message):
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(XbenchError) as caught:
        load(spec.replace("FOLDER", str(folder)).replace("{folder}", str(folder)))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_torchvision_that_cannot_be_downloaded(monkeypatch, tmp_path):
    def offline(url, dst, **_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(XbenchError) as caught:
        load("torchvision(arch='shufflenet_v2_x0_5')")
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    name = url.rpartition("/")[2]
    assert "missing, and cannot be downloaded (<urlopen error no network>)" in str(caught.value)
    assert f"put {url} at {tmp_path / 'checkpoints' / name}" in str(caught.value)
    assert 'checkpoint(path="FILE", arch="shufflenet_v2_x0_5")' in str(caught.value)
    assert not (tmp_path / "checkpoints" / name).exists()
    (tmp_path / "checkpoints" / name).write_bytes(b"something else")
    with pytest.raises(XbenchError, match="is damaged: its sha256 does not begin with"):
        load("torchvision(arch='shufflenet_v2_x0_5')")


def test_weights_of_torchvision_that_are_there(monkeypatch, tmp_path):
    enum = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    network = torchvision.models.shufflenet_v2_x0_5(weights=None)
    nn.init.ones_(network.fc.bias)
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    monkeypatch.setattr("xbench.models.torchvision.downloaded", lambda url, arch: tmp_path / "plain.pth")
    classifier = load("torchvision(arch='shufflenet_v2_x0_5')")
    assert (classifier.label_space, classifier.shape) == ("imagenet-1k", (3, enum.transforms().crop_size[0], 224))
    assert classifier.module.fc.bias.eq(1).all()
    assert classifier.cam_layer == "conv5"


def test_weights_of_timm_that_cannot_be_downloaded(monkeypatch):
    timm = pytest.importorskip("timm")
    from huggingface_hub.constants import HF_HUB_CACHE

    def offline(*_args, pretrained, **_given):
        assert pretrained
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(XbenchError) as caught:
        load("timm(arch='test_vit')")
    message = str(caught.value)
    assert "cannot be downloaded (ConnectionError): get model.safetensors from https://huggingface.co/timm/test_vit" in message
    assert "models--timm--test_vit" in message
    assert HF_HUB_CACHE in message
    assert 'checkpoint(path="FILE", arch="test_vit")' in message
    assert len(message.splitlines()) == 1


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("xbench.models.timm.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(XbenchError, match=r'needs the extra: pip install "xbench\[timm\]"'):
        load("timm")
