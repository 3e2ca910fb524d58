"""Adapters: a callable, a Captum attribution or a class of pytorch-grad-cam becomes a method in one line.

In a file of the folder ``methods`` on ``XBENCH_PATH``, or in a notebook::

    from_callable("my-map", my_map)  # my_map(model, x, y) -> maps
    from_captum("occlusion", Occlusion, sliding_window_shapes=lambda x: (x.shape[1], 4, 4))
    from_grad_cam("xgradcam", XGradCAM)

The foreign code gets one image at a time unless it is said to be ``batchable``; a seed of the global generators (torch, NumPy,
Python) that is keyed by the image and the run's seed; and a copy of the classifier, whose passes are counted. What it leaves
behind there (hooks, modes, changed weights), also by an exception, is thrown away with the copy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args

import pydantic

from xbench.classifier import Classifier, Passes
from xbench.errors import XbenchError, unknown
from xbench.foreign import Adapted, Foreign, Reduction
from xbench.method import METHODS, Method
from xbench.registry import code_of
from xbench.types import Images, Labels


def from_callable(
    name: str,
    function: Callable[..., Any],
    *,
    cost: Passes | None = None,
    batchable: bool = False,
    stochastic: bool = False,
    reduce: Reduction = "sum",
    **parameters: Any,
) -> type[Method]:
    """Registers a callable (model, x, y, **parameters) -> maps as the method ``name`` and returns its class.

    ``model`` takes images (n, c, h, w) in [0, 1] and returns logits (n, classes); it normalises by itself and has the
    attributes of a ``Classifier``. ``x`` are such images, ``y`` (n,) the classes to explain. Gradients are enabled. Maps
    (n, h, w) or attributions (n, c, h, w), as a tensor on any device or a NumPy array; n is 1 unless ``batchable``.

    Args:
        name: of the method, as in a spec.
        function: the callable.
        cost: classifier passes per image. None: measured once per image shape and parameters, on a black image and a small
            network (own decision); a cost that depends on the network or on what the image shows has to be given.
        batchable: the maps are the same whatever images share a batch, and ``function`` is to be given full batches.
        stochastic: it draws random numbers; the method then has a parameter ``seed``. They have to come from the global
            generators of torch, NumPy or Python, which are seeded for each image, so that it cannot be ``batchable`` too.
        reduce: how the channels of attributions become a map: ``sum``, ``sum-abs`` or ``max-abs`` (own decision: ``sum``).
        parameters: hyper-parameters with their defaults, plain values: part of the spec, and passed on to ``function``.

    Raises XbenchError if the name is malformed or taken, if a parameter is no plain value or has a name that every method
    uses, for an unknown rule, if the code of ``function`` cannot be found, and if it is both batchable and stochastic.
    """
    if not callable(function):
        raise XbenchError(f"method {name!r}: {function!r} is not callable")
    foreign = Foreign(function, None, cost, batchable, reduce, coarse=False, digest="")
    return _registered(name, foreign, [function], parameters, stochastic, sys._getframe(1))


def from_captum(
    name: str,
    make: Callable[[Any], Any],
    *,
    cost: Passes | None = None,
    batchable: bool = False,
    stochastic: bool = False,
    reduce: Reduction = "sum",
    **arguments: Any,
) -> type[Method]:
    """Registers a Captum attribution (https://captum.ai) as the method ``name`` and returns its class.

    ``make`` is the class, or a function of the model that makes the object, as in
    ``lambda model: LayerGradCam(model, model.target_layer())``. ``arguments`` are those of ``attribute`` besides ``inputs`` and
    ``target``: plain values are the method's hyper-parameters; a function is called with the images (n, c, h, w), for what
    depends on them, as windows, baselines or superpixels do. The rest is as in ``from_callable``. Attributions with another
    grid than the image's, as of a layer, are reduced and then resized by bilinear interpolation with ``align_corners=False``
    (own decision).

    Raises XbenchError as ``from_callable`` does, and if ``make`` is an object that is already bound to a model.
    """
    _unbound(name, make)
    computed = {key: value for key, value in arguments.items() if callable(value)}

    def call(model: Classifier, x: Images, y: Labels, **parameters: Any) -> Any:
        of_images = {key: function(x) for key, function in computed.items()}
        return make(model).attribute(x.requires_grad_(), target=y, **parameters, **of_images)

    plain = {key: value for key, value in arguments.items() if key not in computed}
    foreign = Foreign(call, make, cost, batchable, reduce, coarse=True, digest="")
    return _registered(name, foreign, [make, *computed.values()], plain, stochastic, sys._getframe(1))


def from_grad_cam(
    name: str,
    make: Callable[..., Any],
    *,
    cost: Passes | None = None,
    batchable: bool = False,
    stochastic: bool = False,
    **arguments: Any,
) -> type[Method]:
    """Registers a class of pytorch-grad-cam (https://github.com/jacobgil/pytorch-grad-cam) as a method and returns its class.

    ``make`` is the class, which is then made for the classifier's ``cam_layer`` and does not apply where there is none; or a
    function of the model that makes the object, as in ``lambda model: GradCAM(model, [model.module.layer3])``. ``arguments``
    are those of its call besides ``input_tensor`` and ``targets``: plain values, the method's hyper-parameters. The rest is as
    in ``from_callable``. Maps are what the package returns: in [0, 1], each divided by its own maximum.

    Raises XbenchError as ``from_captum`` does.
    """
    _unbound(name, make)

    def made(model: Classifier) -> Any:
        return make(model, [model.target_layer()]) if isinstance(make, type) else make(model)

    def call(model: Classifier, x: Images, y: Labels, **parameters: Any) -> Any:
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        cam = made(model)  # not as a context manager, because that one hides an IndexError
        return cam(input_tensor=x.requires_grad_(), targets=[ClassifierOutputTarget(c) for c in y.tolist()], **parameters)

    foreign = Foreign(call, made, cost, batchable, "sum", coarse=False, digest="")
    return _registered(name, foreign, [make], arguments, stochastic, sys._getframe(1))


def _registered(
    name: str, foreign: Foreign, given: list[Any], parameters: dict[str, Any], stochastic: bool, caller: FrameType
) -> type[Method]:
    """Makes and registers the class of a method; ``given`` are the functions and classes that the user gave."""
    if foreign.reduce not in get_args(Reduction):
        raise unknown(f"reduce of method {name!r}", str(foreign.reduce), get_args(Reduction))
    if stochastic and foreign.batchable:
        raise XbenchError(f"method {name!r} cannot be batchable and stochastic: its draws would depend on the batch")
    fields: list[tuple[str, Any, Any]] = []
    for key, value in parameters.items():
        if hasattr(Adapted, key):
            raise XbenchError(f"method {name!r}: every method has a {key!r}, a parameter cannot be called so")
        try:
            fields.append((key, Plain, dataclasses.field(default=_plain(value))))
        except ValueError as error:
            raise XbenchError(f"method {name!r}: parameter {key}: {error}; put it into the function") from error
    if stochastic:
        fields.append(("seed", int, dataclasses.field(default=0)))
        foreign = dataclasses.replace(foreign, call=_without_seed(foreign.call))
    module = str(caller.f_globals.get("__name__"))
    definition = _definition(given[0])
    how = "in batches" if foreign.batchable else "one image at a time"
    doc = (
        f"{definition.__module__}.{definition.__qualname__}, asked {how} (own decision: channels are reduced by "
        f"{foreign.reduce!r}).\n\n{inspect.getdoc(definition) or ''}"
    )
    namespace = {
        "__module__": module,
        # A cell of a notebook is run again, a line of a file is not: a second one with the same name is an error.
        "__qualname__": f"{name}, line {caller.f_lineno}" if _file(module) else name,
        "__doc__": doc.strip(),
        "foreign": dataclasses.replace(foreign, digest=_digest(name, module, given)),
    }
    made = dataclasses.make_dataclass("AdaptedMethod", fields, bases=(Adapted,), namespace=namespace, frozen=True)
    return METHODS.register(name)(made)


def _without_seed(call: Callable[..., Any]) -> Callable[..., Any]:
    """The seed is that of the global generators; foreign code does not get it."""
    return lambda model, x, y, seed, **parameters: call(model, x, y, **parameters)


def _unbound(name: str, make: Any) -> None:
    if not (isinstance(make, type | functools.partial) or inspect.isroutine(make)):
        raise XbenchError(
            f"method {name!r}: a {type(make).__name__} is bound to one model already; "
            "give its class, or a function that makes it, as in lambda model: ..."
        )


def _plain(value: Any) -> Any:
    """A value that a spec can hold, lists as tuples; ValueError for any other."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a {type(value).__name__} is no plain value: number, text, True, False, None or a tuple of these")


Plain = Annotated[Any, pydantic.AfterValidator(_plain)]


def _definition(thing: Any) -> Any:
    """The function or class that a callable is made of."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return thing if isinstance(thing, type) or inspect.isroutine(thing) else type(thing)


def _file(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def _digest(name: str, module: str, given: list[Any]) -> str:
    """sha256 of the files with the adapting line and with what it adapts; in a notebook, of the latter's code."""
    definitions = [_definition(thing) for thing in given]
    digest = hashlib.sha256()
    for each in dict.fromkeys([module, *(definition.__module__ for definition in definitions)]):
        if (file := _file(each)) is not None:
            digest.update(Path(file).read_bytes())
            continue
        for definition in definitions:
            if definition.__module__ == each:
                try:
                    digest.update(code_of(definition).encode())
                except XbenchError as error:
                    raise XbenchError(f"method {name!r}: {error}") from error
    return digest.hexdigest()
