"""The classifier: images in [0, 1] to logits, with everything that methods and metrics need to know about it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xbench.batches import STREAMED, batched, default_batch_size, keep_freed_memory
from xbench.errors import NotApplicable, XbenchError
from xbench.randomising import copied, randomise
from xbench.registry import Entry, Registry
from xbench.types import Images, Logits, Precision
from xbench.weights import state_digest

if TYPE_CHECKING:
    from xbench.form import Form
    from xbench.subset import Subset


@dataclasses.dataclass
class Passes:
    """Classifier passes, counted in images: a forward of a batch of 8 counts 8."""

    forward: float = 0
    backward: float = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Passes) -> Passes:
        return Passes(self.forward - other.forward, self.backward - other.backward)

    def __mul__(self, factor: float) -> Passes:
        return Passes(self.forward * factor, self.backward * factor)

    @property
    def total(self) -> float:
        """Forward and backward passes together."""
        return self.forward + self.backward

    def copy(self) -> Passes:
        """A snapshot of a running counter."""
        return Passes(self.forward, self.backward)


class Classifier(nn.Module):
    """A frozen network in eval mode that owns its normalisation and counts the passes made through it.

    A call gives logits to differentiate; ``predict``, which `xbench.perturb.stream` asks, numbers only: they may come from a
    faster ``form``, and in ``precision`` "bf16" (automatic mixed precision).

    Args:
        module: maps normalised images (b, c, h, w) to logits (b, k); it is switched to eval mode and frozen in place.
        name: shown on boards and used in paths.
        shape: (c, h, w) of the images it takes.
        classes: number of logits k.
        label_space: name of the meaning of the logits, for instance ``"imagenet-1k"``; a subset with another is refused.
        mean, std: per-channel normalisation in [0, 1] pixel units.
        cam_layer: dotted name of the layer whose output are the last convolution's feature maps, or None if there are none.
        stages: layer names to randomise, from the output down to the input, grouped as in the papers; ``""`` is the network's
            own parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        shape: tuple[int, int, int],
        classes: int,
        label_space: str,
        mean: Sequence[float],
        std: Sequence[float],
        cam_layer: str | None,
        stages: Sequence[Sequence[str]],
    ) -> None:
        super().__init__()
        keep_freed_memory()
        self.module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = name
        self.shape = shape
        self.classes = classes
        self.label_space = label_space
        self.cam_layer = cam_layer
        self.stages = tuple(tuple(stage) for stage in stages)
        self.passes = Passes()
        self.batch_size = default_batch_size(shape, "cpu")
        self.precision: Precision = "fp32"
        self.form: Form | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        layers = dict(module.named_modules())
        for layer in [*([cam_layer] if cam_layer else []), *(n for stage in self.stages for n in stage)]:
            if layer not in layers:
                raise XbenchError(f"classifier {name!r} has no layer {layer!r}; it has: {', '.join(n for n in layers if n)}")
        self.eval()

    def forward(self, x: Images) -> Logits:
        """Logits (b, k) of images in [0, 1]; XbenchError if the images have another shape than the classifier takes."""
        self._count(x)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.module(x)
        if logits.requires_grad:
            logits.register_hook(functools.partial(self._count_backward, len(x)))
        return logits

    def _count(self, x: Images) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            takes = f"takes images (b, c, h, w) with c, h, w = {self.shape}"
            raise XbenchError(f"classifier {self.name!r} {takes}, got {tuple(x.shape)}")
        self.passes.forward += len(x)

    def _count_backward(self, images: int, _gradient: Tensor) -> None:
        self.passes.backward += images

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self.form = None  # it was made for another device or type
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call,no-any-return]

    @torch.no_grad()
    def predict(self, x: Images) -> Logits:
        """Logits (b, k) without gradients, in the classifier's form and precision: no hook sees them, all are counted."""
        if len(x) > self.predict_size:
            return torch.cat([self.predict(part) for part in x.split(self.predict_size)])
        if self.form is not None:
            self._count(x)
            return self.form(x)
        with torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext():
            return self(x).to(x.dtype)  # type: ignore[no-any-return]

    @torch.no_grad()
    def probabilities(self, x: Images) -> Logits:
        """Softmax probabilities (b, k), in batches, without gradients; see ``predict``."""
        return batched(self, len(x), lambda part: self.predict(x.index_select(0, part)).softmax(1))

    @property
    def batch_size(self) -> int:
        """Images per pass: what was chosen, or less if that did not fit into memory."""
        return min(self.chosen_batch_size, self.fitting_batch_size or self.chosen_batch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.chosen_batch_size = size
        self.fitting_batch_size: int | None = None

    @property
    def predict_size(self) -> int:
        """Images per pass of ``predict``: the form's, or less if that did not fit into memory."""
        size = self.form.batch_size if self.form is not None else self.chosen_batch_size
        return min(size, self.fitting_batch_size or size)

    @property
    def stream_size(self) -> int:
        """Images that are made at a time for ``predict``, whose form may be fastest on fewer than it pays to mask and fill."""
        passes = -(-STREAMED // (self.shape[1] * self.shape[2] * self.predict_size))  # whole ones: a rest may cost as much
        return min(passes * self.predict_size, self.fitting_batch_size or passes * self.predict_size)

    def halve(self, size: int) -> bool:
        """Makes batches half of ``size``, which did not fit into memory; False if that was one image."""
        self.fitting_batch_size = max(1, size // 2)
        return size > 1

    @property
    def gray(self) -> Tensor:
        """The mean pixel (c, 1, 1) in [0, 1]: the zero of the normalised input."""
        return self.mean

    @property
    def device(self) -> torch.device:
        """Where the classifier computes."""
        return self.mean.device

    @functools.cached_property
    def weights_digest(self) -> str:
        """sha256 over every parameter and buffer and the normalisation: what identifies the function that is explained."""
        return state_digest(self.module.state_dict() | {"normalisation": torch.cat([self.mean, self.std])})

    @functools.cached_property
    def cam_channels(self) -> int:
        """Number of feature maps of ``cam_layer``, 0 if there is none; found by one pass that is not counted.

        Raises XbenchError if the layer's output is not (b, c, h, w).
        """
        if self.cam_layer is None:
            return 0
        outputs: list[Any] = []
        with (
            torch.no_grad(),
            self.target_layer().register_forward_hook(lambda _module, _inputs, output: outputs.append(output)),
        ):
            self.module(torch.zeros(1, *self.shape).to(self.mean))
        shapes = [tuple(output.shape) for output in outputs if isinstance(output, Tensor)]
        if not shapes or len(shapes[-1]) != 4:
            gives = f"gives {shapes[-1]}" if shapes else "is not used, or gives no tensor"
            raise XbenchError(f"cam_layer {self.cam_layer!r} of classifier {self.name!r} {gives}, expected (b, c, h, w)")
        return int(shapes[-1][1])

    @property
    def arithmetic(self) -> str:
        """The type that logits without gradients are computed in, for the keys of what is stored."""
        return "torch.bfloat16" if self.precision == "bf16" else str(self.mean.dtype)

    @property
    def identity(self) -> list[Any]:
        """What a result's key holds of the classifier: its weights, and the layers that methods and metrics ask it for."""
        return [self.weights_digest, self.cam_layer, self.stages]

    def target_layer(self) -> nn.Module:
        """The layer for class activation maps; NotApplicable naming the existing layers if the classifier declares none."""
        layers: dict[str, nn.Module] = dict(self.module.named_modules())
        if self.cam_layer is None:
            names = [name for name in layers if name]
            shown = names if len(names) <= 20 else ["...", *names[-20:]]
            raise NotApplicable(
                f"classifier {self.name!r} declares no cam_layer; it has: {', '.join(shown)}; "
                "name one whose output is (b, c, h, w) with cam_layer=..."
            )
        return layers[self.cam_layer]

    def randomised(self, layers: Sequence[str], seed: int) -> Classifier:
        """A copy whose named layers are initialised anew (batch-norm statistics included), reproducibly on any device.

        See `xbench.randomising.randomise`; XbenchError if a layer cannot be initialised anew.
        """
        twin = copied(self)
        randomise(twin, layers, seed)
        return twin


class ClassifierEntry(Entry):
    """A classifier that can be loaded by spec."""

    def load(self) -> Classifier:
        """The classifier on the CPU; XbenchError if its weights are missing, damaged or need an extra."""
        raise NotImplementedError


class TrainableClassifier(ClassifierEntry):
    """A classifier whose training recipe is in the package."""

    dataset: ClassVar[str] = ""
    """Spec of the dataset that the recipe trains and tests on if none is given."""

    def suited_to(self, train: Subset) -> Self:
        """The entry with what it leaves open taken from the training images; XbenchError if it cannot take them."""
        return self

    def fit(
        self,
        train: Subset,
        test: Subset,
        path: Path,
        *,
        seed: int,
        epochs: int,
        report: Callable[[str], None],
        device: str = "cpu",
    ) -> float:
        """Trains from scratch, writes the weights to ``path`` and returns the accuracy on ``test``; a report line an epoch."""
        raise NotImplementedError


CLASSIFIERS: Registry[ClassifierEntry] = Registry("classifier", "models")
