"""Sample realism: what the classifier takes perturbed images for, and whether it reacts to patches beside the object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.fill import make_filler, no_inpainter
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops.boxes import box_masks
from xbench.ops.segments import (
    SEGMENTS,
    default_compactness,
    default_samples,
    default_sigma,
    kept_superpixels,
    superpixels,
)
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Maps, Masks, Scores

COMMONEST = 3


@METRICS.register("sample-realism")
@dataclass(frozen=True)
class SampleRealism(Metric):
    r"""Two looks at the perturbed images that the fill of a perturbation method makes; no map is asked for.

    $$
    \text{entropy} = - \sum_j q_j \log \, q_j, \quad \text{common} = \sum_{j \in \text{top} \, 3} q_j, \quad \text{outside} =
    \text{mean}_P \, \lvert p_c(x) - p_c(x \text{ with } P \, \text{ filled}) \rvert
    $$

    q_j is the share of LIME's samples that are taken for class j, P are the patches that touch no box.

    A classifier that is shown unrealistic images takes most of them for the same few classes, and reacts to a patch far from
    the object. Columns, per image:

    - ``entropy``: entropy in nats of the top-1 labels of LIME's samples, each with half of the superpixels replaced, the whole
      image left out; between 0 and log K for K classes. Reported: alike samples may be realistic ones that all show the object.
    - ``common``: share in [0, 1] of these samples that have one of their 3 commonest labels, reported. The paper's number is of
      the samples of all images together: it comes from the curve.
    - ``outside``: mean over the square patches that touch no box of |p_c(x) - p_c(x with the patch filled)|, in [0, 1];
      lower = better.

    ``curves["labels"]`` (b, K) holds the share of samples with each top-1 label, ``curves["patches"]`` (b, positions) p_c(x)
    minus p_c with the patch filled, in raster order, whether it touches a box or not. ``outside`` is NaN where there are no
    boxes or every patch touches one. As for `filling`, only the method's parameter ``fill`` matters.

    Source: Agarwal and Nguyen 2020, https://arxiv.org/abs/1910.04256 (20.5 % of LIME's samples of ImageNet in three classes;
    0.09 with gray and 0.04 with inpainted patches of 53 px). Own decisions: one histogram per image; the absolute change; the
    samples are those of LIME's defaults with its seed 0.

    Args:
        samples: LIME's perturbed images, the whole image included; None: 1000 as in the paper, 500 below 64 px (own decision).
        patch: side of the patch in pixels; None: 53 at 224 px as in the paper, scaled with the width; 3 below 64 px (own
            decision: digits leave margins of 4 px).
        stride: step between patches in pixels; None: 16 at 224 px, scaled with the width (own decision).

    Raises ValueError if ``samples`` is below 2, ``patch`` or ``stride`` below 1.
    """

    samples: int | None = None
    patch: int | None = None
    stride: int | None = None

    quick: ClassVar[dict[str, int]] = {"samples": 20, "stride": 7}
    columns: ClassVar[tuple[Column, ...]] = (
        Column("entropy", "Entropy of the samples' labels", None, "nats"),
        Column("common", f"Share of the {COMMONEST} commonest labels", None),
        Column("outside", "Probability change outside the boxes", False),
    )
    uses_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("patch", 1), ("stride", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The three scores (b,) and the two curves; ``maps`` is not used."""
        labels = self.labels(explainer, batch)
        change = self.changes(explainer, batch)
        scores = {
            "entropy": torch.special.entr(labels).sum(1),
            "common": labels.topk(min(COMMONEST, labels.shape[1])).values.sum(1),
        }
        reasons: dict[str, dict[int, str]] = {}
        if batch.boxes is None:
            scores["outside"] = torch.full_like(change[:, 0], math.nan)
            reasons["outside"] = dict.fromkeys(range(len(batch)), "no boxes")
        else:
            scores["outside"] = self.outside(change, box_masks(batch.boxes, batch.x), explainer.classifier.shape)
            touched = scores["outside"].isnan().nonzero()[:, 0].tolist()
            reasons["outside"] = dict.fromkeys(touched, "every patch touches a box")
        return Scored(scores, {"labels": labels, "patches": change}, reasons)

    def labels(self, explainer: Explainer, batch: Batch) -> Tensor:
        """The share (b, K) of LIME's samples, but the whole image, that have each class as top-1 label."""
        classifier, x = explainer.classifier, batch.x
        _, _, h, w = x.shape
        rng = ImageRandom(explainer.seed, batch.ids)
        superpixel = superpixels(x, SEGMENTS, default_sigma(classifier.shape), default_compactness(classifier.shape))
        samples = self._samples(classifier.shape) - 1
        kept = kept_superpixels(superpixel.amax(1) + 1, samples + 1, SEGMENTS, rng.uniform)[:, 1:].to(x.device)
        superpixel = superpixel.to(x.device)

        def mask_of(image: Tensor, step: Tensor) -> Masks:
            return kept[image, step].gather(1, superpixel.index_select(0, image)).view(-1, 1, h, w)

        def top(logits: Tensor, _image: Tensor) -> Tensor:
            return logits.argmax(1)

        fill = make_filler(explainer.method.fill, classifier, x, rng)
        label = stream(classifier, x, samples, mask_of, fill, top)
        return F.one_hot(label, classifier.classes).to(x).mean(1)

    def changes(self, explainer: Explainer, batch: Batch) -> Tensor:
        """p_c(x) - p_c(x with the patch filled) for every position of the patch, (b, positions) in raster order."""
        classifier, x = explainer.classifier, batch.x
        patches = self._patches(classifier.shape).to(x.device)

        def mask_of(_image: Tensor, step: Tensor) -> Masks:
            return ~patches[step, None]

        fill = make_filler(explainer.method.fill, classifier, x, ImageRandom(explainer.seed, batch.ids))
        p = stream(classifier, x, len(patches), mask_of, fill, probability_of(batch.target))
        return p[:, -1:] - p[:, :-1]

    def outside(self, change: Tensor, objects: Masks, shape: tuple[int, int, int]) -> Scores:
        """The mean absolute change (b,) over the patches that touch no object; NaN if there is none."""
        patches = self._patches(shape)[:-1].flatten(1).to(objects)
        free = (objects.flatten(1) @ patches.T == 0).to(change)
        return (change.abs() * free).sum(1) / free.sum(1)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass per sample but the whole image, one per patch, and one for the untouched image."""
        return Passes(forward=self._samples(classifier.shape) - 1 + len(self._patches(classifier.shape)))

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """The method has no fill, or no inpainter ships for the images."""
        return "no fill" if method.fill is None else no_inpainter(method.fill, classifier)

    def _samples(self, shape: tuple[int, int, int]) -> int:
        return self.samples or default_samples(shape)

    def _patches(self, shape: tuple[int, int, int]) -> Tensor:
        """Every position of the patch in raster order, then no patch at all: (positions + 1, h, w) bool, True in the patch.

        Positions start at the upper left corner; a patch that is larger than the image covers it.
        """
        _, h, w = shape
        small = w < 64
        patch = self.patch or (3 if small else max(1, round(53 * w / 224)))
        stride = self.stride or max(1, round(16 * w / 224))
        down, right = stripes(h, patch, stride), stripes(w, patch, stride)
        grid = (down[:, None, :, None] & right[None, :, None, :]).flatten(0, 1)
        return torch.cat([grid, torch.zeros_like(grid[:1])])


def stripes(length: int, size: int, stride: int) -> Tensor:
    """Every position of a stretch of ``size`` within ``length`` pixels, from 0 in steps of ``stride``: (n, length) bool."""
    start = torch.arange(0, max(length - size, 0) + 1, stride)[:, None]
    pixel = torch.arange(length)
    return (pixel >= start) & (pixel < start + size)
