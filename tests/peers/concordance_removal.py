"""Rows of the concordance table: metrics that remove pixels in the order of a map, and how removed pixels are imputed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import quantus
import torch
from concordance_rows import Row, Subject, classifier, over_subjects, registered
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from quantus.functions.perturb_func import noisy_linear_imputation
from torch import Tensor
from torchcam.metrics import DeletionInsertionMetric

from xbench import ImageRandom
from xbench.ops.imputation import linear_imputation

QUIET = {"abs": False, "normalise": False, "return_aggregate": False, "disable_warnings": True, "display_progressbar": False}


def removal_rows() -> list[Row]:
    """All rows of this file."""
    return [*deletion_rows(), *insertion_rows(), *imputation_rows(), *game_rows()]


class Given:
    """Hands torch-cam a map that is there already, where it expects an extractor."""

    def __init__(self, maps: Tensor) -> None:
        self.model, self.maps = classifier(), maps

    def __call__(self, *_args: object, **_options: object) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


def torchcam(column: str, **options: object) -> Tensor:
    """torch-cam's area of every image and map; the package only returns means, so that it gets one image at a time."""

    def of(subject: Subject) -> Tensor:
        values = []
        for i, y in enumerate(subject.batch.target.tolist()):
            metric = DeletionInsertionMetric(Given(subject.maps[i : i + 1]), lambda logits: logits.softmax(1), **options)
            metric.update(subject.batch.x[i : i + 1], y)
            values.append(metric.summary()[column])
        return torch.tensor(values)

    return over_subjects(of)


def as_quantus(subject: Subject) -> dict[str, object]:
    """The arguments of every call of a Quantus metric."""
    return {
        "model": classifier(),
        "x_batch": subject.batch.x.numpy(),
        "y_batch": subject.batch.target.numpy(),
        "a_batch": subject.maps[:, None].numpy(),
        "channel_first": True,
        "softmax": True,
        "device": "cpu",
    }


def deletion_rows() -> list[Row]:
    """Deletion against Quantus' pixel flipping and torch-cam."""
    gray = float(classifier().gray)

    def flipping(subject: Subject, **options: object) -> Tensor:
        metric = quantus.PixelFlipping(features_in_step=28, perturb_baseline=gray, **options, **QUIET)
        return torch.tensor(np.array(metric(**as_quantus(subject))))

    area = over_subjects(lambda subject: subject.ours("deletion").scores["auc"])
    curve = over_subjects(lambda subject: subject.ours("deletion").curves["probability"])
    points, theirs = over_subjects(flipping), over_subjects(lambda subject: flipping(subject, return_auc_per_sample=True))
    return [
        Row(
            "`deletion`, curve",
            "Quantus `PixelFlipping`",
            "28 px a step, gray; its curve begins after the first step",
            curve[:, 1:],
            points,
        ),
        Row(
            "`deletion`",
            "torch-cam `DeletionInsertionMetric`",
            "28 steps, gray",
            area,
            torchcam("deletion_auc", steps=28, baseline=torch.full((1, 1, 1, 1), gray)),
        ),
        Row(
            "`deletion`",
            "Quantus `PixelFlipping`",
            "its area is a sum over steps: it is not divided by their number, and lacks the trapezoid before the first step",
            area,
            theirs,
            same=False,
        ),
        Row(
            "`deletion`",
            "Quantus `PixelFlipping`",
            "the same area with that trapezoid added, divided by 28",
            area,
            (theirs + (curve[:, 0] + curve[:, 1]) / 2) / 28,
        ),
        Row(
            "`deletion`",
            "torch-cam, as it comes",
            "20 steps, and black in the space of the model's input, which for a model that takes [0, 1] is not its mean pixel",
            area,
            torchcam("deletion_auc"),
            same=False,
        ),
    ]


def insertion_rows() -> list[Row]:
    """Insertion against torch-cam."""
    if not registered("insertion"):
        return []
    from xbench.metrics.insertion import substrate

    area = over_subjects(lambda subject: subject.ours("insertion").scores["auc"])
    return [
        Row(
            "`insertion`",
            "torch-cam `DeletionInsertionMetric`",
            "28 steps, our blurred image as baseline",
            area,
            torchcam("insertion_auc", steps=28, baseline=substrate),
        ),
        Row(
            "`insertion`",
            "torch-cam, as it comes",
            "20 steps, from black instead of a blurred image",
            area,
            torchcam("insertion_auc"),
            same=False,
        ),
    ]


def missing_pixels(subject: Subject, tenths: int) -> Tensor:
    """The top pixels (b, h * w) bool that the game removes."""
    count = (tenths * subject.maps[0].numel() + 5) // 10
    return subject.ranked.flatten(1) >= 1 - (count - 0.5) / subject.maps[0].numel()


