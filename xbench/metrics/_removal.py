"""What metrics share that remove pixels in the order of a map, and what deletion and insertion share: the steps."""

from __future__ import annotations

import torch

from xbench.classifier import Classifier, Passes
from xbench.method import Method
from xbench.metric import Metric, Point, Scored
from xbench.trajectory import Answers, Removal, points

STEPS = 28


class Removing(Metric):
    """A metric of the classifier's answers along one list of removals; what it takes is what these are."""

    @property
    def family(self) -> str:
        """The name of the fill among the answers that are stored."""
        raise NotImplementedError

    def removals(self, pixels: int) -> list[Removal]:
        """What is removed at every point, of so many pixels."""
        raise NotImplementedError

    def points(self, method: Method, classifier: Classifier) -> list[Point]:
        """The points of the removals."""
        pixels = classifier.shape[1] * classifier.shape[2]
        return points(self.family, self.removals(pixels), pixels)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass per point."""
        return Passes(forward=len(self.points(method, classifier)))


def removed_counts(pixels: int) -> list[int]:
    """Pixels removed at every point of the curve: 0, then steps of ceil(pixels / 28), at last all ``pixels``."""
    return [*range(0, pixels, -(-pixels // STEPS)), pixels]


def area_under_curve(answers: Answers, pixels: int) -> Scored:
    """The score ``auc`` (b,) and the curve ``probability`` (b, points): p_c at every one of ``removed_counts``.

    The area is by trapezoid against the exact share of pixels taken.
    """
    curve = answers.probability
    share = curve.new_tensor(removed_counts(pixels)) / pixels
    return Scored({"auc": torch.trapezoid(curve, share, dim=1)}, {"probability": curve})
