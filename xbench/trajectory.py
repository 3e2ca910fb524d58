"""Trajectories: the classifier's answers on the way from an image to its fill, computed once and read by every metric.

An answer is what is kept of the logits: the probability and the logit of the class explained, and the divergence from the
prediction on the whole image. With a store, answers are kept beside the maps: those on removals along a map's order for every
metric that removes the same pixels, those on images that no map changes (the whole image, the completely filled one) for
every method too. Without a store each call asks for all that it needs.

Answers are kept for the images of one number in ``Batch.groups`` together, as maps are; other groups, say under another limit
on the images, ask again (own decision).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xbench.classifier import Classifier
from xbench.explainer import Explainer, MapStore
from xbench.fill import REDRAWN, Filler
from xbench.metric import Point
from xbench.ops.ranking import ranks
from xbench.perturb import MaskOf, all_logits, stream
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Images, Labels, Logits, Maps, Masks

VERSION = 1
"""Raised whenever the same names stand for other numbers, say after a fill has changed: stored answers are not read then."""
WHOLE = Point("whole", of_map=False)
"""The image as it is."""


class Removal(NamedTuple):
    """The image without its ``removed`` most (``top``) or least (``low``) important pixels.

    ``draw`` numbers the noise of a fill that draws anew for every mask; to other fills it makes no difference.
    """

    end: Literal["top", "low"]
    removed: int
    draw: int = 0


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is kept of the logits, (b, n) each: p_c, z_c, and KL(p(x) || p(perturbed x)) in nats."""

    probability: Tensor
    logit: Tensor
    kl: Tensor


