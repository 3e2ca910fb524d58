"""What the class activation maps share: a layer's feature maps, their gradients, and the way back to the image's size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.errors import NotApplicable
from xbench.types import Images, Labels

Combine = Callable[[Tensor, Tensor], Tensor]
"""(feature maps A (b, k, u, v), gradients d f_c / d A (b, k, u, v)) -> (b, ...)."""


def feature_maps(classifier: Classifier, x: Images) -> Tensor:
    """Outputs A (b, k, u, v) of the classifier's ``cam_layer``, in batches; one forward pass an image."""
    with torch.no_grad():
        return torch.cat([_watched(classifier, part)[0] for part in x.detach().split(classifier.batch_size)])


def combined(classifier: Classifier, x: Images, y: Labels, combine: Combine) -> Tensor:
    """What ``combine`` makes of A and of the gradients of the logits of classes ``y`` by A; one forward and backward pass."""
    parts = []
    for part, c in zip(x.detach().split(classifier.batch_size), y.split(classifier.batch_size), strict=True):
        with torch.enable_grad():
            maps, logits = _watched(classifier, part)
            (gradient,) = torch.autograd.grad(logits.gather(1, c[:, None]).sum(), maps)
        parts.append(combine(maps.detach(), gradient))
    return torch.cat(parts)


def no_feature_maps(classifier: Classifier) -> str | None:
    """Why the classifier has no class activation map, naming its layers, or None."""
    try:
        classifier.target_layer()
    except NotApplicable as reason:
        return str(reason)
    return None


def _watched(classifier: Classifier, x: Images) -> tuple[Tensor, Tensor]:
    """The layer's output, in grad mode a leaf that the logits depend on, and the logits."""
    seen: list[Tensor] = []

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        maps = output.detach()
        if torch.is_grad_enabled():
            maps.requires_grad_()
        seen.append(maps)
        return maps.clone()  # what follows may change its input in place, as many a ReLU does

    with classifier.target_layer().register_forward_hook(watch):
        logits = classifier(x)
    return seen[-1], logits
