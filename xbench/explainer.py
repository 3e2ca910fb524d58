"""The explainer: a method bound to a classifier, its trained state, a seed and the stored maps. All that metrics call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.method import Method, TrainedMethod
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Images, Labels, Maps


class MapStore(Protocol):
    """Where maps are kept, and the classifier's answers on images that were perturbed along them (see `xbench.trajectory`).

    Both return what is kept of ``ids`` under a key, calling ``compute`` for what is not: the maps of a group's positions, the
    answers of names.
    """

    def maps(
        self, key: str, label: str, ids: Sequence[str], groups: Sequence[int], compute: Callable[[list[int]], Maps]
    ) -> Maps: ...

    def answers(
        self,
        key: str,
        label: str,
        ids: Sequence[str],
        tag: str,
        names: Sequence[str],
        compute: Callable[[list[str]], dict[str, Tensor]],
    ) -> dict[str, Tensor]: ...


class States(Protocol):
    """Where trained networks come from, each with the digest of its weights."""

    def find(self, method: TrainedMethod, classifier: Classifier) -> tuple[nn.Module, str]: ...
    def fit(self, method: TrainedMethod, classifier: Classifier, seed: int) -> tuple[nn.Module, str]: ...
    def training_seconds(self, method: TrainedMethod, classifier: Classifier) -> float: ...


@dataclasses.dataclass(frozen=True)
class Explainer:
    """A method bound to everything it needs.

    Args:
        method: the hyper-parameters; those with a default by the image shape are filled in.
        classifier: whose decision is explained.
        seed: the run's seed; draws are keyed by it, the method's own seed and the image id.
        states: where a trained method's network is found or fitted.
        store: where maps are kept, or None to compute them each time.
        refit_seed: if given, a trained network is fitted on this classifier with that seed instead of being looked up.
    """

    method: Method
    classifier: Classifier
    seed: int = 0
    states: States | None = None
    store: MapStore | None = None
    refit_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", self.method.resolved(self.classifier.shape))

    def __call__(self, x: Images, y: Labels, ids: Sequence[str]) -> Maps:
        """Fresh maps (b, h, w) of any images, drawn with the random numbers of ``ids``; never stored.

        Raises XbenchError if the method returns another shape, or a value that is not finite.
        """
        rng = ImageRandom(self.seed + self.method.seed, ids)
        if isinstance(self.method, TrainedMethod):
            network, _ = self._state(self.method)
            with torch.no_grad():
                maps = self.method.explain(network, x, y, rng)
        else:
            maps = self.method(self.classifier, x, y, rng)
        return check_maps(self.method, maps, x)

    def maps_of_variants(self, batch: Batch, variants: Iterable[Images]) -> Iterator[tuple[Images, Maps]]:
        """Changed images (b, c, h, w) of the batch, each with their maps (b, h, w), made with the batch's draws; never stored.

        As many variants are explained at a time as fill a batch; a method that amplifies rounding explains one.
        """
        count = 1 if self.method.iterative else max(1, self.classifier.batch_size // len(batch))
        left = iter(variants)
        while part := list(islice(left, count)):
            maps = self(torch.cat(part), batch.target.repeat(len(part)), list(batch.ids) * len(part))
            yield from zip(part, maps.split(len(batch)), strict=True)

    def maps(self, batch: Batch) -> Maps:
        """The method's maps (b, h, w) of a batch of the subset, read from the store where they are there."""

        def compute(missing: list[int]) -> Maps:
            return self(batch.x[missing], batch.target[missing], [batch.ids[i] for i in missing])

        if self.store is None:
            return compute(list(range(len(batch))))
        keys = [f"{image}@{target}" for image, target in zip(batch.ids, batch.target.tolist(), strict=True)]
        groups = batch.groups or [0] * len(batch)
        return self.store.maps(self.key, f"{self.classifier.name}/{self.method.spec}", keys, groups, compute).to(batch.x)

    @property
    def key(self) -> str:
        """What identifies this explainer's maps: method, classifier's weights, trained state, seed."""
        state = self._state(self.method)[1] if isinstance(self.method, TrainedMethod) else None
        return digest([self.method.identity, self.classifier.identity, state, self.seed, self.classifier.arithmetic])

    @property
    def training_seconds(self) -> float:
        """Seconds that the method's network took to train, on whatever machine; 0 for a method that is not trained."""
        if not isinstance(self.method, TrainedMethod):
            return 0.0
        return self._source(self.method).training_seconds(self.method, self.classifier)

    def using(self, method: Method) -> Explainer:
        """The same binding with another method (other hyper-parameters)."""
        return dataclasses.replace(self, method=method)

    def on(self, classifier: Classifier) -> Explainer:
        """The same binding on another classifier; a trained method is then looked up for that one."""
        return dataclasses.replace(self, classifier=classifier)

    def refitted(self, seed: int) -> Explainer:
        """A trained method with its reduced recipe, fitted on this classifier with ``seed`` instead of looked up."""
        method = self.method.replace(**self.method.refit) if isinstance(self.method, TrainedMethod) else self.method
        return dataclasses.replace(self, method=method, refit_seed=seed)

    def _state(self, method: TrainedMethod) -> tuple[nn.Module, str]:
        states = self._source(method)
        if self.refit_seed is None:
            return states.find(method, self.classifier)
        return states.fit(method, self.classifier, self.refit_seed)

    def _source(self, method: TrainedMethod) -> States:
        if self.states is None:
            raise XbenchError(f"{method.spec} is a trained method: bind it with a source of trained networks")
        return self.states


def check_maps(method: Method, maps: Maps, x: Images) -> Maps:
    """The maps as float tensor of ``x``'s dtype; XbenchError naming the method if their shape or values are not valid."""
    expected = (len(x), *x.shape[2:])
    if not isinstance(maps, torch.Tensor) or tuple(maps.shape) != expected:
        got = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise XbenchError(f"method {method.spec!r} returned maps of shape {got}, expected {expected} (b, h, w)")
    if maps.device != x.device:
        raise XbenchError(f"method {method.spec!r} returned maps on {maps.device}, expected {x.device}")
    maps = maps.detach().to(x.dtype)
    bad = int((~maps.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise XbenchError(f"method {method.spec!r} returned NaN or infinite values in {bad} of {len(maps)} maps")
    return maps
