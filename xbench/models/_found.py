"""What a network tells about itself: its logits, its last feature maps, and its layers in the order in which they compute."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.errors import XbenchError

STAGES = 5


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer: its name and its output."""

    name: str
    layer: nn.Module
    output: Any


def classifier_of(
    module: nn.Module,
    *,
    name: str,
    size: int,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    label_space: str | None,
    cam_layer: str | None,
    stages: Sequence[Sequence[str]] | None = None,
) -> Classifier:
    """The network as a classifier of square images; what is None is found by a pass of one image.

    ``mean`` None is 0 and ``std`` None is 1: the network takes images as they are, in [0, 1]. Raises XbenchError if the network
    does not take such images or does not return logits, or if nothing says what the logits mean.
    """
    shape = (channels, size, size)
    module.eval()
    starts, calls = _traced(module, shape, name)
    logits = calls[-1].output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise XbenchError(f"classifier {name!r} returns {got} for an image, expected logits (1, classes)")
    classes = logits.shape[1]
    if not label_space:
        raise XbenchError(f"classifier {name!r}: say what its {classes} logits mean, as its dataset does: label_space=...")
    made = Classifier(
        module,
        name=name,
        shape=shape,
        classes=classes,
        label_space=label_space,
        mean=_per_channel("mean", mean, 0.0, channels),
        std=_per_channel("std", std, 1.0, channels),
        cam_layer=cam_layer or found_cam_layer(calls, shape),
        stages=stages or found_stages(module, starts),
    )
    if cam_layer:
        _ = made.cam_channels  # raises if it has none
    return made


def found_cam_layer(calls: Sequence[Call], shape: tuple[int, int, int]) -> str | None:
    """The last layer whose output are feature maps (1, c, h, w) of more than one pixel, pooling aside; None if there is none.

    Of several that return the same maps it is the outermost. Feature maps have the image's proportions, up to a pixel. None if
    they are only a beginning: more layers with parameters behind them than up to them return tokens, as in vision transformers,
    where the patch embedding is the last to return maps (own decisions).
    """
    pooled = {id(call.output) for call in calls if "Pool" in type(call.layer).__name__}
    # What passes through a dropout or a softmax of its own may be attention, which is as square as an image.
    passed = ("Drop", "Softmax")
    maps = [_is_maps(c.output, shape) and not any(part in type(c.layer).__name__ for part in passed) for c in calls]
    places = [i for i, c in enumerate(calls) if maps[i] and id(c.output) not in pooled]
    if not places:
        return None
    last = places[-1]
    leading = {call.name for call in calls[: last + 1] if _has_own(call.layer)}
    tokens = {
        call.name
        for call in calls[last + 1 :]
        if _has_own(call.layer) and isinstance(call.output, Tensor) and call.output.ndim == 3
    }
    return calls[last].name if len(tokens) <= len(leading) else None


def found_stages(module: nn.Module, starts: Sequence[str]) -> list[list[str]]:
    """The layers with parameters of their own, from the output to the input, in at most 5 groups of about the same number.

    Layers stand in the order of their first call; what counts are those with a weight matrix or kernel, to which the norms
    behind it belong. A layer that is not called belongs to the one around it, or to the output if there is none. For VGG-16
    these are the 3, 6, 9, 12 and 16 layers of the VarSal paper (own decision for other networks).
    """
    layers = dict(module.named_modules())
    order = {name: i for i, name in enumerate(dict.fromkeys(starts))}

    def place(name: str) -> int:
        around = name
        while around and around not in order:
            around = around.rpartition(".")[0]
        return order[around] if around or not name else len(order)

    owners = sorted((name for name, layer in layers.items() if _has_own(layer)), key=place)
    units: list[list[str]] = []
    for name in owners:
        heavy = any(p.ndim >= 2 for p in layers[name].parameters(recurse=False))
        if heavy or not units:
            units.append([])
        units[-1].append(name)
    units = [unit[::-1] for unit in units[::-1]]
    count = min(STAGES, len(units))
    ends = [len(units) * i // count for i in range(count + 1)] if count else []
    return [[name for unit in units[a:b] for name in unit] for a, b in itertools.pairwise(ends)]


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What ``make`` returns when torch's generator has a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def channels_of(module: nn.Module) -> int:
    """Channels of the images: what the first convolution takes, 3 if there is none."""
    convolutions: Iterator[nn.Conv2d] = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return next((layer.in_channels for layer in convolutions), 3)


def _traced(module: nn.Module, shape: tuple[int, int, int], name: str) -> tuple[list[str], list[Call]]:
    """The names of the layers in the order in which their calls begin, and the calls in the order in which they end."""
    starts: list[str] = []
    calls: list[Call] = []
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for label, layer in module.named_modules():
            hooks.enter_context(layer.register_forward_pre_hook(lambda _m, _i, label=label: starts.append(label)))
            hooks.enter_context(layer.register_forward_hook(lambda m, _i, out, label=label: calls.append(Call(label, m, out))))
        try:
            module(torch.zeros(1, *shape))
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise XbenchError(
                f"classifier {name!r} does not take images {shape} ({why}); give the size that it takes"
            ) from error
    return starts, calls


def _is_maps(output: object, shape: tuple[int, int, int]) -> bool:
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    h, w = output.shape[2:]
    fits = h <= shape[1] and w <= shape[2] and abs(w - h * shape[2] / shape[1]) <= 1
    return fits and h * w > 1


def _has_own(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def _per_channel(what: str, given: Sequence[float] | None, default: float, channels: int) -> list[float]:
    values = [default] * channels if given is None else list(given)
    if len(values) != channels:
        raise XbenchError(f"{what}={tuple(values)}: expected one value for each of the {channels} channels")
    if not all(0 <= value <= 1 for value in values) or (what == "std" and not all(values)):
        raise XbenchError(f"{what}={tuple(values)}: must be in [0, 1], the unit of pixels{', and not 0' * (what == 'std')}")
    return values
