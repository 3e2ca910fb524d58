"""A network of the user's own, made by a function."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError, unknown
from xbench.models._found import channels_of, classifier_of, seeded


@CLASSIFIERS.register("module")
@dataclass(frozen=True)
class Module(ClassifierEntry):
    """Whatever network a function of yours returns: images (b, c, size, size) in [0, 1] to logits.

    Found by themselves: the number of channels, what the first convolution takes (3 if there is none); the number of logits;
    the layer for activation maps, if there are any; 5 groups of layers from the output to the input as randomisation stages
    (see `xbench.models._found`).

    Args:
        factory: ``"package.module:function"``: a function (or class) without arguments that returns an ``nn.Module``, with its
            weights. It is called with torch's generator seeded.
        size: side of the images in pixels.
        mean, std: one value per channel, in [0, 1] pixel units; without them the network is given images in [0, 1] as they are,
            and black is what the fill ``gray`` fills with.
        cam_layer: name of the layer for activation maps.
        label_space: what the logits mean, as the dataset says.

    Raises XbenchError if the function cannot be imported, fails or returns something else, if the network does not take such
    images or returns no logits, or if ``size`` or ``label_space`` is missing.
    """

    factory: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cam_layer: str | None = None
    label_space: str | None = None

    def load(self) -> Classifier:
        """The classifier on the CPU."""
        if self.factory is None or self.size is None:
            raise XbenchError(
                "classifier 'module' needs a function and the images' size: "
                'module(factory="package.module:function", size=224, label_space="...")'
            )
        module = made_by(self.factory)
        return classifier_of(
            module,
            name=self.spec,
            size=self.size,
            channels=channels_of(module),
            mean=self.mean,
            std=self.std,
            label_space=self.label_space,
            cam_layer=self.cam_layer,
        )


def from_module(
    module: nn.Module,
    *,
    name: str,
    size: int,
    label_space: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cam_layer: str | None = None,
    stages: Sequence[Sequence[str]] | None = None,
) -> Classifier:
    """A network at hand as a classifier on the CPU: images (b, c, size, size) in [0, 1] to logits.

    It is a copy, in eval mode and frozen; the network stays as it is. ``name`` is shown on boards; ``stages`` are the layers
    for the randomisation check, from the output to the input; the rest, and what is found by itself, is as in ``Module``.

    Raises XbenchError if the network does not take such images or returns no logits, and for a layer that it does not have.
    """
    return classifier_of(
        copy.deepcopy(module).cpu(),
        name=name,
        size=size,
        channels=channels_of(module),
        mean=mean,
        std=std,
        label_space=label_space,
        cam_layer=cam_layer,
        stages=stages,
    )


def made_by(factory: str) -> nn.Module:
    """What the function returns, seeded; XbenchError if it cannot be imported, fails, or returns no network."""
    package, _, name = factory.partition(":")
    if not package or not name:
        raise XbenchError(f"factory {factory!r}: must be written package.module:function")
    try:
        module = importlib.import_module(package)
    except Exception as error:
        raise XbenchError(
            f"factory {factory!r}: {package} cannot be imported ({type(error).__name__}: {error}); is it on PYTHONPATH?"
        ) from error
    make = getattr(module, name, None)
    if not callable(make):
        own = [n for n, value in inspect.getmembers(module, callable) if not n.startswith("_")]
        raise unknown(f"function of {package}", name, own)
    try:
        network = seeded(make)
    except Exception as error:
        raise XbenchError(f"factory {factory!r} fails ({type(error).__name__}: {error})") from error
    if not isinstance(network, nn.Module):
        raise XbenchError(f"factory {factory!r} returns a {type(network).__name__}, expected an nn.Module")
    return network
