"""Batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from xbench.classifier import Classifier


def batched(classifier: Classifier, count: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """``compute`` (n,) -> (n, ...) of the numbers 0..count-1 (at least one), on the classifier's device, batch by batch.

    A batch has ``classifier.predict_size`` numbers. One that does not fit into memory is computed again in halves, and so small
    are all that follow; its passes are not counted. Raises what ``compute`` raises, the lack of memory for a single number too.
    """
    # Written into one tensor: small results that are kept between large buffers would spread the heap out to gigabytes.
    whole: Tensor | None = None
    numbers = torch.arange(count, device=classifier.device)
    start = 0
    while start < count:
        part = numbers[start : start + classifier.predict_size]
        counted = classifier.passes.copy()
        try:
            values = compute(part)
        except (RuntimeError, MemoryError) as error:
            if not (out_of_memory(error) and classifier.halve(len(part))):
                raise
            classifier.passes.forward, classifier.passes.backward = counted.forward, counted.backward
            continue
        if whole is None:
            whole = values.new_empty(count, *values.shape[1:])
        whole[start : start + len(part)] = values
        start += len(part)
    assert whole is not None
    return whole


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
