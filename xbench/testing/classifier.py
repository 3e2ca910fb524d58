"""The conformance checks of classifiers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError
from xbench.testing.entry import conclude, declaration, entry
from xbench.testing.tiny import tiny_images


def check_classifier(spec: str) -> None:
    """Checks a classifier against the rules of the benchmark.

    Eval mode and frozen; logits of the declared shape, the same whatever the batch, refused for images of another shape; a
    gradient that reaches every channel; ``stages`` that name every layer with parameters exactly once; a ``cam_layer`` with a
    (b, c, h, w) output; ``randomised`` changing every named layer and nothing else, equally for equal seeds (from
    weights that are away from where a reset puts them); the same ``weights_digest`` from a second load.

    Raises AssertionError listing every rule that is broken, XbenchError for an unknown name or parameter, or if weights or an
    extra are missing.
    """
    conclude(_findings(entry(CLASSIFIERS, spec)))


def _findings(made: ClassifierEntry) -> Iterator[str]:
    yield from declaration(CLASSIFIERS, made)
    classifier = made.load()
    if made.load().weights_digest != classifier.weights_digest:
        yield "two loads give different weights_digests"
    if any(module.training for module in classifier.modules()):
        yield "is not in eval mode"
    if any(parameter.requires_grad for parameter in classifier.parameters()):
        yield "has parameters that require gradients"
    if not classifier.name or not classifier.label_space:
        yield "has no name or label_space"
    if not bool((classifier.gray >= 0).all() and (classifier.gray <= 1).all()):
        yield f"the mean pixel must be in [0, 1]: {classifier.gray.flatten().tolist()}"
    yield from _logits(classifier)
    yield from _stages(classifier)


def _logits(classifier: Classifier) -> Iterator[str]:
    x = tiny_images(2, classifier.shape).to(classifier.gray).requires_grad_()
    activations: list[Tensor] = []
    layer = classifier.module if classifier.cam_layer is None else classifier.target_layer()
    with layer.register_forward_hook(lambda _module, _inputs, output: activations.append(output)):
        logits = classifier(x)
    shapes = [tuple(activation.shape) for activation in activations]
    if classifier.cam_layer is not None and not (len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][0] == 2):
        yield f"cam_layer {classifier.cam_layer!r} gives {shapes}, expected one (b, c, h, w)"
    if tuple(logits.shape) != (2, classifier.classes) or not bool(logits.isfinite().all()):
        yield f"logits have shape {tuple(logits.shape)} or are not finite, expected {(2, classifier.classes)}"
        return
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    if not bool(gradient.isfinite().all()) or not bool(gradient.flatten(2).any(2).all()):
        yield "the gradient of a logit is not finite or does not reach every image and channel"
    singles = torch.cat([classifier(x[i : i + 1]) for i in range(2)])
    if (far := float(((singles - logits).abs().max() / logits.abs().max()).detach())) > 1e-5:
        yield f"logits differ by {far:.1e} of the largest between batch sizes, 1e-5 is allowed"
    c, h, w = classifier.shape
    try:
        classifier(torch.zeros(1, c, h + 1, w))
    except XbenchError:
        return
    yield "takes images of another shape than it declares"


def _stages(classifier: Classifier) -> Iterator[str]:
    named = [layer for stage in classifier.stages for layer in stage]
    owners = [name for name, module in classifier.module.named_modules() if any(True for _ in module.parameters(recurse=False))]
    for owner in owners:
        covered = sum(_covers(classifier, layer, owner) for layer in named)
        if covered != 1:
            yield f"stages name the layer {owner!r} {covered} times, expected once"
    classifier = _moved(classifier)
    original = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    for stage in classifier.stages:
        changed = [name.rpartition(".")[0] for name in _changed(original, classifier.randomised(stage, 0))]
        same = [layer for layer in stage if not any(_covers(classifier, layer, owner) for owner in changed)]
        if same:
            yield f"randomised() leaves as they are: {', '.join(same)}"
        others = [owner for owner in changed if not any(_covers(classifier, layer, owner) for layer in stage)]
        if others:
            yield f"randomised({list(stage)}) also changes {', '.join(others)}"
    if named:
        twin = classifier.randomised(named, 0)
        if _changed(twin.module.state_dict(), classifier.randomised(named, 0)):
            yield "randomised() gives other weights for the same seed"
        if not _changed(twin.module.state_dict(), classifier.randomised(named, 1)):
            yield "randomised() gives the same weights for two seeds"
        if twin.weights_digest == classifier.weights_digest:
            yield "a randomised copy has the weights_digest of the original"
    if _changed(original, classifier):
        yield "randomised() changes the original"


def _moved(classifier: Classifier) -> Classifier:
    """A copy with other weights: an untrained network's norm layers are where a reset puts them."""
    moved = copy.deepcopy(classifier)
    moved.__dict__.pop("weights_digest", None)
    for value in moved.module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01 * (1 + value.abs()))
    return moved


def _covers(classifier: Classifier, layer: str, owner: str) -> bool:
    """Whether randomising a layer is to change the parameters of ``owner``: its own, and by a reset those inside it."""
    module = classifier.module.get_submodule(layer)
    return owner == layer or (owner.startswith(f"{layer}." if layer else "") and hasattr(module, "reset_parameters"))


def _changed(reference: Mapping[str, Tensor], classifier: Classifier) -> list[str]:
    return [name for name, value in classifier.module.state_dict().items() if not value.equal(reference[name])]
