"""Random draws keyed by image, so that neither batch size, order, device nor other images change them."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def _generator(*key: object) -> torch.Generator:
    word = hashlib.sha256(repr(key).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(word, "big") >> 1)


class ImageRandom:
    """Draws for a batch of images, each from its own generator keyed (seed, image id, stream, step).

    Draws are made on the CPU in float32 and moved by the caller. ``shared`` draws do not depend on the image and are
    keyed (seed, stream, step).
    """

    def __init__(self, seed: int, ids: Sequence[str]) -> None:
        self.seed = seed
        self.ids = list(ids)

    def normal(self, stream: str, shape: Sequence[int], step: int = 0) -> Tensor:
        """Standard normal draws, (b, *shape) float32."""
        return self._stack(stream, step, lambda g: torch.randn(tuple(shape), generator=g))

    def normal_at(self, stream: str, shape: Sequence[int], image: Tensor, step: Tensor) -> Tensor:
        """The draws of ``normal`` for pairs of a position in ``ids`` and a step, (n,) each: (n, *shape) float32."""
        pairs = zip(image.tolist(), step.tolist(), strict=True)
        generators = [_generator(self.seed, self.ids[i], stream, number) for i, number in pairs]
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])

    def uniform(self, stream: str, shape: Sequence[int], step: int = 0) -> Tensor:
        """Uniform draws in [0, 1), (b, *shape) float32."""
        return self._stack(stream, step, lambda g: torch.rand(tuple(shape), generator=g))

    def integers(self, stream: str, high: int, shape: Sequence[int], step: int = 0) -> Tensor:
        """Integers in 0..high-1, (b, *shape) int64."""
        return self._stack(stream, step, lambda g: torch.randint(high, tuple(shape), generator=g))

    def shared(self, stream: str, step: int = 0) -> torch.Generator:
        """A CPU generator keyed by (seed, stream, step), the same for every image."""
        return _generator(self.seed, "shared", stream, step)

    def _stack(self, stream: str, step: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(_generator(self.seed, i, stream, step)) for i in self.ids])


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch, numpy and Python within the block and restores them afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
