"""Does a map change when the classifier's weights are randomised?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xbench.batches import STREAMED
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method, TrainedMethod
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops import similarity
from xbench.ops.normalise import minmax
from xbench.randomising import copied, randomise
from xbench.subset import Batch
from xbench.types import Maps, Scores


@METRICS.register("randomisation")
@dataclass(frozen=True)
class Randomisation(Metric):
    r"""Similarity of the maps of the intact and of the randomised classifier, mean over stages; it must fall.

    $$\frac{1}{L} \sum_{l=1}^{L} \text{sim}(g, g_l)$$

    g_l is the map under the classifier as randomised at stage l of L.

    ``cascading`` randomises all layers from the output down to each stage, ``independent`` the layers of one stage at a time.
    A stage is a group of layers that the classifier declares; where it declares more than ``stages``, consecutive ones are
    merged evenly (own decision), so that the last cascading stage covers all of them. Compared by SSIM (uniform window 5: own
    decision), Pearson correlation, Spearman correlation of the maps and of their absolute values, and Pearson correlation of
    HOG descriptors (cells of 16 px, 4 px below 64 px: own decision); SSIM and HOG see maps min-max normalised to [0, 1]. The
    curves hold every stage (b, stages). A constant map has no correlations: an image with one at any stage scores NaN.

    The class explained stays the original one (own decision); ``target="predicted"`` explains the randomised classifier's own
    prediction. A trained method does not ask the classifier when it explains: it is fitted anew on every randomised classifier
    with its reduced recipe and compared with such a fit on the intact one; the curves ``floor_*`` (b, 1) compare the latter
    with a fit of another seed, the noise floor (own decision). A control, which ignores the classifier, scores 1.

    Source: Adebayo et al. 2018, https://arxiv.org/abs/1810.03292. Raises ValueError for a value that is not valid.
    """

    mode: Literal["cascading", "independent"] = "cascading"
    stages: int = 5
    target: Literal["original", "predicted"] = "original"
    seed: int = 0

    columns: ClassVar[tuple[Column, ...]] = (
        Column("ssim", "SSIM", False),
        Column("pc", "Pearson correlation", False),
        Column("spearman", "Spearman correlation", False),
        Column("spearman_abs", "Spearman correlation of absolute values", False),
        Column("hog", "HOG Pearson correlation", False),
    )
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("stages randomised, from the output down", 1, None)
    uses_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.mode not in ("cascading", "independent"):
            raise ValueError(f"mode={self.mode!r}: valid are 'cascading' and 'independent'")
        if self.target not in ("original", "predicted"):
            raise ValueError(f"target={self.target!r}: valid are 'original' and 'predicted'")
        if self.stages < 1:
            raise ValueError(f"stages={self.stages}: must be at least 1")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Each similarity (b,) of each image's map to those of the randomised classifiers; ``maps`` is not used."""
        classifier = explainer.classifier
        fitted = explainer.refitted(self.seed)  # changes nothing for a method that is not trained
        reference = _views(fitted.maps(batch))
        found, randomised = [], copied(classifier)
        for layers in self._layers(classifier):
            if self.mode == "independent":
                randomised = copied(classifier)
            randomise(randomised, layers, self.seed)  # a layer's draws do not depend on the other layers
            asked = batch
            if self.target == "predicted":
                asked = dataclasses.replace(batch, target=randomised.probabilities(batch.x).argmax(1))
            found.append(fitted.on(randomised).maps(asked))
        compared = _compared(reference, found)
        curves = {name: torch.stack([values[name] for values in compared], 1) for name in reference}
        scores = {name: curve.mean(1) for name, curve in curves.items()}
        if isinstance(explainer.method, TrainedMethod):
            floor = similarity.compare_views(reference, _views(explainer.refitted(self.seed + 1).maps(batch)))
            curves |= {f"floor_{name}": values[:, None] for name, values in floor.items()}
        why = dict.fromkeys(("pc", "spearman", "spearman_abs"), "constant map") | {"hog": "map without gradient"}
        return Scored(scores, curves, similarity.undefined(scores, why))

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """The passes of the method on the intact and on every randomised classifier; those of the refits are not per image."""
        stages = len(self._layers(classifier))
        return method.cost_for(classifier) * (stages + 1) + Passes(forward=stages if self.target == "predicted" else 0)

    def explains(self, method: Method, classifier: Classifier) -> list[Method]:
        """The method on the intact classifier; a trained method is fitted anew instead."""
        return [] if isinstance(method, TrainedMethod) else [method]

    def fits(self, method: Method, classifier: Classifier) -> int:
        """A trained method: one fit per stage, and two on the intact classifier."""
        return len(self._layers(classifier)) + 2 if isinstance(method, TrainedMethod) else 0

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """``classifier declares no stages`` if it has no layers to randomise."""
        return None if classifier.stages else "classifier declares no stages"

    def _layers(self, classifier: Classifier) -> list[list[str]]:
        """The layers that each stage adds, from the output down to the input."""
        declared = classifier.stages
        count = min(self.stages, len(declared))
        ends = [len(declared) * (i + 1) // count for i in range(count)]
        return [[layer for stage in declared[a:b] for layer in stage] for a, b in zip([0, *ends], ends, strict=False)]


def _compared(reference: dict[str, Tensor], found: list[Maps]) -> list[dict[str, Scores]]:
    """The similarities (b,) of every stage's maps to the reference; small maps of several stages are compared at a time."""
    compared: list[dict[str, Scores]] = []
    together = max(1, STREAMED // found[0].numel())
    for start in range(0, len(found), together):
        stages = found[start : start + together]
        repeated = {name: torch.cat([view] * len(stages)) for name, view in reference.items()}
        values = similarity.compare_views(repeated, _views(torch.cat(stages)))
        parts = {name: value.chunk(len(stages)) for name, value in values.items()}
        compared += [{name: parts[name][i] for name in parts} for i in range(len(stages))]
    return compared


def _views(maps: Maps) -> dict[str, Tensor]:
    scaled, ranks = minmax(maps), similarity.average_ranks(maps)
    return {
        "ssim": scaled,
        "pc": maps,
        "spearman": ranks,
        "spearman_abs": similarity.average_ranks(maps.abs()) if (maps < 0).any() else ranks,
        "hog": similarity.hog(scaled, similarity.hog_cell(maps.shape[1])),
    }
