"""The one stream: any number of (image, mask, fill) triples, packed into full batches on the device, to scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xbench.batches import batched
from xbench.classifier import Classifier
from xbench.fill import Filler
from xbench.types import Images, Labels, Logits

MaskOf = Callable[[Tensor, Tensor], Tensor]
"""(image indices (n,), step indices (n,)) -> keep masks (n, 1, h, w)."""
Select = Callable[[Logits, Tensor], Tensor]
"""(logits (n, k), image indices (n,)) -> what to keep of them, (n, ...)."""


@torch.no_grad()
def stream(classifier: Classifier, x: Images, steps: int, mask_of: MaskOf, fill: Filler, select: Select) -> Tensor:
    """Scores (b, steps, ...) of every image of ``x`` under ``steps`` masks: x * mask + fill * (1 - mask), exact where kept.

    Triples are packed step by step into batches of ``classifier.stream_size``, so that images and steps share a batch and no
    more than one batch of masks exists at a time; batches shrink when memory runs out (``mask_of`` and ``fill`` are then asked
    again). Nothing here waits for the device. Works under ``no_grad``, not ``inference_mode``, whose tensors could not be
    saved for a backward pass later.
    """
    b = len(x)

    def score(flat: Tensor) -> Tensor:
        image, step = flat % b, flat // b
        mask = mask_of(image, step).to(x.dtype)
        # Selected, not indexed: on a CPU an index reads value by value.
        return select(classifier.predict(torch.lerp(fill(image, step, mask), x.index_select(0, image), mask)), image)

    scores = batched(classifier, b * steps, score)
    return scores.view(steps, b, *scores.shape[1:]).transpose(0, 1)


def probability_of(y: Labels) -> Select:
    """Selects the softmax probability of each image's class ``y`` (b,)."""
    return lambda logits, image: logits.softmax(1).gather(1, y[image, None])[:, 0]


def all_logits(logits: Logits, _image: Tensor) -> Logits:
    """Selects the logits of every class."""
    return logits
