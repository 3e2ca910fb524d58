"""What deletion and insertion share: the steps."""

from __future__ import annotations

import torch

from xbench.metric import Scored
from xbench.trajectory import Answers

STEPS = 28


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
