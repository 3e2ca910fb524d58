"""Layers of a network initialised anew, reproducibly on any device."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xbench.errors import XbenchError

if TYPE_CHECKING:
    from xbench.classifier import Classifier


def copied(classifier: Classifier) -> Classifier:
    """A copy to be changed, without a form, whose passes are counted with those of the original."""
    twin = copy.deepcopy(classifier)
    twin.passes = classifier.passes
    return twin


@torch.no_grad()
def randomise(classifier: Classifier, layers: Sequence[str], seed: int) -> None:
    """Initialises named layers of a classifier anew, in place, batch-norm statistics included.

    What is drawn for a layer depends on the seed and its name alone. A layer is reset by its ``reset_parameters``. One without,
    such as the class token and the position embedding of a transformer, has its own parameters drawn from N(0, s), s the root
    mean square of the values that each tensor has, and 0.02 for one of zeros (own decision: the network keeps its scale without
    knowing how it was initialised).

    Raises XbenchError if a layer has neither ``reset_parameters`` nor parameters of its own.
    """
    device = classifier.device
    classifier.form = None
    classifier.__dict__.pop("weights_digest", None)
    modules = dict(classifier.module.named_modules())
    with torch.random.fork_rng(devices=[]):
        for name in layers:
            layer = modules[name].cpu()
            word = hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]
            torch.default_generator.manual_seed(int.from_bytes(word, "big") >> 1)  # of the CPU, and no other device's
            reset = getattr(layer, "reset_parameters", None)
            own = list(layer.parameters(recurse=False))
            if callable(reset):
                reset()
            elif own:
                _draw_anew(own)
            else:
                where = f"layer {name!r} of classifier {classifier.name!r} ({type(layer).__name__})"
                raise XbenchError(f"{where} has no reset_parameters and no parameters of its own")
            layer.to(device)


def _draw_anew(parameters: Sequence[Tensor]) -> None:
    """Normal values of the root mean square that each tensor has, or 0.02."""
    for parameter in parameters:
        parameter.normal_(0, float(parameter.double().square().mean().sqrt()) or 0.02)
