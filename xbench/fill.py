"""The image that replaces removed pixels: one family, one interface, used by methods and metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from torch import Tensor

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.inpainting import inpainter_for, load_inpainter, load_torchscript, pinned, shipped
from xbench.ops.blur import gaussian_blur
from xbench.ops.imputation import linear_imputation, local_mean
from xbench.ops.inpainting import biharmonic, telea
from xbench.rng import ImageRandom
from xbench.types import Images, Masks

CONSTANT = ("blur", "gray", "mean", "mean-noise", "noise", "zero")
"""Fills that do not depend on the mask."""
FILLS = tuple(sorted((*CONSTANT, "biharmonic", "inpaint", "linear", "local-mean", "telea", "torchscript")))
Filler = Callable[[Tensor, Tensor, Masks], Images]
"""(image indices (n,), step indices (n,), keep masks (n, 1, h, w)) -> replacements (n, c, h, w)."""

REDRAWN = frozenset({"linear"})
"""Fills whose noise is drawn anew for every step; the others give the same for the same mask."""

NOISE = 0.2
IMPUTATION_NOISE = 0.01


def valid_fill(spec: str) -> str:
    """The spec itself; ValueError saying what is valid if it names no fill, or no file or checksum where one is needed."""
    name, _, rest = spec.partition(":")
    if name not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {spec!r}")
    if rest and name not in ("inpaint", "torchscript"):
        raise ValueError(f"fill {name!r} takes no file, got {spec!r}")
    if (rest or name == "torchscript") and not all(rest.rpartition(":")[::2]):
        raise ValueError(f"fill {spec!r} must be written {name}:FILE:SHA256, with at least 12 digits of the file's sha256")
    return spec


Fill = Annotated[str, pydantic.AfterValidator(valid_fill)]
"""The spec of a fill, as annotation of a parameter."""


def make_filler(spec: str, classifier: Classifier, x: Images, rng: ImageRandom) -> Filler:
    """What replaces the removed pixels of images ``x`` (b, c, h, w) in [0, 1], for any masks on them.

    The same image whatever the mask:

    - ``blur``: the image under a Gaussian of 10 px at 224 px, scaled with the height (own decision).
    - ``gray``: the classifier's mean pixel, the zero of its normalised input.
    - ``mean``: each image's own mean per channel.
    - ``mean-noise``: that mean plus N(0, 0.2) per value (own decision: the strength).
    - ``noise``: N(0.5, 0.2) per value (own decision: both numbers).
    - ``zero``: black.

    From the kept pixels, those with a mask of at least 0.5 (own decision for soft masks):

    - ``local-mean``: the mean of the kept pixels around, see `xbench.ops.imputation.local_mean`.
    - ``linear``: noisy linear imputation, `xbench.ops.imputation.linear_imputation` + N(0, 0.01) per value
      (Rong et al. 2022, https://arxiv.org/abs/2202.00449), other noise for every step.
    - ``biharmonic``, ``telea``: classical inpainting on the CPU, image by image, see `xbench.ops.inpainting`.
    - ``inpaint``: the learned inpainter that ships for the classifier's kind of images; ``inpaint:FILE:SHA256`` one that
      ``xbench fit-inpainter`` wrote.
    - ``torchscript:FILE:SHA256``: a TorchScript inpainter of the user's, see `xbench.inpainting.load_torchscript`.

    A file is pinned by the first digits (12 or more) of its sha256, so that a result says which inpainter it was made with.

    Noise is keyed by image, and not clipped to [0, 1], because clipping would shift the mean of dark images (own decision). No
    gradient flows through a fill. What is kept is kept exactly: whoever calls a filler composites, as the stream does.

    Raises ValueError for a spec that is not valid, NotApplicable where no inpainter ships, XbenchError for a file that is
    missing, damaged, of another checksum or for images with other channels.
    """
    name, _, rest = valid_fill(spec).partition(":")
    if name in CONSTANT:
        fill = _constant(name, classifier, x, rng).expand_as(x)
        return lambda image, step, keep: fill.index_select(0, image)
    restore = _restorer(name, rest, classifier, x)

    @torch.no_grad()
    def filler(image: Tensor, step: Tensor, keep: Masks) -> Images:
        fill = restore(x.index_select(0, image), (keep >= 0.5).to(x))
        if name in REDRAWN:
            fill = fill + IMPUTATION_NOISE * rng.normal_at("fill", fill.shape[1:], image, step).to(fill)
        return fill

    return filler


def no_inpainter(spec: str, classifier: Classifier) -> str | None:
    """Why there is no such fill for the classifier's images, or None."""
    if spec != "inpaint" or shipped(classifier.label_space):
        return None
    return (
        f"no inpainter ships for images of {classifier.label_space}: train one with xbench fit-inpainter, "
        'or give fill="torchscript:FILE:SHA256"'
    )


def blur_sigma(height: int) -> float:
    """Standard deviation in pixels of the fill ``blur``: 10 px at 224 px (Fong and Vedaldi 2017, scaled with the height)."""
    return 10 * height / 224


def _constant(name: str, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
    """The fills that are the same for every mask."""
    mean = x.mean((2, 3), keepdim=True)
    match name:
        case "blur":
            return gaussian_blur(x, blur_sigma(x.shape[-2]))
        case "gray":
            return classifier.gray.to(x)
        case "mean":
            return mean
        case "zero":
            return x.new_zeros(())
    return (mean if name == "mean-noise" else 0.5) + NOISE * rng.normal("fill", x.shape[1:]).to(x)


def _restorer(name: str, rest: str, classifier: Classifier, x: Images) -> Callable[[Images, Masks], Images]:
    """(images, hard keep masks) -> images whose removed pixels are made up from the others."""
    match name:
        case "local-mean":
            return local_mean
        case "linear":
            return linear_imputation
        case "biharmonic":
            return biharmonic
        case "telea":
            return telea
    file, _, sha = rest.rpartition(":")
    if name == "torchscript":
        script = load_torchscript(pinned(Path(file), sha)).to(x.device)
        return lambda images, keep: _checked(file, script((images * keep).float(), 1 - keep.float()), images)
    network = load_inpainter(pinned(Path(file), sha)) if rest else inpainter_for(classifier.label_space)
    network = network.to(x)
    return lambda images, keep: _checked(file, network(images * keep, keep), images)


def _checked(file: str, fill: object, images: Images) -> Images:
    """The inpainter's images in the type of ``images``; XbenchError if they are not images of that shape."""
    if not isinstance(fill, Tensor) or fill.shape != images.shape:
        found = tuple(fill.shape) if isinstance(fill, Tensor) else type(fill).__name__
        raise XbenchError(f"inpainter {file or 'that ships'} returned {found} for images {tuple(images.shape)}")
    return fill.to(images)
