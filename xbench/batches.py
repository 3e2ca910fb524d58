"""Batches that shrink when memory runs out."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from xbench.classifier import Classifier


STREAMED = 2**19
"""Pixels of the images that are masked and filled at a time at least, some 10 of 224 px (own decision)."""


def default_batch_size(shape: tuple[int, int, int], device: str) -> int:
    """Images per forward pass: a power of two near the measured optimum (own decision; 28 px: 256, 224 px: 4 on a CPU)."""
    budget = 2**18 if torch.device(device).type == "cpu" else 2**24
    return 1 << max(0, (budget // (shape[1] * shape[2])).bit_length() - 1)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of malloc.h."""


@functools.cache
def keep_freed_memory() -> None:
    """Lets glibc keep up to 1 GiB of freed memory for the buffers that come next (own decision); elsewhere nothing happens.

    By itself it soon gives what a pass has freed back to the system; the pages of the next pass's features, of the same sizes,
    are then mapped and filled with zeros anew. Buffers of more than 32 MiB stay mapped each by itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)


def batched(classifier: Classifier, count: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """``compute`` (n,) -> (n, ...) of the numbers 0..count-1 (at least one), on the classifier's device, batch by batch.

    A batch has ``classifier.stream_size`` numbers. One that does not fit into memory is computed again in halves, and so small
    are all that follow; its passes are not counted. Raises what ``compute`` raises, the lack of memory for a single number too.
    """
    # Written into one tensor: small results that are kept between large buffers would spread the heap out to gigabytes.
    whole: Tensor | None = None
    numbers = torch.arange(count, device=classifier.device)
    start = 0
    while start < count:
        part = numbers[start : start + classifier.stream_size]
        counted = classifier.passes.copy()
        try:
            values = compute(part)
        except (RuntimeError, MemoryError) as error:
            # Of a part larger than a pass, the pass is what is likely to be too large.
            if not (out_of_memory(error) and (classifier.halve(min(len(part), classifier.predict_size)) or len(part) > 1)):
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
