"""torch-cam: deletion and insertion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pairs import STEPS, Pair, Subject
from torch import Tensor, nn
from torchcam.metrics import DeletionInsertionMetric


class Given:
    """Hands torch-cam a map that is there already, where it expects an extractor."""

    def __init__(self, network: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = network, maps

    def __call__(self, *_args: object, **_options: object) -> list[Tensor]:
        """The map."""
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """The only one."""
        return cams[0]

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


def pairs(of: Subject) -> list[Pair]:
    """Both areas of every image."""
    deletion, insertion = of.metric("deletion"), of.metric("insertion")

    def areas(x: Tensor, y: int, maps: Tensor) -> object:
        metric = DeletionInsertionMetric(Given(of.network, maps), lambda logits: logits.softmax(1), steps=STEPS)
        metric.update(x, y)
        return metric.summary()

    return [
        Pair(
            "`deletion` and `insertion`",
            "torch-cam `DeletionInsertionMetric`",
            lambda: (deletion(), insertion()),
            of.each(areas),
        )
    ]
