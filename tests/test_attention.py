"""Attention rollout and attention x gradient against transformers computed by hand, head by head, and known answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from perturbed import assert_batch_invariant, ids
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from xbench import METHODS, Classifier, ImageRandom, NotApplicable
from xbench.classifier import Passes
from xbench.guard import changes
from xbench.methods._attention import Watch, grid
from xbench.testing import tiny_classifier, tiny_images, tiny_transformer
from xbench.testing.method import _once, _Subject
from xbench.testing.state import snapshot

NAMES = ("attention-rollout", "attention-x-gradient")


def attend(z: Tensor, weight: Tensor, bias: Tensor, out: nn.Linear, heads: int, seen: list[Tensor]) -> Tensor:
    """Self-attention of tokens (n, d), one head after the other; the probabilities go to ``seen`` (heads, n, n)."""
    q, k, v = (z @ weight.T + bias).chunk(3, 1)
    size = z.shape[1] // heads
    p = torch.stack(
        [
            (q[:, h * size : (h + 1) * size] @ k[:, h * size : (h + 1) * size].T / math.sqrt(size)).softmax(1)
            for h in range(heads)
        ]
    )
    p.retain_grad()
    seen.append(p)
    return out(torch.cat([p[h] @ v[:, h * size : (h + 1) * size] for h in range(heads)], 1))


def by_hand_tiny(module: nn.Module, image: Tensor, seen: list[Tensor]) -> Tensor:
    z = torch.cat([module.token[0], module.embedding(image[None])[0].flatten(1).T]) + module.position[0]
    for i, attention in enumerate(module.attentions):
        n = module.norms[2 * i](z)
        z = z + attend(n, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj, 3, seen)
        z = z + module.mlps[i](module.norms[2 * i + 1](z))
    return module.head(z[0])


def by_hand_torchvision(module: nn.Module, image: Tensor, seen: list[Tensor]) -> Tensor:
    z = module.conv_proj(image[None])[0].flatten(1).T
    z = torch.cat([module.class_token[0], z]) + module.encoder.pos_embedding[0]
    for block in module.encoder.layers:
        mixer = block.self_attention
        z = z + attend(block.ln_1(z), mixer.in_proj_weight, mixer.in_proj_bias, mixer.out_proj, mixer.num_heads, seen)
        z = z + block.mlp(block.ln_2(z))
    return module.heads(module.encoder.ln(z)[0])


def by_hand_timm(module: nn.Module, image: Tensor, seen: list[Tensor]) -> Tensor:
    z = module.patch_embed.proj(image[None])[0].flatten(1).T
    z = (torch.cat([module.cls_token[0], z]) if module.cls_token is not None else z) + module.pos_embed[0]
    for block in module.blocks:
        mixer = block.attn
        z = z + attend(block.norm1(z), mixer.qkv.weight, mixer.qkv.bias, mixer.proj, mixer.num_heads, seen)
        z = z + block.mlp(block.norm2(z))
    return module.head(module.norm(z)[0] if module.cls_token is not None else module.fc_norm(z.mean(0)))


def wrapped(module: nn.Module, size: int = 32) -> Classifier:
    return Classifier(
        module,
        name="vit",
        shape=(3, size, size),
        classes=4,
        label_space="four",
        mean=[0.5] * 3,
        std=[0.25] * 3,
        cam_layer=None,
        stages=[],
    )


def torchvision_vit() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=20, num_classes=4)
        nn.init.normal_(module.heads.head.weight)
        nn.init.normal_(module.class_token)
    return wrapped(module)


def timm_vit(fused: bool = True, **changed: object) -> Classifier:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 4, **changed}
        module = timm.models.vision_transformer.VisionTransformer(**given)
        nn.init.normal_(module.head.weight)
        for block in module.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=0.3)
            block.attn.fused_attn = fused
    return wrapped(module)


CASES: list[tuple[Callable[[], Classifier], Callable[[nn.Module, Tensor, list[Tensor]], Tensor]]] = [
    (lambda: tiny_transformer((3, 32, 32)), by_hand_tiny),
    (torchvision_vit, by_hand_torchvision),
    (timm_vit, by_hand_timm),
    (lambda: timm_vit(fused=False), by_hand_timm),
    (lambda: timm_vit(class_token=False, global_pool="avg"), by_hand_timm),
]


def slow(name: str, classifier: Classifier, image: Tensor, c: int, by_hand: Callable[..., Tensor]) -> Tensor:
    """The map of one image, and that the network computed by hand gives the classifier's logits."""
    seen: list[Tensor] = []
    with torch.enable_grad():
        pixels = ((image - classifier.mean) / classifier.std).requires_grad_()
        logits = by_hand(classifier.module, pixels, seen)
    torch.testing.assert_close(logits.detach(), classifier(image[None])[0].detach())
    logits[c].backward()
    n = seen[0].shape[1]
    total = torch.eye(n).to(image)
    for p in seen:
        if name == "attention-rollout":
            total = (0.5 * sum(head for head in p.detach()) / len(p) + 0.5 * torch.eye(n).to(image)) @ total
        else:
            total = total + (sum((head * g).clamp_min(0) for head, g in zip(p.detach(), p.grad, strict=True)) / len(p)) @ total
    row = total.mean(0) if n == 16 else total[0, 1:]
    return F.interpolate(row.view(1, 1, 4, 4), image.shape[1:], mode="bilinear")[0, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("make", "by_hand"), CASES, ids=["tiny", "torchvision", "timm", "timm-unfused", "timm-no-token"])
