"""Parts of a batch on several processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def side_by_side(function: Callable[..., Tensor], parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """The function's answers to parts on the CPU, in their order, as many at a time as PyTorch may use threads.

    Each part has one thread: for small tensors several threads inside an operation mostly wait for each other. What the
    function raises is raised here. The function turns gradients off itself, which a thread does not inherit.
    """
    threads = torch.get_num_threads()
    if min(threads, len(parts)) <= 1:
        return [function(*part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, *zip(*parts, strict=True)))
    finally:
        torch.set_num_threads(threads)
