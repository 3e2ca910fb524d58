"""What the concordance table is made of: rows, and the images, maps and classifier that all of them share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, Batch, Classifier, Explainer, Scored

METHOD_SPECS = ("gradient", "integrated-gradients(steps=10)")
"""One method whose maps are not negative, one whose maps are signed."""
TOLERANCE = 1e-4
IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: a value per image and map, or per point of its curve, from each side.

    ``same`` says that the peer is set to compute the same thing; if not, ``note`` says what it computes instead.
    """

    ours: str
    peer: str
    note: str
    a: Tensor
    b: Tensor
    same: bool = True

    @property
    def difference(self) -> float:
        """The largest difference of two values that belong together."""
        return float((self.a.double() - self.b.double()).abs().max())

    def cells(self) -> list[str]:
        """The row of the table."""
        means = [f"{values.double().mean():.4f}" for values in (self.a, self.b)]
        return [self.ours, self.peer, *means, f"{self.difference:.0e}", "yes" if self.same else "no", self.note]


@dataclasses.dataclass(frozen=True)
class Subject:
    """The maps of one method, with everything that they were made of."""

    explainer: Explainer
    batch: Batch
    maps: Tensor

    def ours(self, spec: str) -> Scored:
        """What our metric computes."""
        return METRICS.make(spec)(self.explainer, self.batch, self.maps)

    @property
    def ranked(self) -> Tensor:
        """The maps with every value replaced by its rank, in [0, 1): in float32 1 - map has ties that the map has not."""
        return self.maps.flatten(1).argsort(1).argsort(1).view_as(self.maps) / self.maps[0].numel()


@functools.cache
def classifier() -> Classifier:
    """The shipped classifier of digits."""
    return CLASSIFIERS.make("mnist-cnn").load()


@functools.cache
def subjects() -> list[Subject]:
    """The same digits explained by every method."""
    subset = DATASETS.make("mnist").load()
    ids = list(subset.ids[:IMAGES])
    x = subset.read(ids)[0]
    target = classifier().probabilities(x).argmax(1)
    batch = Batch(ids=ids, x=x, label=target, target=target)
    made = []
    for spec in METHOD_SPECS:
        explainer = Explainer(METHODS.make(spec), classifier())
        maps = explainer.maps(batch)
        # Noise breaks ties, which every side would break in its own way.
        noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
        made.append(Subject(explainer, batch, maps + 1e-3 * maps.amax() * noise))
    return made


def over_subjects(of: Callable[[Subject], Tensor]) -> Tensor:
    """A value of every subject, one after the other."""
    return torch.cat([of(subject) for subject in subjects()])


def registered(metric: str) -> bool:
    """Whether there is such a metric."""
    return metric in METRICS.names()
