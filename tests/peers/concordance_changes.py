"""Rows of the concordance table: metrics that compare what a map says with what small changes of the image do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import quantus
import torch
from captum.metrics import infidelity, sensitivity_max
from concordance_removal import QUIET, as_quantus
from concordance_rows import Row, Subject, classifier, over_subjects, registered, subjects
from quantus.functions.norm_func import fro_norm
from quantus.functions.similarity_func import distance_euclidean
from torch import Tensor

from xbench import METRICS, Explainer, ImageRandom
from xbench.ops.normalise import minmax

CALLS = 20


def change_rows() -> list[Row]:
    """All rows of this file."""
    return [*lipschitz_rows(), *infidelity_rows(), *sensitivity_rows()]


@dataclasses.dataclass(frozen=True)
class Recorder(Explainer):
    """Keeps every image that it is asked to explain."""

    asked: list[Tensor] = dataclasses.field(default_factory=list)

    def __call__(self, x: Tensor, y: Tensor, ids: list[str]) -> Tensor:
        self.asked.append(x)
        return super().__call__(x, y, ids)


def explained(subject: Subject, normalise: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Our method as Quantus calls it, on all images of the subject."""

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        x = torch.as_tensor(inputs)
        return normalise(subject.explainer(x, subject.batch.target, subject.batch.ids))[:, None].numpy()

    return explain


def lipschitz_rows() -> list[Row]:
    """Stability without a search, against Quantus' estimate at the same points."""

    def made(subject: Subject, normalise: Callable[[Tensor], Tensor], column: str) -> tuple[Tensor, Tensor]:
        recorder = Recorder(subject.explainer.method, classifier())
        clean = subject.explainer.maps(subject.batch)
        scored = METRICS.make(f"stability(random_calls={CALLS}, calls=0)")(recorder, subject.batch, clean)
        points = (image.numpy() for asked in recorder.asked for image in asked)
        metric = quantus.LocalLipschitzEstimate(
            nr_samples=CALLS,
            norm_numerator=distance_euclidean,
            norm_denominator=distance_euclidean,
            perturb_func=lambda arr, indices, **_: next(points),
            **QUIET,
        )
        given = as_quantus(subject) | {"a_batch": normalise(clean)[:, None].numpy()}
        return scored.scores[column], torch.tensor(np.array(metric(**given, explain_func=explained(subject, normalise))))

    def default(subject: Subject) -> Tensor:
        state = np.random.get_state()
        np.random.seed(0)
        metric = quantus.LocalLipschitzEstimate(nr_samples=CALLS, disable_warnings=True)
        scores = metric(**as_quantus(subject), explain_func=explained(subject, lambda maps: maps))
        np.random.set_state(state)
        return torch.tensor(np.array(scores))

    pairs = {
        column: [torch.cat(values) for values in zip(*(made(s, normalise, column) for s in subjects()), strict=True)]
        for column, normalise in (("lipschitz", minmax), ("lipschitz_raw", lambda maps: maps))
    }
    peer, note = "Quantus `LocalLipschitzEstimate`", f"at the same {CALLS} points, no search"
    return [
        Row("`stability`", peer, f"{note}; min-max normalised maps", *pairs["lipschitz"]),
        Row("`stability`, raw maps", peer, note, *pairs["lipschitz_raw"]),
        Row(
            "`stability`",
            f"{peer}, as it comes",
            f"{CALLS} Gaussian points of standard deviation 0.1 instead of a ball of 0.05; "
            "maps divided by their largest absolute value",
            pairs["lipschitz"][0],
            over_subjects(default),
            same=False,
        ),
    ]


def infidelity_rows() -> list[Row]:
    """Infidelity against Captum with the same perturbations, and against Quantus."""
    if not registered("infidelity"):
        return []
    metric = METRICS.make("infidelity")

    def captum(subject: Subject, normalize: bool) -> Tensor:
        x, ids = subject.batch.x, subject.batch.ids
        draws = [ImageRandom(0, ids).normal("perturbation", x.shape[1:], step) for step in range(1, metric.draws + 1)]
        noise = metric.std * torch.stack(draws, 1).flatten(0, 1)

        def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
            return noise, inputs - noise

        maps = subject.maps[:, None].expand_as(x)
        return infidelity(
            classifier(), perturb, x, maps, target=subject.batch.target, n_perturb_samples=metric.draws, normalize=normalize
        )

    def default(subject: Subject) -> Tensor:
        found = quantus.Infidelity(n_perturb_samples=1, **QUIET)(**as_quantus(subject))
        return torch.tensor(np.array(found))

    ours = {name: over_subjects(lambda s, name=name: s.ours("infidelity").scores[name]) for name in ("infidelity", "scaled")}
    note = f"the same {metric.draws} perturbations"
    return [
        Row(
            "`infidelity`, as it is", "Captum `infidelity`", note, ours["infidelity"], over_subjects(lambda s: captum(s, False))
        ),
        Row(
            "`infidelity`, scaled",
            "Captum `infidelity(normalize=True)`",
            note,
            ours["scaled"],
            over_subjects(lambda s: captum(s, True)),
        ),
        Row(
            "`infidelity`, as it is",
            "Quantus `Infidelity`, as it comes",
            "probability instead of logit; patches of 4 px are blackened one after the other and stay black; the map "
            "and the change are multiplied as matrices, not pixel by pixel",
            ours["infidelity"],
            over_subjects(default),
            same=False,
        ),
    ]


def sensitivity_rows() -> list[Row]:
    """Sensitivity-max against Captum and Quantus with the same draws."""
    if not registered("sensitivity-max"):
        return []
    metric = METRICS.make("sensitivity-max")

    def moved(subject: Subject) -> Tensor:
        x, rng = subject.batch.x, ImageRandom(0, subject.batch.ids)
        draws = [rng.uniform("ball", x.shape[1:], step) for step in range(metric.draws)]
        return x[:, None] + metric.radius * (2 * torch.stack(draws, 1) - 1)

    def ours(subject: Subject) -> Tensor:
        return METRICS.make("sensitivity-max")(subject.explainer, subject.batch, subject.explainer.maps(subject.batch)).scores[
            "sensitivity_max"
        ]

    def captum(subject: Subject) -> Tensor:
        def explain(inputs: Any, target: Tensor) -> Any:
            x = inputs[0] if isinstance(inputs, tuple) else inputs
            maps = subject.explainer(x, target, [str(i) for i in range(len(x))])
            return (maps,) if isinstance(inputs, tuple) else maps

        points = moved(subject).flatten(0, 1)
        return sensitivity_max(
            explain, subject.batch.x, lambda inputs: points, n_perturb_samples=metric.draws, target=subject.batch.target
        )

    def of_quantus(subject: Subject) -> Tensor:
        points = (image.numpy() for step in moved(subject).transpose(0, 1) for image in step)
        theirs = quantus.MaxSensitivity(
            nr_samples=metric.draws,
            norm_numerator=fro_norm,
            norm_denominator=fro_norm,
            perturb_func=lambda arr, indices, **_: next(points),
            **QUIET,
        )
        given = as_quantus(subject) | {"a_batch": subject.explainer.maps(subject.batch)[:, None].numpy()}
        return torch.tensor(np.array(theirs(**given, explain_func=explained(subject, lambda maps: maps))))

    values, note = over_subjects(ours), f"the same {metric.draws} draws"
    return [
        Row("`sensitivity-max`", "Captum `sensitivity_max`", note, values, over_subjects(captum)),
        Row("`sensitivity-max`", "Quantus `MaxSensitivity`", note, values, over_subjects(of_quantus)),
    ]