def test_maps_equal_the_transformer_computed_by_hand(name, make, by_hand):
    classifier = make().double()
    x, y = tiny_images(3, (3, 32, 32)).double(), torch.tensor([2, 0, 3])
    method = METHODS.make(name)
    assert method.not_applicable(classifier) is None
    before, passes = snapshot(classifier), classifier.passes.copy()
    maps = method(classifier, x, y, ImageRandom(0, ids(3)))
    assert changes(before, snapshot(classifier)) == []
    assert classifier.passes - passes == method.cost((3, 32, 32)) * 3
    expected = torch.stack([slow(name, classifier, image, int(c), by_hand) for image, c in zip(x, y, strict=True)])
    assert expected.flatten(1).std(1).all()
    torch.testing.assert_close(maps, expected, rtol=1e-7, atol=1e-9)


def test_uniform_attention_rolls_out_to_equal_shares():
    classifier = tiny_transformer()
    for attention in classifier.module.attentions:
        attention.in_proj_weight[:24] = 0  # queries and keys
        attention.in_proj_bias[:24] = 0
    maps = METHODS.make("attention-rollout")(classifier, tiny_images(2), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    # ((J / 17 + I) / 2)^2 = 3/4 J / 17 + I / 4
    torch.testing.assert_close(maps, torch.full((2, 28, 28), 0.75 / 17))


def test_a_logit_that_reads_nothing_has_no_relevance():
    classifier = tiny_transformer()
    classifier.module.head.weight[1] = 0
    method = METHODS.make("attention-x-gradient")
    maps = method(classifier, tiny_images(2), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps[0].any()
    assert not maps[1].any()


@pytest.mark.parametrize(
    ("tokens", "h", "w", "expected"),
    [
        (197, 224, 224, (14, 14)),
        (196, 224, 224, (14, 14)),
        (201, 224, 224, (14, 14)),
        (50, 224, 224, (7, 7)),
        (169, 224, 192, (14, 12)),
        (41, 40, 64, (5, 8)),
        (2, 8, 8, (1, 1)),
    ],
)
def test_the_grid_of_patches_is_found(tokens, h, w, expected):
    assert grid(tokens, h, w) == expected


def test_every_way_to_write_attention_is_seen():
    q, k, v = torch.randn(3, 2, 3, 5, 4)
    layer, z = nn.MultiheadAttention(12, 3, batch_first=True).eval(), torch.randn(2, 5, 12)
    mask = torch.rand(5, 5) > 0.3
    mask.fill_diagonal_(True)
    calls: list[Callable[[], Tensor]] = [
        lambda: F.scaled_dot_product_attention(q, k, v),
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7),
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask.float()),
        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
        lambda: layer(z, z, z)[0],
        lambda: layer(z, z, z, need_weights=False, attn_mask=~mask)[0],
        lambda: nn.MultiheadAttention(12, 3, bias=False)(z.transpose(0, 1), *[z.transpose(0, 1)] * 2)[1],
        lambda: nn.Softmax(-1)(q @ k.mT) @ v,
        lambda: torch.softmax(q @ k.mT, dim=3) @ v,
        lambda: (q @ k.mT).softmax(-1) @ v,
    ]
    for number, call in enumerate(calls):
        seen: list[Tensor] = []
        with torch.no_grad():
            torch.manual_seed(number)
            expected = call()
            torch.manual_seed(number)
            with Watch(lambda p, seen=seen: seen.append(p) or p):
                torch.testing.assert_close(call(), expected)
        assert [p.shape for p in seen] == [(2, 3, 5, 5)], number
        torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 3, 5))


def test_nothing_is_left_when_the_network_fails():
    classifier = tiny_transformer()
    x, y = tiny_images(2), torch.tensor([0, 1])
    for name in NAMES:
        method = METHODS.make(name)
        expected = method(classifier, x, y, ImageRandom(0, ids(2)))
        head = classifier.module.head
        classifier.module.head = nn.Linear(3, 4)
        before = snapshot(classifier)
        with pytest.raises(RuntimeError):
            method(classifier, x, y, ImageRandom(0, ids(2)))
        assert changes(before, snapshot(classifier)) == []
        assert torch.overrides._get_current_function_mode_stack() == []
        classifier.module.head = head
        assert method(classifier, x, y, ImageRandom(0, ids(2))).equal(expected)


@pytest.mark.parametrize("name", NAMES)
def test_other_networks_do_not_apply(name):
    method = METHODS.make(name)
    convolutional = tiny_classifier()
    assert method.not_applicable(convolutional) == "classifier 'tiny' has no attention: only vision transformers do"
    assert convolutional.passes == Passes()
    with pytest.raises(NotApplicable, match="has no attention"):
        method(convolutional, tiny_images(1), torch.tensor([0]), ImageRandom(0, ids(1)))
    windows = wrapped(SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=4), 64)
    assert "expected (images, heads, n, n)" in str(method.not_applicable(windows))


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_and_repetition_change_nothing(name, monkeypatch):
    monkeypatch.setattr("perturbed.tiny_classifier", tiny_transformer)
    assert_batch_invariant(METHODS.make(name), tiny_images(21))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_explains_a_timm_transformer_or_says_why_not(name):
    method = METHODS.quick(name)
    if reason := method.not_applicable(timm_vit()):
        pytest.skip(reason)
    subject = _Subject(method, (3, 32, 32), 2, torch.float32, make=lambda _shape: timm_vit())
    try:
        assert list(_once(method, subject)) == []
    except NotApplicable as reason:  # some find out only when the network runs
        pytest.skip(str(reason))