def imputation_rows() -> list[Row]:
    """The imputation without its noise, of half of the pixels."""

    def ours(subject: Subject) -> Tensor:
        return linear_imputation(subject.batch.x.double(), (~missing_pixels(subject, 5)).double().view(-1, 1, 28, 28))

    def of_quantus(subject: Subject) -> Tensor:
        pairs = zip(subject.batch.x.double().numpy(), missing_pixels(subject, 5).numpy(), strict=True)
        return torch.tensor(np.array([noisy_linear_imputation(x, np.flatnonzero(missing), noise=0) for x, missing in pairs]))

    def of_grad_cam(subject: Subject) -> Tensor:
        pairs = zip(subject.batch.x, missing_pixels(subject, 5), strict=True)
        return torch.stack([NoisyLinearImputer(noise=0)(x, (~missing).float().view(28, 28)) for x, missing in pairs])

    note = "every pixel of images of which half is missing"
    a = over_subjects(ours)
    return [
        Row("fill `linear` without noise", "Quantus `noisy_linear_imputation`", note, a, over_subjects(of_quantus)),
        Row(
            "fill `linear` without noise",
            "pytorch-grad-cam `NoisyLinearImputer`",
            f"{note}, in float32",
            a,
            over_subjects(of_grad_cam),
        ),
    ]


def softmax_of(y: int) -> Callable[[Tensor], Tensor]:
    """A target of pytorch-grad-cam: the probability of the class."""
    return lambda logits: logits.softmax(-1)[y]


def removed_by_grad_cam(subject: Subject, remove: type[RemoveMostRelevantFirst], most: bool) -> Tensor:
    """Probabilities (b, 9) by the peer's ROAD with as many missing pixels, and the noise on them, as in our game."""
    pixels, rows = subject.maps[0].numel(), []
    for i, y in enumerate(subject.batch.target.tolist()):
        row = []
        for tenths in range(1, 10):
            missing = tenths if most else 10 - tenths
            top = (tenths * pixels + 5) // 10
            count = top if most else pixels - top
            noise = 0.01 * ImageRandom(0, [subject.batch.ids[i]]).normal("fill", (1, 28, 28), missing)[0]

            def imputed(x: Tensor, mask: Tensor, noise: Tensor = noise) -> Tensor:
                return NoisyLinearImputer(noise=0)(x, mask) + noise * (mask == 0)

            # Between two of the peer's order statistics, so that exactly ``count`` pixels lie above.
            metric = PerturbationConfidenceMetric(remove(100 * (pixels - count - 0.5) / (pixels - 1), imputed))
            cams, x = subject.ranked[i : i + 1].numpy(), subject.batch.x[i : i + 1]
            row.append(float(metric(x, cams, [softmax_of(y)], classifier(), return_diff=False)[0]))
        rows.append(row)
    return torch.tensor(rows)


def game_rows() -> list[Row]:
    """The game against ROAD."""

    def combined(subject: Subject) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            targets = [softmax_of(y) for y in subject.batch.target.tolist()]
            return torch.tensor(ROADCombined()(subject.batch.x, subject.ranked.numpy(), targets, classifier()))

    def accuracy(subject: Subject) -> Tensor:
        state = np.random.get_state()
        np.random.seed(0)
        scores = quantus.ROAD(percentages=list(range(10, 100, 10)), **QUIET)(**as_quantus(subject))
        np.random.set_state(state)
        return torch.tensor([float(scores[p]) for p in range(10, 100, 10)])

    curves = {
        name: over_subjects(lambda s, name=name: s.ours("game").curves[name][:, 1:10]) for name in ("deletion", "insertion")
    }
    most = over_subjects(lambda s: removed_by_grad_cam(s, RemoveMostRelevantFirst, most=True))
    least = over_subjects(lambda s: removed_by_grad_cam(s, RemoveLeastRelevantFirst, most=False))
    overall = over_subjects(lambda s: s.ours("game").scores["overall"])
    mean_deletion = over_subjects(lambda s: s.ours("game").curves["deletion"][:, 1:10].mean(0))
    return [
        Row(
            "`game`, deletion curve",
            "pytorch-grad-cam ROAD, most relevant first",
            "as many pixels, and our noise on its imputation",
            curves["deletion"],
            most,
        ),
        Row(
            "`game`, insertion curve",
            "pytorch-grad-cam ROAD, least relevant first",
            "as many pixels, and our noise on its imputation",
            curves["insertion"],
            least,
        ),
        Row(
            "`game`, overall x 11/18",
            "pytorch-grad-cam `ROADCombined`, as it comes",
            "other draws of the noise; at some percentiles it removes one pixel more or less, as it thresholds at an "
            "interpolated percentile; half the difference, over 9 points instead of 11",
            overall * 11 / 18,
            over_subjects(combined),
            same=False,
        ),
        Row(
            "`game`, mean deletion curve",
            "Quantus `ROAD`, as it comes",
            "the share of images still classified as the class instead of its probability; rounds the number of pixels "
            "down; other draws of the noise",
            mean_deletion,
            over_subjects(accuracy),
            same=False,
        ),
    ]
