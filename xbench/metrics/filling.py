"""Filling: does an image whose object was replaced by a fill still show the object, and how far is it from the real one?"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from xbench.classifier import CLASSIFIERS, Classifier, Passes
from xbench.errors import XbenchError
from xbench.explainer import Explainer
from xbench.fill import make_filler, no_inpainter
from xbench.inpainting import checksum, pinned
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.metrics._truth import object_pixels
from xbench.ops.similarity import ms_ssim
from xbench.perceptual import BACKBONE, HUB_FILE, hub_backbone, lpips_distance
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Images, Maps, Scores

JUDGES = ("mnist-resnet8", "mnist-cnn")
"""Classifiers that ship with their weights and may judge what another one explains; the first comes first."""


@METRICS.register("filling")
@dataclass(frozen=True)
class Filling(Metric):
    r"""How well the fill of a perturbation method removes the object: all pixels of its mask, or else its boxes, are replaced.

    $$
    \text{accuracy} = [ \operatorname{argmax}_j q_j(\hat x) = y ], \quad \text{MS-SSIM}(\hat x, x), \quad \text{LPIPS}(\hat x,
    x), \quad \hat x = (1 - B) \, x + B \cdot \text{fill}
    $$

    B are the object's pixels, q the judge's probabilities, y the label; [.] is 1 where the condition holds, else 0.

    It looks at the method's parameter ``fill`` and at no map: two methods with one fill score the same, and a method without
    a fill has no score. Columns, per image:

    - ``accuracy``: 1 if the judge's top-1 class of the filled image is the image's label, else 0; a better remover has less.
    - ``ms_ssim``: multi-scale structural similarity of the filled and the real image, in [0, 1]; a better remover has less.
    - ``lpips``: their distance in the features of AlexNet, see `xbench.perceptual`; a better remover has more.
    - ``real``: the judge's ``accuracy`` on the real image, reported.

    An image without an object has no score. Without AlexNet's weights ``lpips`` is NaN, with what to do as the reason.

    Source: Agarwal and Nguyen 2020, https://arxiv.org/abs/1910.04256, table of filling methods; Zhang et al. 2018
    (https://arxiv.org/abs/1801.03924) for LPIPS, whose published values there are larger than the package's mean gives. Own
    decisions: where an image has no mask of its object the boxes stand for it; the filled image is clipped to [0, 1], which
    noise exceeds; one draw of the noise per image, the same for every method.

    Args:
        judge: spec of the classifier that judges the images, another network than the one that is explained, as in the paper;
            it must take the same images and labels. None: for the digits of `mnist` the shipped `mnist-resnet8` (98.7 % of the
            test part, by its metadata), or `mnist-cnn` where that is explained; for other images, of which no second network
            ships, the explained one itself (own decision), which evaluation parts of correctly predicted images were chosen
            by, so that its ``real`` is 1 there.
        lpips_backbone: ``FILE:SHA256``, a safetensors file with the tensors ``features.*`` of torchvision's AlexNet, pinned by
            at least the first 12 digits of its sha256. None: torchvision's own file, if it was downloaded before.

    Raises ValueError for a malformed ``lpips_backbone``.
    """

    judge: str | None = None
    lpips_backbone: str | None = None

    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("accuracy", "Accuracy without the object", False),
        Column("ms_ssim", "MS-SSIM to the real image", False),
        Column("lpips", "LPIPS to the real image", True),
        Column("real", "Accuracy on the real image", None),
    )
    uses_maps: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = True
    takes_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.lpips_backbone is not None and not all(self.lpips_backbone.rpartition(":")[::2]):
            raise ValueError(f"lpips_backbone must be written FILE:SHA256, {BACKBONE}, got {self.lpips_backbone!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a result's key holds, with the weights of the judge and of the backbone."""
        judge = [_loaded(spec, "cpu").weights_digest for spec in (JUDGES if self.judge is None else [self.judge])]
        backbone = self._backbone()
        return {**super().identity, "judge": judge, "backbone": None if backbone is None else checksum(backbone)}

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The four scores (b,); ``maps`` is not used."""
        classifier, x = explainer.classifier, batch.x
        inside, without, record = object_pixels(batch)
        keep = 1 - inside[:, None].to(x)
        filled = replaced(x, keep, explainer.method.fill, classifier, ImageRandom(explainer.seed, batch.ids))
        label = torch.cat([batch.label, batch.label])
        correct = (self._judging(classifier).probabilities(torch.cat([x, filled])).argmax(1) == label).to(x)
        real, accuracy = correct.chunk(2)
        distance, why = self._distance(x, filled)
        scores = {"accuracy": accuracy, "ms_ssim": ms_ssim(x, filled).to(x), "lpips": distance, "real": real}
        for values in scores.values():
            values[list(without)] = math.nan
        reasons = dict.fromkeys(scores, without)
        missing = dict.fromkeys(range(len(x)), why) if why else without
        return Scored(scores, reasons={**reasons, "lpips": missing}, record=record)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """Two forward passes of the judge: the real image and the filled one."""
        return Passes(forward=2)

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """No fill, or no inpainter ships for the images; XbenchError if the judge takes other images or labels."""
        self._judging(classifier)
        return "no fill" if method.fill is None else no_inpainter(method.fill, classifier)

    def _judging(self, classifier: Classifier) -> Classifier:
        """The judge, counting its passes with those of the explained classifier."""
        given = _takes(classifier)
        if self.judge is not None:
            judge = _loaded(self.judge, str(classifier.device))
            if _takes(judge) != given:
                raise XbenchError(
                    f"judge {self.judge!r} takes (shape, classes, labels) {_takes(judge)}, {classifier.name!r} {given}"
                )
        else:
            shipped = [_loaded(spec, str(classifier.device)) for spec in JUDGES]
            others = [c for c in shipped if _takes(c) == given and c.weights_digest != classifier.weights_digest]
            judge = others[0] if others else classifier
        if judge.weights_digest == classifier.weights_digest:
            return classifier  # in its form
        judge = judge.to(classifier.mean.dtype)
        judge.passes, judge.batch_size = classifier.passes, classifier.batch_size
        return judge

    def _backbone(self) -> Path | None:
        """The file with AlexNet's weights, or None if there is none; XbenchError if it is not the one that is named."""
        if self.lpips_backbone is not None:
            file, _, sha = self.lpips_backbone.rpartition(":")
            return pinned(Path(file), sha)
        path = hub_backbone()
        if not path.is_file():
            return None
        if not checksum(path).startswith(HUB_FILE.partition(".")[0][-8:]):
            raise XbenchError(f"{path} is damaged: its sha256 is not the one in its name; delete it or give lpips_backbone=")
        return path

    def _distance(self, x: Images, filled: Images) -> tuple[Scores, str]:
        """LPIPS (b,) and no reason; or NaN and what is missing."""
        backbone = self._backbone()
        if backbone is not None:
            return lpips_distance(backbone)(x, filled), ""
        missing = f"no AlexNet weights: place torchvision's {HUB_FILE} in {hub_backbone().parent}"
        return torch.full_like(x[:, 0, 0, 0], math.nan), f'{missing}, or give lpips_backbone="FILE:SHA256"'


@torch.no_grad()
def replaced(x: Images, keep: Images, fill: str, classifier: Classifier, rng: ImageRandom) -> Images:
    """Images (b, c, h, w) in [0, 1], whose pixels are replaced by a fill where ``keep`` (b, 1, h, w), zeros and ones, is 0."""
    filler = make_filler(fill, classifier, x, rng)
    parts = torch.arange(len(x), device=x.device).split(classifier.batch_size)
    made = torch.cat([filler(image, torch.zeros_like(image), keep[image]) for image in parts])
    return torch.where(keep > 0, x, made).clamp(0, 1)


def _takes(classifier: Classifier) -> tuple[tuple[int, int, int], int, str]:
    return classifier.shape, classifier.classes, classifier.label_space


@functools.lru_cache(maxsize=4)
def _loaded(judge: str, device: str) -> Classifier:
    return CLASSIFIERS.make(judge).load().to(device)
