"""Rows of the concordance table: metrics that compare maps with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import quantus
import torch
from concordance_removal import QUIET, as_quantus
from concordance_rows import Row, Subject, classifier, over_subjects, subjects
from quantus.functions import similarity_func
from torch import Tensor

from xbench import METHODS, METRICS, Explainer
from xbench.ops.normalise import minmax

STAGES = [stage for group in classifier().stages for stage in group]


def map_rows() -> list[Row]:
    """All rows of this file."""
    return [*similarity_rows(), *randomisation_rows()]


def each(of: Callable[..., float], a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """A similarity of Quantus for every pair of maps."""
    return torch.tensor([float(of(x.numpy(), y.numpy(), **options)) for x, y in zip(a, b, strict=True)])


def similarity_rows() -> list[Row]:
    """Consistency of RISE's maps on three grids, against the similarities of Quantus."""
    method = METHODS.make("rise(masks=50)")

    def made(subject: Subject) -> dict[str, Tensor]:
        explainer = Explainer(method, classifier())
        maps = [minmax(explainer.using(method.at_upsample(m)).maps(subject.batch)).double() for m in (1, 2, 4)]
        pairs = list(combinations(maps, 2))
        scores = METRICS.make("consistency")(explainer, subject.batch, None).scores
        pearson = [each(similarity_func.correlation_pearson, a.flatten(1), b.flatten(1)) for a, b in pairs]
        ssim = [each(similarity_func.ssim, a, b) for a, b in pairs]
        return {**scores, "their pc": torch.stack(pearson).mean(0), "their ssim": torch.stack(ssim).mean(0)}

    values = made(subjects()[0])  # the maps are other ones than the subjects'
    return [
        Row(
            "`consistency`, Pearson",
            "Quantus `correlation_pearson`",
            "RISE on grids of 1, 2 and 4 px",
            values["pc"],
            values["their pc"],
        ),
        Row(
            "`consistency`, SSIM",
            "Quantus `ssim`",
            "a uniform window of 7 px and sample variances; ours is Gaussian, 11 px wide, as in the paper",
            values["ssim"],
            values["their ssim"],
            same=False,
        ),
    ]


def randomised_maps(subject: Subject) -> Iterator[Tensor]:
    """The maps of the intact classifier and of those that ``randomisation`` makes, from the output down."""
    yield subject.explainer.maps(subject.batch)
    for count in range(1, len(STAGES) + 1):
        yield subject.explainer.on(classifier().randomised(STAGES[:count], 0)).maps(subject.batch)


def randomisation_rows() -> list[Row]:
    """Cascading randomisation against MPRT, which explains with our randomised classifiers instead of its own."""

    def mprt(subject: Subject, similarity: Callable[..., float], **options: Any) -> Any:
        maps = randomised_maps(subject)
        metric = quantus.MPRT(similarity_func=similarity, layer_order="top_down", **options, **QUIET)
        given = as_quantus(subject) | {"a_batch": subject.explainer.maps(subject.batch)[:, None].numpy()}
        return metric(**given, explain_func=lambda **_: next(maps)[:, None].numpy())

    def curve(subject: Subject, similarity: Callable[..., float]) -> Tensor:
        scores = mprt(subject, similarity)
        assert list(scores) == ["original", *(f"module.{stage}" for stage in STAGES)]
        return torch.tensor([scores[name] for name in list(scores)[1:]]).T

    def ours(name: str) -> Tensor:
        return over_subjects(lambda subject: subject.ours("randomisation").curves[name])

    rows = []
    for name, similarity in (("spearman", similarity_func.correlation_spearman), ("pc", similarity_func.correlation_pearson)):
        theirs = over_subjects(lambda subject, similarity=similarity: curve(subject, similarity))
        rows.append(
            Row(f"`randomisation`, {name} curve", "Quantus `MPRT`", "our randomised weights, every stage", ours(name), theirs)
        )
    average = over_subjects(
        lambda s: torch.tensor(mprt(s, similarity_func.correlation_spearman, return_average_correlation=True))
    )
    mean = over_subjects(lambda subject: subject.ours("randomisation").scores["spearman"])
    flat = over_subjects(lambda subject: curve(subject, similarity_func.ssim))
    reference, last = ([minmax(list(randomised_maps(s))[i]).double() for s in subjects()] for i in (0, -1))
    theirs = torch.cat([each(similarity_func.ssim, a, b, win_size=5) for a, b in zip(reference, last, strict=True)])
    return [
        *rows,
        Row(
            "`randomisation`, SSIM, last stage",
            "Quantus `ssim(win_size=5)`",
            "our randomised weights, min-max normalised maps",
            ours("ssim")[:, -1],
            theirs,
        ),
        Row(
            "`randomisation`, spearman",
            "Quantus `MPRT`, average",
            "it counts the intact classifier, whose similarity is 1, as one of the layers: it means to leave out a key "
            "`orig`, which is called `original`",
            mean,
            average,
            same=False,
        ),
        Row(
            "`randomisation`, spearman",
            "Quantus `MPRT`, average",
            "the same without it: (6 x theirs - 1) / 5",
            mean,
            (6 * average - 1) / 5,
        ),
        Row(
            "`randomisation`, SSIM curve",
            "Quantus `MPRT` with `ssim`",
            "it flattens the maps before it compares them, so that windows of 7 px run along rows only; ours are 5 x 5 "
            "px of min-max normalised maps",
            ours("ssim"),
            flat,
            same=False,
        ),
    ]
