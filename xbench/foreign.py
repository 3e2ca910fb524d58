"""Methods made of foreign code: how it is run, and how what it returns becomes maps. See `xbench.adapters`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable, XbenchError
from xbench.method import Method
from xbench.ops.resize import resized
from xbench.rng import ImageRandom, global_seed
from xbench.types import Images, Labels, Maps

Reduction = Literal["sum", "sum-abs", "max-abs"]
"""How the channels of an attribution become a map: their sum, the sum or the maximum of their absolute values."""
REDUCED: dict[Reduction, Callable[[Tensor], Tensor]] = {
    "sum": lambda values: values.sum(1),
    "sum-abs": lambda values: values.abs().sum(1),
    "max-abs": lambda values: values.abs().amax(1),
}


@dataclass(frozen=True)
class Foreign:
    """What an adapted method is made of.

    Args:
        call: (model, x, y, **parameters) -> maps or attributions.
        make: (model) -> the foreign object, which may raise NotApplicable; None if there is no such object.
        cost: passes per image, or None to measure them.
        batchable: whether ``call`` takes more than one image at once.
        reduce: the rule for the channels of attributions.
        coarse: whether attributions may have a coarser grid than the image.
        digest: sha256 of the code.
    """

    call: Callable[..., Any]
    make: Callable[[Classifier], Any] | None
    cost: Passes | None
    batchable: bool
    reduce: Reduction
    coarse: bool
    digest: str


class Adapted(Method):
    """A method made of foreign code. It gets a copy of the classifier to do with as it likes, whose passes are counted."""

    foreign: ClassVar[Foreign]

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); see ``Method``. XbenchError saying what came back if that cannot be read as maps."""
        seeds = rng.integers("foreign", 2**32, ()).tolist()
        size = classifier.batch_size if self.foreign.batchable else 1
        maps = []
        for start in range(0, len(x), size):
            part, c = x[start : start + size].detach().clone(), y[start : start + size].clone()
            twin = _twin(classifier)
            try:
                with global_seed(seeds[start]), torch.enable_grad():
                    given = self.foreign.call(twin, part, c, **self.parameters)
                maps.append(self._maps(given, x[start : start + size]))
            finally:
                twin.to("meta")  # frees the weights even where a hook that was left behind keeps the copy alive
        return torch.cat(maps)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """What was given, else what a black image of ``shape`` took on a small network; XbenchError if that failed."""
        return (self.foreign.cost or _measured(self, shape)).copy()

    def not_applicable(self, classifier: Classifier) -> str | None:
        """The reason given when the foreign object was made for the classifier: it has no layer for activation maps."""
        if self.foreign.make is not None:
            try:
                self.foreign.make(_twin(classifier))
            except NotApplicable as reason:
                return str(reason)
            except Exception:
                return None  # the call raises it again, where a run reports it as that of one method
        return None

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds of a method that draws."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]} if "seed" in self.parameters else {}

    @property
    def identity(self) -> dict[str, Any]:
        """See ``Entry``; its source is all the code that the method was made of."""
        return super().identity | {"source": self.foreign.digest}

    def _maps(self, given: Any, x: Images) -> Maps:
        size = tuple(x.shape[2:])
        numbers = isinstance(given, np.ndarray) and given.dtype.kind in "fiub"
        values = torch.from_numpy(np.ascontiguousarray(given)) if numbers else given
        if isinstance(values, Tensor) and not values.is_complex() and values.ndim in (3, 4) and len(values) == len(x):
            coarse = self.foreign.coarse and values.ndim == 4
            values = values.detach().to(x)
            values = REDUCED[self.foreign.reduce](values) if values.ndim == 4 else values
            if tuple(values.shape[1:]) == size:
                return values
            if coarse:
                return resized(values, x)
        what = f"a {type(given).__name__}"
        if isinstance(given, Tensor | np.ndarray):
            what += f" of {given.dtype} and shape {tuple(given.shape)}"
        raise XbenchError(
            f"method {self.spec!r}: the foreign code returned {what}; valid are maps {(len(x), *size)} and attributions "
            f"({len(x)}, channels, {size[0]}, {size[1]}), as a tensor or a NumPy array of real numbers"
        )


def _twin(classifier: Classifier) -> Classifier:
    """A copy whose passes count as the classifier's."""
    twin = copy.deepcopy(classifier)
    twin.passes = classifier.passes
    return twin


@functools.cache
def _measured(method: Adapted, shape: tuple[int, int, int]) -> Passes:
    c = shape[0]
    with global_seed(0):
        module = nn.Sequential()
        module.add_module("conv", nn.Conv2d(c, 8, 3, stride=4, padding=1))
        module.add_module("relu", nn.ReLU())
        module.add_module("pool", nn.AdaptiveAvgPool2d(4))
        module.add_module("flatten", nn.Flatten())
        module.add_module("fc", nn.Linear(8 * 16, 4))
    probe = Classifier(
        module,
        name="probe",
        shape=shape,
        classes=4,
        label_space="probe",
        mean=[0.5] * c,
        std=[0.25] * c,
        cam_layer="conv",
        stages=[["fc"], ["conv"]],
    )
    try:
        method(probe, torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64), ImageRandom(0, ["black"]))
    except Exception as error:
        raise XbenchError(
            f"method {method.spec!r}: its cost cannot be measured on a black image {shape}; "
            f"give cost=Passes(forward, backward): {type(error).__name__}: {error}"
        ) from error
    return probe.passes
