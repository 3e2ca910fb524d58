"""What is found in a network by itself: feature maps, stages, logits; on the usual architectures and a user's own."""

from __future__ import annotations

import own_models
import pytest
import torch
import torchvision.models

from xbench import METHODS, ImageRandom, XbenchError
from xbench.models._found import channels_of, classifier_of, seeded
from xbench.testing import tiny_images

USUAL = {"mean": None, "std": None, "label_space": "some", "cam_layer": None}


def found(module, size, **changed):
    given = {"name": "found", "size": size, "channels": channels_of(module), **USUAL, **changed}
    return classifier_of(module, **given)


@pytest.mark.parametrize(
    ("arch", "size", "layer"),
    [
        ("resnet18", 64, "layer4"),
        ("mobilenet_v3_small", 64, "features"),
        ("densenet121", 64, "features"),
        ("squeezenet1_1", 64, "classifier.2"),
        ("shufflenet_v2_x0_5", 64, "conv5"),
        ("mnasnet0_5", 64, "layers"),
        ("alexnet", 64, "features.11"),
    ],
)
def test_the_last_feature_maps_of_the_usual_networks(arch, size, layer):
    classifier = found(seeded(lambda: torchvision.models.get_model(arch, weights=None, num_classes=7)), size)
    assert classifier.cam_layer == layer
    assert (classifier.classes, classifier.shape) == (7, (3, size, size))
    assert 1 <= len(classifier.stages) <= 5


def vit(**given):
    return torchvision.models.VisionTransformer(
        32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=20, num_classes=4, **given
    )


def test_a_vision_transformer_has_no_feature_maps_and_all_of_it_in_stages():
    classifier = found(seeded(vit), 32)
    assert classifier.cam_layer is None
    stages = [set(stage) for stage in classifier.stages]
    assert len(stages) == 5
    assert "heads.head" in stages[0]
    assert {"", "encoder", "conv_proj"} <= stages[-1]  # class token, position embedding, patch embedding
    owners = {n for n, m in classifier.module.named_modules() if [*m.parameters(recurse=False)]}
    assert set.union(*stages) == owners
    assert sum(map(len, stages)) == len(owners)


def test_a_swin_transformer_has_feature_maps_in_its_permuted_output():
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=4)
    assert found(swin, 64).cam_layer == "permute"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("arch", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_attention_is_not_taken_for_feature_maps(arch, fused):
    timm = pytest.importorskip("timm")
    size = 32 if arch == "test_vit" else 112
    given = {"depths": (1, 1), "embed_dim": 12, "num_heads": (2, 2)} if size == 112 else {}
    module = timm.create_model(arch, img_size=size, num_classes=4, **given)
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = fused
    assert found(module, size).cam_layer is None


def test_stages_of_vgg16_are_those_of_the_varsal_paper():
    classifier = found(seeded(lambda: torchvision.models.vgg16(weights=None, num_classes=10, init_weights=False)), 32)
    assert [len(stage) for stage in classifier.stages] == [3, 3, 3, 3, 4]
    assert classifier.stages[0] == ("classifier.6", "classifier.3", "classifier.0")
    assert classifier.stages[1][0] == "features.28"
    assert classifier.stages[-1][-1] == "features.0"
    assert classifier.cam_layer == "features.29"  # the ReLU before the last pool: 2 px at 32 px


def test_a_network_of_ones_own():
    classifier = found(seeded(own_models.grey), 28)
    assert classifier.shape == (1, 28, 28)
    assert classifier.cam_layer == "block.1"
    assert classifier.stages == (("unused",), ("out",), ("hidden",), ("block.0",), ("norm", "first"))
    x, y = tiny_images(2), torch.tensor([0, 1])
    for name in ("gradcam", "layercam", "hirescam"):
        method = METHODS.make(name)
        assert method.not_applicable(classifier) is None
        maps = method(classifier, x, y, ImageRandom(0, ["a", "b"]))
        assert maps.shape == (2, 28, 28)
        assert maps.isfinite().all()
    other = found(seeded(own_models.grey), 28, cam_layer="first")
    assert other.cam_layer == "first"
    assert other.cam_channels == 4


def test_convolutions_with_attention_behind_them_keep_their_feature_maps():
    assert found(seeded(own_models.attention_pooled), 64).cam_layer == "body"


def test_a_network_without_feature_maps_has_none():
    classifier = found(seeded(own_models.dense), 8)
    assert classifier.cam_layer is None
    assert classifier.stages == (("1",),)
    assert classifier.gray.flatten().tolist() == [0, 0, 0]


def test_nothing_is_left_on_the_network():
    module = seeded(own_models.grey)
    found(module, 28)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize(
    ("make", "size", "changed", "message"),
    [
        (own_models.grey, 32, {}, r"does not take images \(1, 32, 32\) \(RuntimeError: .*\); give the size"),
        (own_models.image_to_image, 8, {}, r"returns \(1, 3, 8, 8\) for an image, expected logits \(1, classes\)"),
        (own_models.dense, 8, {"label_space": None}, "say what its 5 logits mean"),
        (own_models.dense, 8, {"mean": (0.5,)}, "expected one value for each of the 3 channels"),
        (own_models.dense, 8, {"mean": (123.7, 116.8, 103.9)}, r"must be in \[0, 1\], the unit of pixels"),
        (own_models.dense, 8, {"std": (0.2, 0.0, 0.2)}, "and not 0"),
        (own_models.grey, 28, {"cam_layer": "hidden"}, r"cam_layer 'hidden' .* gives \(1, 8\), expected \(b, c, h, w\)"),
        (own_models.grey, 28, {"cam_layer": "unused"}, "is not used, or gives no tensor"),
        (own_models.grey, 28, {"cam_layer": "conv"}, "has no layer 'conv'; it has: first, norm"),
    ],
)
def test_what_does_not_fit_is_named(make, size, changed, message):
    module = seeded(make)
    with pytest.raises(XbenchError, match=message):
        found(module, size, **changed)
    assert not any(layer._forward_hooks for layer in module.modules())
