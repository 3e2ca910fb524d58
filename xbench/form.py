"""Numeric forms of a classifier: the same function of the image, computed faster where no gradient and no hook is needed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.types import Images, Logits, Precision

Name = Literal["plain", "frozen", "compiled"]
NAMES: tuple[Name, ...] = get_args(Name)
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 5e-2}
"""How far a form's probabilities may be from those of the network as it is (own decision; bfloat16 has three digits)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """What `Classifier.predict` calls instead of the network, and the number of images that are fastest at a time.

    - ``plain``: the network as it is.
    - ``frozen``: its trace, with weights as constants and batch norm folded into convolutions (`torch.jit.freeze`).
    - ``compiled``: `torch.compile` with frozen weights for this number of images, faster than for any number. Fewer are filled
      up to it, or given to the network as it is if they are no more than half. Takes seconds and, on a CPU, a C++ compiler.

    A copy of a classifier may be changed, so that a copied form is None.
    """

    name: Name
    batch_size: int
    forward: Callable[[Images], Logits]

    def __call__(self, x: Images) -> Logits:
        """Logits (b, k) of images in [0, 1]."""
        return self.forward(x)

    def __deepcopy__(self, _memo: dict[int, Any]) -> None:
        return None


def make_form(classifier: Classifier, name: Name, batch_size: int) -> Form:
    """The classifier's form in its precision, on its device.

    Raises XbenchError if the form cannot be made of this network or here (no compiler), or if its probabilities of some images
    are further than `TOLERANCE` from those of the network as it is in the same precision.
    """
    network = _Network(classifier).eval()
    plain = _in_precision(classifier, network)
    example = noise_images(classifier, max(2, min(batch_size, 4)))
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # of what torch will one day take away
            if name == "frozen":
                forward = _frozen(classifier, network, example)
            elif name == "compiled":
                forward = _compiled(classifier, network, batch_size)
            else:
                forward = plain
            # Other numbers of images than the one that was traced, and the one that is used.
            off = max(_distance(forward, plain, noise_images(classifier, count)) for count in (1, 3, batch_size))
    except Exception as error:  # whatever a compiler may raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise XbenchError(f"{classifier.name}: the {name} form cannot be used: {reason}") from error
    if not off <= TOLERANCE[classifier.precision]:
        raise XbenchError(f"{classifier.name}: the {name} form is not used: its probabilities are {off:.1e} off")
    return Form(name, batch_size, forward)


class _Network(nn.Module):
    """Normalisation and network as one, so that what optimises sees both; it shares the classifier's parameters."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.module
        self.register_buffer("mean", classifier.mean)
        self.register_buffer("std", classifier.std)

    def forward(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.module(x)
        return logits


def _in_precision(classifier: Classifier, function: Callable[[Tensor], Tensor]) -> Callable[[Images], Logits]:
    """The function under automatic mixed precision if that is the classifier's, with logits of the images' type."""
    if classifier.precision == "fp32":
        return function
    kind = classifier.device.type

    def mixed(x: Images) -> Logits:
        with torch.autocast(kind, torch.bfloat16):
            return function(x).to(x.dtype)

    return mixed


def _frozen(classifier: Classifier, network: nn.Module, example: Images) -> Callable[[Images], Logits]:
    kind, mixed = classifier.device.type, classifier.precision == "bf16"
    with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=False):
        traced: Any = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    frozen = torch.jit.freeze(traced)  # type: ignore[no-untyped-call]
    return (lambda x: frozen(x).to(x.dtype)) if mixed else frozen  # type: ignore[no-any-return]


def _compiled(classifier: Classifier, network: nn.Module, batch_size: int) -> Callable[[Images], Logits]:
    options: dict[str, Any] = {"freezing": True}
    fast = _in_precision(classifier, torch.compile(network, dynamic=False, options=options))
    plain = _in_precision(classifier, network)

    def forward(x: Images) -> Logits:
        count = len(x)
        if not batch_size / 2 < count <= batch_size:
            return plain(x)
        # Of one layout: for another the compiler would start again.
        return fast(nn.functional.pad(x.contiguous(), (0, 0, 0, 0, 0, 0, 0, batch_size - count)))[:count]

    # To the compiler all networks and sizes are one function, of which it makes only a few versions by default.
    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
        forward(noise_images(classifier, batch_size))
    return forward


def noise_images(classifier: Classifier, count: int) -> Images:
    """Images of noise, the same at every call: finer and coarser ones, darker and lighter ones."""
    generator = torch.Generator().manual_seed(0)
    c, h, w = classifier.shape
    fine = torch.rand((count, c, h, w), generator=generator)
    coarse = torch.rand((count, c, 4, 4), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    return torch.lerp(smooth, fine, torch.rand((count, 1, 1, 1), generator=generator)).to(classifier.mean)


def _distance(one: Callable[[Images], Logits], other: Callable[[Images], Logits], x: Images) -> float:
    """The largest difference of two functions' probabilities; infinite where one gives NaN."""
    difference = (one(x).double().softmax(1) - other(x).double().softmax(1)).abs()
    return float(difference.nan_to_num(torch.inf).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's remarks on what this machine does not have."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