def tenths(pixels: int) -> list[int]:
    """0, 10, .., 100 % of the pixels, rounded to whole ones."""
    return [(k * pixels + 5) // 10 for k in range(11)]


def points(family: str, removals: Sequence[Removal], pixels: int) -> list[Point]:
    """The points of removals from images of so many pixels, in order; ``family`` names the fill."""
    return [_point(family, removal, pixels) for removal in removals]


def follow(explainer: Explainer, batch: Batch, maps: Maps, family: str, filler: Filler, removals: Sequence[Removal]) -> Answers:
    """The answers (b, n) on every removal in the order of ``maps``, ties broken by draws that belong to the image.

    ``family`` names the fill among all that are stored: two fillers of one name must fill alike.
    """
    _, h, w = maps.shape
    pixels = h * w
    order = pixel_order(explainer, batch, maps)
    top, low = (
        torch.tensor([r.removed if r.end == end else 0 for r in removals], device=maps.device) for end in ("top", "low")
    )
    draw = torch.tensor([removal.draw for removal in removals], device=maps.device)

    def mask_of(image: Tensor, step: Tensor) -> Masks:
        position = order.index_select(0, image)
        return ((position >= top[step, None]) & (position < pixels - low[step, None])).view(-1, 1, h, w)

    def fill(image: Tensor, step: Tensor, keep: Masks) -> Images:
        return filler(image, draw[step], keep)

    return ask(explainer, batch, points(family, removals, pixels), mask_of, fill, order)


def pixel_order(explainer: Explainer, batch: Batch, maps: Maps) -> Tensor:
    """Position (b, h*w) of every pixel, 0 = most important, ties broken by draws that belong to the image; see ``ranks``."""
    return ranks(maps, ImageRandom(explainer.seed, batch.ids).uniform("ties", (maps[0].numel(),)))


def ask(
    explainer: Explainer, batch: Batch, asked: Sequence[Point], mask_of: MaskOf, fill: Filler, order: Tensor | None = None
) -> Answers:
    """The answers (b, n) on the images of points: ``mask_of`` and ``fill`` get positions in ``asked`` as steps.

    The whole image is asked about in any case. ``order`` (b, ...) is what the points ``of_map`` depend on beside the explainer,
    the images and their names.
    """
    classifier, x = explainer.classifier, batch.x
    logits = whole_logits(classifier, batch.ids, x, batch.groups, explainer.store)
    log_p = logits.log_softmax(1)
    place = {point: step for step, point in reversed(list(enumerate(asked)))}

    def of_group(rows: Tensor) -> Tensor:
        target = batch.target[rows]
        ids = [batch.ids[i] for i in rows.tolist()]
        known = {WHOLE.name: _answer(logits[rows], log_p[rows], target)}

        def compute(of_map: bool, names: list[str]) -> dict[str, Tensor]:
            steps = torch.tensor([place[Point(name, of_map)] for name in names], device=x.device)
            found = stream(
                classifier,
                x[rows],
                len(steps),
                lambda image, step: mask_of(rows[image], steps[step]),
                lambda image, step, keep: fill(rows[image], steps[step], keep),
                lambda part, image: _answer(part, log_p[rows[image]], target[image]),
            )
            return dict(zip(names, found.unbind(1), strict=True))

        for of_map in (False, True):
            names = [point.name for point in place if point.of_map == of_map and point != WHOLE]
            tag = _tag([target, order[rows]] if of_map and order is not None else [target])
            make = functools.partial(compute, of_map)
            if explainer.store is None:
                known |= make(names) if names else {}
            else:
                where = map_answers(explainer) if of_map else image_answers(classifier, explainer.seed)
                known |= explainer.store.answers(*where, ids, tag, names, make)
        return torch.stack([known[point.name].to(x) for point in asked], 1)

    values = x.new_empty(len(x), len(asked), 3)
    for rows in _groups(batch.groups, x):
        values[rows] = of_group(rows)
    return Answers(*values.unbind(2))


def whole_logits(
    classifier: Classifier, ids: Sequence[str], x: Images, groups: Sequence[int] | None, store: MapStore | None
) -> Logits:
    """The logits (b, k) of the images as they are, read from the store where they are there."""
    logits = x.new_empty(len(x), classifier.classes)
    for rows in _groups(groups, x):
        compute = functools.partial(_whole, classifier, x[rows])
        if store is None:
            found = compute([WHOLE.name])
        else:
            chosen = [ids[i] for i in rows.tolist()]
            found = store.answers(*whole_answers(classifier), chosen, "whole", [WHOLE.name], compute)
        logits[rows] = found[WHOLE.name].to(x)
    return logits


def _whole(classifier: Classifier, x: Images, names: list[str]) -> dict[str, Tensor]:
    logits = stream(classifier, x, 1, lambda i, _: torch.ones_like(x[i, :1]), lambda i, _, __: x[i], all_logits)
    return dict.fromkeys(names, logits[:, 0])


def whole_answers(classifier: Classifier) -> tuple[str, str]:
    """Key and label under which the logits of whole images are stored."""
    return digest(_asked_of(classifier)), f"{classifier.name}/whole"


def image_answers(classifier: Classifier, seed: int) -> tuple[str, str]:
    """Key and label under which answers are stored that do not depend on a map."""
    return digest([*_asked_of(classifier), seed]), f"{classifier.name}/images"


def map_answers(explainer: Explainer) -> tuple[str, str]:
    """Key and label under which answers are stored that depend on the explainer's maps."""
    return digest([*_asked_of(explainer.classifier), explainer.key]), f"{explainer.classifier.name}/{explainer.method.spec}"


def _asked_of(classifier: Classifier) -> list[Any]:
    """What identifies who answers: version, weights, precision."""
    return [VERSION, classifier.identity, classifier.arithmetic]


def _point(family: str, removal: Removal, pixels: int) -> Point:
    if removal.removed == 0:
        return WHOLE
    draw = f" draw {removal.draw}" if family in REDRAWN else ""
    if removal.removed == pixels:
        return Point(f"{family} all{draw}", of_map=False)
    return Point(f"{family} {removal.end} {removal.removed}{draw}", of_map=True)


def _answer(logits: Logits, log_p: Logits, y: Labels) -> Tensor:
    """Probability and logit of class ``y``, and divergence from ``log_p``: (n, 3)."""
    log_q = logits.log_softmax(1)
    of_class = [values.gather(1, y[:, None])[:, 0] for values in (log_q, logits)]
    return torch.stack([of_class[0].exp(), of_class[1], (log_p.exp() * (log_p - log_q)).sum(1)], 1)


def _groups(groups: Sequence[int] | None, x: Images) -> list[Tensor]:
    """The positions of the images of every group."""
    numbers = torch.tensor(list(groups or [0] * len(x)), device=x.device)
    return [(numbers == number).nonzero()[:, 0] for number in numbers.unique()]


def _tag(parts: Sequence[Tensor]) -> str:
    """What answers depend on beside their names."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.int().cpu().numpy().tobytes())
    return sha.hexdigest()[:16]
